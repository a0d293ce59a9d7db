"""Where the plan stands in the world: a horizontal rigid motion that follows the robot when it falls behind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from motionlex.controllers.conditions import to_local
from motionlex.data import quaternion


def clamp_anchor(
    planned_xy: Float[np.ndarray, " 2"],
    planned_yaw: float,
    measured_xy: Float[np.ndarray, " 2"],
    measured_yaw: float,
    *,
    max_offset: float,
    max_turn: float,
) -> tuple[Float[np.ndarray, " 2"], float]:
    r"""Move the planned root towards the measured one until both offsets are within their limits.

    .. math:: p' = p_m + d \min(1, d_{max} / \lVert d \rVert), \quad d = p_p - p_m

    and likewise for the heading. A plan within the limits is not moved at all: it may lead the robot, which is what
    makes the tracker walk, but it may not run away from it.

    Args:
        planned_xy: Planned root [m], world.
        planned_yaw: Planned heading [rad], world.
        measured_xy: Measured root [m], world.
        measured_yaw: Measured heading [rad], world.
        max_offset: Largest distance [m].
        max_turn: Largest difference of headings [rad].

    Returns:
        Where the planned root should be: position [m] and heading [rad].
    """
    offset = planned_xy - measured_xy
    distance = float(np.linalg.norm(offset))
    xy = planned_xy if distance <= max_offset else measured_xy + offset * (max_offset / distance)
    turn = quaternion.wrap_angle(planned_yaw - measured_yaw)
    yaw = planned_yaw if abs(turn) <= max_turn else measured_yaw + math.copysign(max_turn, turn)
    return xy, yaw


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Turns the plan frame about the vertical by ``yaw`` and then moves it by ``xy``."""

    xy: Float[np.ndarray, " 2"]
    """Where the origin of the plan frame is in the world [m]."""
    yaw: float
    """Heading of the plan frame in the world [rad]."""

    @classmethod
    def carrying(
        cls,
        plan_xy: Float[np.ndarray, " 2"],
        plan_yaw: float,
        world_xy: Float[np.ndarray, " 2"],
        world_yaw: float,
    ) -> Placement:
        """Return the placement that takes one pose of the plan frame to one pose of the world."""
        yaw = world_yaw - plan_yaw
        return cls(xy=world_xy - _turn(plan_xy[None], yaw)[0], yaw=yaw)

    def points(self, points: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "point 2"]:
        """Take horizontal points [m] from the plan frame to the world."""
        return _turn(points, self.yaw) + self.xy

    def points_to_plan(self, points: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "point 2"]:
        """Take horizontal points [m] from the world to the plan frame."""
        return to_local(points, self.xy, np.asarray(self.yaw))

    def state(
        self, qpos: Float[np.ndarray, "frame coordinate"], qvel: Float[np.ndarray, "frame velocity"]
    ) -> tuple[Float[np.ndarray, "frame coordinate"], Float[np.ndarray, "frame velocity"]]:
        """Take whole states from the plan frame to the world (angular velocities are in the base frame already)."""
        placed, moving = qpos.copy(), qvel.copy()
        placed[:, :2] = self.points(qpos[:, :2])
        placed[:, 3:7] = quaternion.multiply(quaternion.from_yaw(self.yaw), qpos[:, 3:7])
        moving[:, :2] = _turn(qvel[:, :2], self.yaw)
        return placed, moving


def _turn(points: Float[np.ndarray, "point 2"], yaw: float) -> Float[np.ndarray, "point 2"]:
    cosine, sine = math.cos(yaw), math.sin(yaw)
    return points @ np.array([[cosine, sine], [-sine, cosine]])
