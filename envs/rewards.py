"""The default reward for following a reference motion: pure functions on (env, ...) numpy arrays or torch tensors.

Measured state and reference are given in the world; every term is unchanged when both are turned about the vertical or
moved together. Key points and end effectors are compared in each one's own heading frame, so that an error of place or
heading costs once, in the root's terms. The rewards of other projects have modules of their own: ``beyond_mimic``
and ``mimic_reward``.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.arrays import Array, clamp, namespace, pick, stack_last
from motionlex.envs.kinematics import SiteStates

Terms = dict[str, Float[Array, " env"]]


@dataclass(frozen=True, kw_only=True)
class BodyState:
    """State of many robots."""

    qpos: Float[Array, "env coordinate"]
    """Root position [m], quaternion (w, x, y, z), hinges [rad]."""
    qvel: Float[Array, "env velocity"]
    """Root linear velocity in the world [m/s], angular in the base [rad/s], hinges [rad/s]."""
    sites: Float[Array, "env site 3"]
    """Key points in the world [m]."""
    motion: SiteStates | None = None
    """Rotations and velocities of the key points, where the reward asks for them."""

    def site_motion(self) -> SiteStates:
        """Return ``motion`` where it must be there."""
        assert self.motion is not None, "the task fills the motion of the key points for the rewards that want it"
        return self.motion


@dataclass(frozen=True, kw_only=True)
class Transition:
    """What a reward may look at: one control step of many robots."""

    state: BodyState
    """Measured state after the step."""
    reference: BodyState
    """Reference at the same instant."""
    action: Float[Array, "env action"]
    """Action of this step (dimensionless)."""
    last_action: Float[Array, "env action"]
    """Action of the step before."""
    torque: Float[Array, "env joint"]
    """Motor torque at the reached state, as a share of its limit, in [-1, 1]."""
    lower: Float[Array, " joint"]
    """Lower limits of the hinges [rad]."""
    upper: Float[Array, " joint"]
    """Upper limits of the hinges [rad]."""
    end_effectors: tuple[int, ...]
    """Sites at hands and feet."""


@dataclass(frozen=True, kw_only=True)
class DeepMimicWeights:
    """Weights of the default reward; the positive ones sum to 1; 0.1 scales the total so that returns stay near one."""

    joint: float = 0.25
    """Hinge angles."""
    joint_velocity: float = 0.10
    """Hinge velocities."""
    root_position: float = 0.15
    """Root position."""
    root_orientation: float = 0.10
    """Root orientation."""
    key_point: float = 0.15
    """Key points relative to the root."""
    end_effector: float = 0.10
    """Hands and feet relative to the root."""
    root_velocity: float = 0.10
    """Root linear velocity."""
    root_angular_velocity: float = 0.05
    """Root angular velocity."""
    action_rate: float = -0.01
    """Mean squared change of the action, a penalty."""
    joint_limit: float = -1.0
    """Squared excess over the limits [rad^2], summed over hinges, a penalty."""
    torque: float = -0.01
    """Mean squared share of the motor limits, a penalty."""
    scale: float = 0.1
    """Factor on the total."""


def kernel(squared_error: Float[Array, " env"], *, width_squared: float) -> Float[Array, " env"]:
    """Return exp(-e^2 / w^2), in (0, 1]."""
    return namespace(squared_error).exp(squared_error * (-1.0 / width_squared))


def square_sum(x: Float[Array, "env element"]) -> Float[Array, " env"]:
    """Return the sum of squares over elements."""
    return (x * x).sum(axis=1)


def heading_frame(
    sites: Float[Array, "env site 3"], qpos: Float[Array, "env coordinate"]
) -> Float[Array, "env site 3"]:
    """Express world points [m] in the frame at the root whose z axis is vertical and whose x axis is the heading.

    The heading is the one that is smooth for robots that lie, see :func:`motionlex.data.quaternion.heading`.
    """
    xp = namespace(sites)
    qpos = xp.astype(qpos[:, :7], sites.dtype, copy=False)
    heading = quaternion.heading(qpos[:, 3:7])[:, None]
    cosine, sine = xp.cos(heading), xp.sin(heading)
    x, y, z = (sites[:, :, axis] - qpos[:, axis, None] for axis in range(3))
    return stack_last((cosine * x + sine * y, cosine * y - sine * x, z))


def deepmimic_terms(step: Transition) -> Terms:
    """Return every kernel of the default reward, each in (0, 1].

    Source: DeepMimic's terms (Peng et al. 2018) with the widths of the recipe this project measured on two cores.
    Departure: key points of the whole body beside the end effectors, both in the heading frame; velocities of the root
    in the world.
    """
    state, reference = step.state, step.reference
    q, q_ref, v, v_ref = state.qpos, reference.qpos, state.qvel, reference.qvel
    hinges = q.shape[1] - 7
    spin = quaternion.rotate(q[:, 3:7], v[:, 3:6]) - quaternion.rotate(q_ref[:, 3:7], v_ref[:, 3:6])
    gap = heading_frame(state.sites, q) - heading_frame(reference.sites, q_ref)
    # Places may be in single precision; from here on the numbers are as precise as the rest, and weights sum to one.
    squared = namespace(q).astype((gap * gap).sum(axis=2), q.dtype, copy=False)
    angle = quaternion.angle_between(q_ref[:, 3:7], q[:, 3:7])
    return {
        "joint": kernel(square_sum(q[:, 7:] - q_ref[:, 7:]), width_squared=0.04 * hinges),
        "joint_velocity": kernel(square_sum(v[:, 6:] - v_ref[:, 6:]), width_squared=4.0 * hinges),
        "root_position": kernel(square_sum(q[:, :3] - q_ref[:, :3]), width_squared=0.09),
        "root_orientation": kernel(angle * angle, width_squared=0.16),
        "key_point": kernel(squared.mean(axis=1), width_squared=0.02),
        "end_effector": kernel(pick(squared, step.end_effectors).mean(axis=1), width_squared=0.02),
        "root_velocity": kernel(square_sum(v[:, :3] - v_ref[:, :3]), width_squared=0.5),
        "root_angular_velocity": kernel(square_sum(spin), width_squared=4.0),
    }


def penalties(step: Transition) -> Terms:
    """Return what the default reward discourages, each at least 0 and exactly 0 for a replayed reference at rest.

    A hinge that the reference itself takes beyond its limit may go as far as the reference.
    """
    xp = namespace(step.action)
    q, q_ref = step.state.qpos[:, 7:], step.reference.qpos[:, 7:]
    change = step.action - step.last_action
    excess = q - clamp(q, xp.minimum(step.lower, q_ref), xp.maximum(step.upper, q_ref))
    return {
        "action_rate": square_sum(change) / change.shape[1],
        "joint_limit": square_sum(excess),
        "torque": square_sum(step.torque) / step.torque.shape[1],
    }


def deepmimic_reward(step: Transition, weights: DeepMimicWeights) -> Float[Array, " env"]:
    """Return the weighted sum of kernels and penalties, scaled.

    Args:
        step: What happened.
        weights: Weight per term; those of penalties are negative.
    """
    total = 0.0
    for name, value in (*deepmimic_terms(step).items(), *penalties(step).items()):
        total = total + getattr(weights, name) * value
    return weights.scale * total
