"""The plan that runs: one segment after the other, where they stand in the world, and how far the robot has got."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.placement import Placement, clamp_anchor
from motionlex.controllers.planner import Segment, joined_late
from motionlex.controllers.stack_state import StackConfig

MOST_LATE = 8
"""Frames that a segment goes on for while the next is late, if control steps do not wait."""
Root = tuple[Float[np.ndarray, " 2"], float]
"""Position [m] and heading [rad] of a root."""


class RunningPlan:
    """One segment, its place and its present frame."""

    def __init__(self, config: StackConfig) -> None:
        """Begin without a segment.

        Args:
            config: How plan and robot are held together.
        """
        self._config = config
        self.clear()

    def clear(self) -> None:
        """Forget the segment; the plan frame is the world's."""
        self.placement = Placement(xy=np.zeros(2), yaw=0.0)
        self.segment: Segment | None = None
        self.frames = (np.zeros((0, 26)), np.zeros((0, 25)))
        """Positions and velocities of the segment, in the world."""
        self.cursor = 0
        """Frame of the segment that is planned for now."""

    @property
    def over(self) -> bool:
        """Whether the next segment should begin."""
        return self.segment is None or self.cursor >= REPLAN_FRAMES

    @property
    def can_go_on(self) -> bool:
        """Whether there are frames for one that is late."""
        return self.segment is not None and self.cursor < REPLAN_FRAMES + MOST_LATE

    @property
    def rest(self) -> Float[np.ndarray, "frame coordinate"]:
        """Positions from now to the end of the segment, in the world; none without one."""
        return self.frames[0][self.cursor :]

    def follow(self, anchor: Root, robot: Root) -> None:
        """Move the plan rigidly until planned and measured root are within the limits.

        Args:
            anchor: Root that is planned for now, in the plan frame.
            robot: Root as measured, in the world.
        """
        xy, yaw = clamp_anchor(
            self.placement.points(anchor[0][None])[0],
            anchor[1] + self.placement.yaw,
            *robot,
            max_offset=self._config.max_offset,
            max_turn=self._config.max_turn,
        )
        self.placement = Placement.carrying(*anchor, xy, yaw)

    def begin(self, segment: Segment, frame: int = 0) -> None:
        """Execute a segment from a frame on."""
        self.segment, self.cursor = segment, frame
        self.frames = self.placement.state(segment.qpos, segment.qvel)

    def take_over(self, late: Segment, robot: Root) -> None:
        """Execute a segment that should have begun some frames ago, from where it would be by now.

        Args:
            late: The segment.
            robot: Root as measured, in the world.
        """
        assert self.segment is not None
        behind = self.cursor - REPLAN_FRAMES
        blended = min(self._config.blend_frames, REPLAN_FRAMES - behind)  # what the planner goes on from stays as it is
        segment = joined_late(self.segment, self.cursor, late, behind, blended)
        self.follow(segment.anchor(behind), robot)
        self.begin(segment, behind)
