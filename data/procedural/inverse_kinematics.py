"""Closed-form inverse kinematics of the H1's five-joint legs, for all frames at once.

Leg: hip yaw (z), roll (x), pitch (y), knee (y), ankle (y). There is no ankle roll, so a foot has five
coordinates to choose: position, heading and pitch; its roll follows from the hip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

HIP_YAW = np.array([0.0, 0.0875, -0.1742])
"""Left hip yaw axis in the pelvis frame [m]; the right one has y negated."""
HIP_ROLL_X = 0.039468
"""Roll axis ahead of the yaw axis [m]."""
HIP_PITCH_Y = 0.11536
"""Pitch axis outside the roll axis [m]."""
LINK = 0.4
"""Length of thigh and of shank [m]."""
SOLE = 0.07
"""Height of the ankle above the sole [m]."""
HEEL, TOE = -0.04, 0.15
"""Ends of the sole relative to the ankle [m]."""
HALF_SOLE = 0.02
"""Half width of the sole under the ankle [m]."""
MIN_KNEE = 0.08
"""Smallest knee angle [rad] of a solution, away from the singularity."""
SOFT_KNEE = 0.3
"""Knee angle [rad] below which ``excess`` asks for a lower body: knees that straighten move abruptly."""


@dataclass(frozen=True, kw_only=True)
class LegSolution:
    """Angles of one leg."""

    angles: Float[np.ndarray, "frame 5"]
    """Yaw, roll, pitch, knee, ankle [rad]."""
    excess: Float[np.ndarray, " frame"]
    """How much shorter [m] the leg should be for a knee bent by ``SOFT_KNEE``; 0 where it is."""
    miss: Float[np.ndarray, " frame"]
    """By how much [m] the foot misses its target; 0 where it is within reach."""
    roll: Float[np.ndarray, " frame"]
    """Roll of the foot against the floor [rad], positive with its left edge up."""


def axis_rotation(axis: int, angle: Float[np.ndarray, " frame"]) -> Float[np.ndarray, "frame 3 3"]:
    """Return rotations about a coordinate axis by ``angle`` [rad]."""
    c, s = np.cos(angle), np.sin(angle)
    out = np.zeros((len(angle), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1.0
    out[:, i, i] = out[:, j, j] = c
    out[:, i, j], out[:, j, i] = -s, s
    return out


def sole_lift(pitch: Float[np.ndarray, " frame"], roll: Float[np.ndarray, " frame"]) -> Float[np.ndarray, " frame"]:
    """Return how far the sole's point under the ankle must rise so that toe, heel and edges stay out of the floor."""
    tip = np.where(pitch > 0, TOE * np.sin(pitch), HEEL * np.sin(pitch))
    return tip + HALF_SOLE * np.abs(np.sin(roll))


def solve_leg(
    side: float,
    pelvis: Float[np.ndarray, "frame 3"],
    rotation: Float[np.ndarray, "frame 3 3"],
    sole: Float[np.ndarray, "frame 3"],
    yaw: Float[np.ndarray, " frame"],
    pitch: Float[np.ndarray, " frame"],
    *,
    iterations: int = 4,
) -> LegSolution:
    """Solve one leg for all frames.

    Args:
        side: 1 left, -1 right.
        pelvis: Position of the pelvis [m].
        rotation: Orientation of the pelvis.
        sole: Wanted point of the sole under the ankle, with its height above the floor [m].
        yaw: Wanted heading of the foot [rad].
        pitch: Wanted toe-down pitch of the foot [rad].
        iterations: Rounds in which yaw and roll of the foot are corrected for each other.
    """
    hip = HIP_YAW * np.array([1.0, side, 1.0])
    heading = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    q1 = np.angle(np.exp(1j * (yaw - heading)))
    foot = axis_rotation(2, yaw)
    roll = np.zeros(len(yaw))
    for _ in range(iterations):
        ankle = sole - foot @ np.array([0.0, 0.0, -SOLE])
        ankle[:, 2] = sole[:, 2] + sole_lift(pitch, roll) + SOLE * np.cos(roll) * np.cos(pitch)
        local = np.einsum("fji,fj->fi", rotation, ankle - pelvis) - hip
        u = np.einsum("fji,fj->fi", axis_rotation(2, q1), local) - np.array([HIP_ROLL_X, 0.0, 0.0])
        d = side * HIP_PITCH_Y
        h = np.sqrt(np.maximum(u[:, 1] ** 2 + u[:, 2] ** 2 - d**2, 1e-6))
        q2 = np.arctan2(u[:, 2], u[:, 1]) - np.arctan2(-h, d)
        q2 = np.angle(np.exp(1j * q2))
        base = rotation @ axis_rotation(2, q1) @ axis_rotation(0, q2)
        amplitude = np.hypot(base[:, 2, 0], base[:, 2, 2])
        total = np.arctan2(base[:, 2, 0], base[:, 2, 2]) + np.arcsin(np.clip(np.sin(pitch) / amplitude, -1, 1))
        foot = base @ axis_rotation(1, total)
        roll = np.arcsin(np.clip(foot[:, 2, 1], -1, 1))
        q1 = q1 + np.angle(np.exp(1j * (yaw - np.arctan2(foot[:, 1, 0], foot[:, 0, 0]))))
    length = np.hypot(u[:, 0], h)
    reach, soft = (2 * LINK * np.cos(knee / 2) for knee in (MIN_KNEE, SOFT_KNEE))
    knee = 2 * np.arccos(np.clip(np.minimum(length, reach) / (2 * LINK), -1, 1))
    q3 = np.arctan2(-u[:, 0], h) - knee / 2
    angles = np.stack((q1, q2, q3, knee, total - q3 - knee), axis=1)
    return LegSolution(
        angles=angles, excess=np.maximum(length - soft, 0.0), miss=np.maximum(length - reach, 0.0), roll=roll
    )
