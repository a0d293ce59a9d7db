"""When an episode ends early: the robot has lost its reference, or the simulation has blown up."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float

from motionlex.data.arrays import Array, namespace
from motionlex.envs.rewards import BodyState


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
    height_error: Float[Array, " env"],
    orientation_error: Float[Array, " env"],
    key_point_error: Float[Array, " env"],
    limits: TerminationLimits,
) -> Bool[Array, " env"]:
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
    qpos: Float[Array, "env coordinate"], qvel: Float[Array, "env velocity"], *, speed_limit: float = 500.0
) -> Bool[Array, " env"]:
    """Tell which simulations have blown up: numbers not finite, or a velocity beyond ``speed_limit`` [m/s, rad/s]."""
    # A comparison with NaN is false, so one test finds both.
    xp = namespace(qpos)
    fine = (xp.abs(qpos) < float("inf")).all(axis=1) & (xp.abs(qvel) <= speed_limit).all(axis=1)
    return ~fine


def overwrite(
    qpos: Float[Array, "env coordinate"],
    qvel: Float[Array, "env velocity"],
    reference: BodyState,
    bad: Bool[Array, " env"],
) -> None:
    """Put the reference in place of states that are no numbers; those episodes end anyway."""
    xp = namespace(qpos)
    qpos[:] = xp.where(bad[:, None], reference.qpos, qpos)
    qvel[:] = xp.where(bad[:, None], reference.qvel, qvel)
