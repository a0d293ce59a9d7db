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
SOFT_KNEE = 0.24
"""Knee angle [rad] below which ``excess`` asks for a lower body: knees that straighten move abruptly."""


@dataclass(frozen=True, kw_only=True)
class SoleTarget:
    """Where one sole shall be."""

    point: Float[np.ndarray, "frame 3"]
    """Point of the sole under the ankle, its z the clearance of the lowest point of the sole [m]."""
    yaw: Float[np.ndarray, " frame"]
    """Heading of the foot [rad]."""
    pitch: Float[np.ndarray, " frame"]
    """Toe-down pitch of the foot [rad]."""


@dataclass(frozen=True, kw_only=True)
class LegSolution:
    """Angles of one leg."""

    angles: Float[np.ndarray, "frame 5"]
    """Yaw, roll, pitch, knee, ankle [rad]."""
    excess: Float[np.ndarray, " frame"]
    """How much shorter [m] the leg should be for a knee bent by ``SOFT_KNEE``; 0 where it is."""
    miss: Float[np.ndarray, " frame"]
    """By how much [m] the foot misses its target; 0 where it is within reach."""


def axis_rotation(axis: int, angle: Float[np.ndarray, " frame"]) -> Float[np.ndarray, "frame 3 3"]:
    """Return rotations about a coordinate axis by ``angle`` [rad]."""
    c, s = np.cos(angle), np.sin(angle)
    out = np.zeros((len(angle), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1.0
    out[:, i, i] = out[:, j, j] = c
    out[:, i, j], out[:, j, i] = -s, s
    return out


def sole_lift(
    pitch: Float[np.ndarray, " frame"], sine_roll: Float[np.ndarray, " frame"]
) -> Float[np.ndarray, " frame"]:
    """Return how far the sole's point under the ankle must rise so that toe, heel and edges stay out of the floor."""
    tip = np.where(pitch > 0, TOE * np.sin(pitch), HEEL * np.sin(pitch))
    return tip + HALF_SOLE * np.abs(sine_roll)


@dataclass(frozen=True)
class _Chain:
    """A leg whose yaw is given and whose foot is where it should be, but for its heading."""

    roll_angle: Float[np.ndarray, " frame"]
    pitch_sum: Float[np.ndarray, " frame"]
    forward: Float[np.ndarray, " frame"]
    down: Float[np.ndarray, " frame"]
    foot: Float[np.ndarray, "frame 3 3"]
    turned: Float[np.ndarray, " frame"]


def solve_leg(
    side: float,
    pelvis: Float[np.ndarray, "frame 3"],
    rotation: Float[np.ndarray, "frame 3 3"],
    target: SoleTarget,
    start: Float[np.ndarray, " frame"] | None = None,
    *,
    iterations: int = 3,
) -> LegSolution:
    """Solve one leg for all frames: closed form given the hip yaw, Newton's method for the yaw.

    Args:
        side: 1 left, -1 right.
        pelvis: Position of the pelvis [m].
        rotation: Orientation of the pelvis.
        target: Where the sole shall be.
        start: First guess of the hip yaw [rad]; None for the difference of the headings.
        iterations: Newton steps.
    """
    pelvis_heading = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    q1 = _wrap(target.yaw - pelvis_heading) if start is None else start.copy()
    foot = axis_rotation(2, target.yaw) @ axis_rotation(1, target.pitch)
    for _ in range(iterations):
        chain = _chain(side, pelvis, rotation, target, q1, foot)
        slope = (_chain(side, pelvis, rotation, target, q1 + 1e-4, foot).turned - chain.turned) / 1e-4
        slope = np.where(np.abs(slope) < 0.2, -0.2, slope)
        q1 = q1 - np.clip(chain.turned / slope, -0.2, 0.2)
        foot = chain.foot
    chain = _chain(side, pelvis, rotation, target, q1, foot)
    length = np.hypot(chain.forward, chain.down)
    reach, soft = (2 * LINK * np.cos(knee / 2) for knee in (MIN_KNEE, SOFT_KNEE))
    knee = 2 * np.arccos(np.clip(np.minimum(length, reach) / (2 * LINK), -1, 1))
    q3 = np.arctan2(-chain.forward, chain.down) - knee / 2
    return LegSolution(
        angles=np.stack((q1, chain.roll_angle, q3, knee, chain.pitch_sum - q3 - knee), axis=1),
        excess=np.maximum(length - soft, 0.0),
        miss=np.maximum(length - reach, 0.0),
    )


def _chain(
    side: float,
    pelvis: Float[np.ndarray, "frame 3"],
    rotation: Float[np.ndarray, "frame 3 3"],
    target: SoleTarget,
    q1: Float[np.ndarray, " frame"],
    foot: Float[np.ndarray, "frame 3 3"],
) -> _Chain:
    """Close the chain below a given hip yaw; ``foot`` is the last orientation, which places the ankle over the sole."""
    ankle = target.point + SOLE * foot[:, :, 2]
    ankle[:, 2] += sole_lift(target.pitch, foot[:, 2, 1])
    local = np.einsum("fji,fj->fi", rotation, ankle - pelvis) - HIP_YAW * np.array([1.0, side, 1.0])
    c, s = np.cos(q1), np.sin(q1)
    forward, across, up = c * local[:, 0] + s * local[:, 1] - HIP_ROLL_X, c * local[:, 1] - s * local[:, 0], local[:, 2]
    offset = side * HIP_PITCH_Y
    down = np.sqrt(np.maximum(across**2 + up**2 - offset**2, 1e-6))
    q2 = _wrap(np.arctan2(up, across) - np.arctan2(-down, offset))
    base = rotation @ axis_rotation(2, q1) @ axis_rotation(0, q2)
    x, z = base[:, 2, 0], base[:, 2, 2]
    total = np.arctan2(x, z) + np.arcsin(np.clip(np.sin(target.pitch) / np.hypot(x, z), -1, 1))
    new = base @ axis_rotation(1, total)
    turned = _wrap(np.arctan2(new[:, 1, 0], new[:, 0, 0]) - target.yaw)
    return _Chain(q2, total, forward, down, new, turned)


def _wrap(angle: Float[np.ndarray, " frame"]) -> Float[np.ndarray, " frame"]:
    return np.angle(np.exp(1j * angle))
