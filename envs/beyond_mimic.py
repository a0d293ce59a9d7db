"""BeyondMimic's reward for comparison at equal physics: pure functions on (env, ...) numpy arrays or torch tensors."""

from __future__ import annotations

from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.arrays import Array, clamp, namespace, pick
from motionlex.envs.rewards import Terms, Transition, kernel, square_sum

_WEIGHTS = {
    "anchor_position": 0.5,
    "anchor_orientation": 0.5,
    "body_position": 1.0,
    "body_orientation": 1.0,
    "body_velocity": 1.0,
    "body_angular_velocity": 1.0,
    "action_rate": -0.1,
    "joint_limit": -10.0,
}
_SOFT_LIMIT = 0.9
"""Share of a hinge's range that BeyondMimic leaves free."""


def beyond_mimic_terms(step: Transition, *, anchor: int, sites: tuple[int, ...]) -> Terms:
    r"""Return BeyondMimic's kernels, each in (0, 1], and its penalties, each at least 0.

    Kernels are :math:`\exp(-\bar{e}^2 / \sigma^2)`, the squared error averaged over bodies. Poses of bodies are
    compared with the reference moved to the robot: the anchor's x and y become the robot's, its height stays the
    reference's, and everything turns about the vertical by the yaw of the rotation from the reference's anchor to the
    robot's. Velocities are compared in the world, neither moved nor turned; so are the anchor's own place and rotation.

    Args:
        step: What happened, with the motion of the key points.
        anchor: Site of the torso; it counts as a body, too.
        sites: The other bodies.

    Returns:
        Terms by name, without their weights.

    Source: BeyondMimic (Liao et al. 2025) and its training code's tracking task.
    Departure: mimic sites stand for bodies. A hinge that the reference takes beyond its soft limit (nine tenths of its
        range) may go as far as the reference, so that replaying a reference is never punished. Contacts are not judged.
    """
    xp = namespace(step.action)
    state, reference = step.state.site_motion(), step.reference.site_motion()
    bodies = (anchor, *sites)
    here, there = state.position[:, anchor], reference.position[:, anchor]
    turn = quaternion.to_matrix(quaternion.from_yaw(_yaw_between(reference.rotation, state.rotation, anchor)))[:, None]
    arm = pick(reference.position, bodies) - there[:, None]
    moved = (turn * arm[:, :, None, :]).sum(axis=-1) + xp.concat((here[:, :2], there[:, 2:]), axis=1)[:, None]
    angle = _angle(state.rotation[:, anchor, None], reference.rotation[:, anchor, None])[:, 0]
    body_angle = _angle(pick(state.rotation, bodies), turn @ pick(reference.rotation, bodies))
    return {
        "anchor_position": kernel(square_sum(here - there), width_squared=0.3**2),
        "anchor_orientation": kernel(angle**2, width_squared=0.4**2),
        "body_position": kernel(_mean_square(pick(state.position, bodies) - moved), width_squared=0.3**2),
        "body_orientation": kernel((body_angle**2).mean(axis=1), width_squared=0.4**2),
        "body_velocity": kernel(_mean_square(pick(state.linear - reference.linear, bodies)), width_squared=1.0),
        "body_angular_velocity": kernel(
            _mean_square(pick(state.angular - reference.angular, bodies)), width_squared=3.14**2
        ),
        "action_rate": square_sum(step.action - step.last_action),
        "joint_limit": _beyond_soft_limits(step),
    }


def beyond_mimic_reward(step: Transition, *, anchor: int, sites: tuple[int, ...]) -> Float[Array, " env"]:
    """Return BeyondMimic's weighted sum, at most 5; arguments as for :func:`beyond_mimic_terms`.

    Departure: not multiplied by the control period.
    """
    total = 0.0
    for name, value in beyond_mimic_terms(step, anchor=anchor, sites=sites).items():
        total = total + _WEIGHTS[name] * value
    return total


def _mean_square(difference: Float[Array, "env body 3"]) -> Float[Array, " env"]:
    """Return squared lengths averaged over bodies."""
    return (difference * difference).sum(axis=2).mean(axis=1)


def _angle(a: Float[Array, "env body 3 3"], b: Float[Array, "env body 3 3"]) -> Float[Array, "env body"]:
    """Return the angle [rad] between rotations, exactly 0 for equal ones: |A - B|_F = 2 sqrt(2) sin(angle / 2)."""
    xp = namespace(a)
    chord = xp.sqrt(((a - b) ** 2).sum(axis=(2, 3)) / 8.0)
    return 2.0 * xp.asin(clamp(chord, 0.0, 1.0))


def _yaw_between(
    reference: Float[Array, "env site 3 3"], state: Float[Array, "env site 3 3"], site: int
) -> Float[Array, " env"]:
    """Return the heading [rad] of the rotation that takes a site of the reference to the robot's."""
    start, end = reference[:, site], state[:, site]
    return namespace(end).atan2((end[:, 1] * start[:, 0]).sum(axis=1), (end[:, 0] * start[:, 0]).sum(axis=1))


def _beyond_soft_limits(step: Transition) -> Float[Array, " env"]:
    """Return by how much [rad] hinges exceed their soft limits or the reference, whichever is further; summed."""
    xp = namespace(step.action)
    q, q_ref = step.state.qpos[:, 7:], step.reference.qpos[:, 7:]
    middle, reach = 0.5 * (step.upper + step.lower), 0.5 * _SOFT_LIMIT * (step.upper - step.lower)
    allowed = clamp(q, xp.minimum(middle - reach, q_ref), xp.maximum(middle + reach, q_ref))
    return xp.abs(q - allowed).sum(axis=1)
