"""What the centre of mass is to follow: a path, a velocity or a goal, one at a time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from motionlex.controllers.com_path import ComPath, VelocityCommand
from motionlex.controllers.goal import FARTHEST_M, TICK_S, Goal
from motionlex.data.errors import UserError
from motionlex.data.features import FeatureStatistics


class Course:
    """Holds one wish at a time, in time since the start and relative to where the centre of mass was then."""

    def __init__(self, statistics: FeatureStatistics) -> None:
        """Begin without a wish.

        Args:
            statistics: Of the motions that limit what may be asked for.
        """
        self._statistics = statistics
        self.path: ComPath | VelocityCommand | None = None
        """What is followed now."""
        self.goal: Goal | None = None
        """Where the path leads, if it was made for that."""

    def clear(self) -> None:
        """Follow nothing."""
        self.path = self.goal = None

    def halt(self, time: float) -> None:
        """Give up a velocity or a goal, which know no end, and a path that has ended; another path goes on.

        Args:
            time: Present time [s].
        """
        goes_on = isinstance(self.path, ComPath) and self.goal is None and time <= float(self.path.time[-1])
        if not goes_on:
            self.clear()

    def follow(self, path: ComPath, time: float, xy: Float[np.ndarray, " 2"], yaw: float) -> ComPath:
        """Follow a path that begins at a time [s], place [m] and heading [rad]; return it, limited in its speed."""
        begun = path.limited(self._statistics).begun(time, xy, yaw)
        self.clear()
        self.path = begun
        return begun

    def steer(
        self, forward: float, left: float, turn: float, time: float, xy: Float[np.ndarray, " 2"], yaw: float
    ) -> VelocityCommand:
        """Follow a velocity [m/s, m/s, rad/s] from a time [s], place [m] and heading [rad] on; return it, limited."""
        wanted = VelocityCommand(
            velocity=np.array([forward, left]), turn=turn, start_s=time, start_xy=xy, start_yaw=yaw
        )
        allowed = wanted.limited(self._statistics)
        self.clear()
        self.path = allowed
        return allowed

    def go_to(self, goal: Goal, time: float, xy: Float[np.ndarray, " 2"], yaw: float) -> None:
        """Follow paths that lead to a goal.

        Args:
            goal: Where to.
            time: Present time [s].
            xy: Present place of the centre of mass [m].
            yaw: Present heading [rad].

        Raises:
            UserError: If it is too far away.
        """
        if float(np.linalg.norm(goal.xy - xy)) > FARTHEST_M:
            raise UserError(f"a goal is at most {FARTHEST_M:g} m away")
        self.clear()
        self.goal = goal
        self.update(time, xy, yaw)

    def update(self, time: float, xy: Float[np.ndarray, " 2"], yaw: float) -> None:
        """Make a path to the goal if there is none yet, or the robot has strayed from the one before.

        Args:
            time: Present time [s].
            xy: Present place of the centre of mass [m].
            yaw: Present heading [rad].
        """
        if self.goal is None:
            return
        assert not isinstance(self.path, VelocityCommand)
        speed = 0.0
        if self.path is not None:
            if not self.goal.strayed(self.path, time, xy):
                return
            places, _ = self.path.at(np.array([time - TICK_S, time]))
            speed = float(np.linalg.norm(places[1] - places[0])) / TICK_S
        self.path = self.goal.path_from(time, xy, yaw, speed).limited(self._statistics)
