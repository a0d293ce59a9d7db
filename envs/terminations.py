"""When an episode ends early: the robot has lost its reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class TerminationLimits:
    """Largest errors against the reference before an episode ends."""

    height: float = 0.25
    """Root height [m]."""
    orientation: float = 0.8
    """Root orientation [rad]."""
    key_point: float = 0.5
    """Mean distance of the key points [m]."""


def lost(
    height_error: Float[np.ndarray, " env"],
    orientation_error: Float[np.ndarray, " env"],
    key_point_error: Float[np.ndarray, " env"],
    limits: TerminationLimits,
) -> Bool[np.ndarray, " env"]:
    """Tell which robots have lost the reference.

    Args:
        height_error: Absolute root height error [m].
        orientation_error: Angle between the roots [rad].
        key_point_error: Mean key-point distance [m].
        limits: Thresholds; an error equal to its limit is still allowed. NaN counts as lost.
    """
    kept = (
        (height_error <= limits.height)
        & (orientation_error <= limits.orientation)
        & (key_point_error <= limits.key_point)
    )
    return ~kept


def diverged(
    qpos: Float[np.ndarray, "env coordinate"], qvel: Float[np.ndarray, "env velocity"], *, speed_limit: float = 500.0
) -> Bool[np.ndarray, " env"]:
    """Tell which simulations have blown up: numbers not finite, or a velocity beyond ``speed_limit`` [m/s, rad/s]."""
    finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
    return ~finite | (np.abs(np.where(np.isfinite(qvel), qvel, 0.0)).max(axis=1) > speed_limit)
