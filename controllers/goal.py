"""A place to go to: a path that leads there, and another one when the robot has strayed from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from motionlex.controllers.com_path import ComPath
from motionlex.data.errors import UserError

WALK_MPS = 0.5
"""Speed towards a goal [m/s]."""
GAIN_MPS2 = 0.7
"""How fast that speed is reached [m/s^2]."""
TURN_RPS = 0.35
"""Rate of turning towards it [rad/s]."""
AHEAD_RAD = 0.5
"""Largest angle to the goal at which the robot walks while it turns."""
SLOW_S = 0.6
"""Time constant of the last steps: from ``WALK_MPS * SLOW_S`` on, speed falls with the distance [s]."""
ARRIVED_M = 0.3
"""Distance to the goal at which the robot is there [m]."""
ASTRAY_M = 0.5
"""Distance to the path at which another one is made [m]."""
PATIENCE_S = 1.0
"""Time after the end of a path until another one is made of what is left [s]."""
FARTHEST_M = 100.0
"""Largest distance to a goal [m]."""
TICK_S = 0.05
"""Time between the points of a path [s]."""
SHORTEST_M = 0.005
"""Least distance between two points of a way that has not ended [m]."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A place on the floor where the centre of mass is to be, by walking forward as far as that is possible."""

    xy: Float[np.ndarray, " 2"]
    """The place [m] in the frame of the paths."""

    def __post_init__(self) -> None:
        if not np.all(np.isfinite(self.xy)):
            raise UserError(f"a goal must be two finite numbers of metres, got {self.xy.tolist()}")

    def path_from(self, time: float, xy: Float[np.ndarray, " 2"], yaw: float, speed: float = 0.0) -> ComPath:
        """Return a path from a pose to the goal: it turns until the goal is ahead, walks there and slows down.

        Args:
            time: When it begins [s].
            xy: Where it begins [m].
            yaw: Heading there [rad].
            speed: Speed there [m/s].
        """
        (goal_x, goal_y), (x, y) = self.xy.tolist(), xy.tolist()
        points, headings, left = [(x, y)], [yaw], math.hypot(goal_x - x, goal_y - y)
        while left > 1e-3:
            off = math.remainder(math.atan2(goal_y - y, goal_x - x) - yaw, 2 * math.pi)
            turned = min(max(off, -TURN_RPS * TICK_S), TURN_RPS * TICK_S)
            yaw += turned
            if abs(off - turned) < AHEAD_RAD:
                speed = min(speed + TICK_S * GAIN_MPS2, WALK_MPS, left / SLOW_S)
                step = min(left, max(SHORTEST_M, TICK_S * speed))
                x, y = x + step * (goal_x - x) / left, y + step * (goal_y - y) / left
                left -= step
            else:
                speed = 0.0
            points.append((x, y))
            headings.append(yaw)
        rest = max(2 - len(points), 0)
        times = time + TICK_S * np.arange(len(points) + rest)
        return ComPath(time=times, xy=np.array([*points, *rest * [(x, y)]]), yaw=np.array([*headings, *rest * [yaw]]))

    def strayed(self, path: ComPath, time: float, xy: Float[np.ndarray, " 2"]) -> bool:
        """Tell whether a robot that followed a path to the goal needs another one.

        Args:
            path: What it follows.
            time: Present time [s].
            xy: Where its centre of mass is [m].
        """
        wanted = path.at(np.array([time]))[0][0]
        off, left = float(np.linalg.norm(wanted - xy)), float(np.linalg.norm(self.xy - xy))
        return off > ASTRAY_M or (time > float(path.time[-1]) + PATIENCE_S and left > ARRIVED_M)
