"""LocoMuJoCo's MimicReward for comparison at equal physics: pure functions on numpy arrays or torch tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields

from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.arrays import Array, clamp, namespace, pick
from motionlex.data.errors import UserError
from motionlex.envs.kinematics import SiteStates
from motionlex.envs.rewards import Transition, square_sum


@dataclass(frozen=True, kw_only=True)
class LocoMujocoWeights:
    """Weights and exponents of LocoMuJoCo's MimicReward; these are its defaults."""

    qpos: float = 0.0
    """Root position, hinges and the root's angle."""
    qvel: float = 0.0
    """All velocities."""
    site_position: float = 0.5
    """Key points relative to the torso, in the world frame."""
    site_rotation: float = 0.3
    """Rotation vectors of the key points relative to the torso."""
    site_velocity: float = 0.0
    """Velocities of the key points relative to the torso; counts once for angular and once for linear ones."""
    qpos_exponent: float = 10.0
    """Factor on the error in the exponent."""
    qvel_exponent: float = 2.0
    """Likewise."""
    site_position_exponent: float = 100.0
    """Likewise [1/m^2]."""
    site_rotation_exponent: float = 10.0
    """Likewise [1/rad^2]."""
    site_velocity_exponent: float = 0.1
    """Likewise."""
    action_out_of_bounds: float = 0.01
    """Penalty on the mean squared excess of actions over their bounds."""
    joint_acceleration: float = 0.0
    """Penalty on squared changes of hinge velocities, divided once by the control period."""
    joint_torque: float = 0.0
    """Penalty on squared motor torques [N^2 m^2]."""
    action_rate: float = 0.0
    """Penalty on the squared change of the action."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (value := getattr(self, field.name)) >= 0.0:
                raise UserError(f"LocoMuJoCo's {field.name} must be at least 0 (penalties too), got {value}")

    @classmethod
    def deepmimic(cls) -> LocoMujocoWeights:
        """Return the weights of its DeepMimic example, which uses the sites of upper body, hands and feet."""
        return cls(qpos=0.4, qvel=0.2, site_position=0.5, site_rotation=0.3, site_velocity=0.1)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What LocoMuJoCo's penalties look at beside the transition."""

    action_bound: float
    """Actions beyond +- this are out of bounds."""
    control_period: float
    """Time between control steps [s]."""
    joint_velocity_before: Float[Array, "env joint"]
    """Hinge velocities before the step [rad/s]."""
    joint_torque: Float[Array, "env joint"]
    """Motor torques [N m]."""


def loco_mujoco_reward(
    step: Transition,
    *,
    anchor: int,
    sites: tuple[int, ...],
    weights: LocoMujocoWeights | None = None,
    effort: Effort | None = None,
) -> Float[Array, " env"]:
    r"""Return LocoMuJoCo's MimicReward, :math:`\max(0, \sum_i w_i e^{-k_i d_i} + \max(-1, p))`.

    It is met to 1e-6, which includes what its authors may not have meant: the qpos error adds the root's angle in
    plain radians to a mean square; relative positions are differences in the world frame, so a turned robot loses;
    relative velocities are turned by the torso's rotation where its inverse would give the torso's frame, the angular
    ones before their difference is taken; penalties of acceleration, torque and action rate carry the square of their
    coefficient; the acceleration is divided by the control period once. NaN becomes 0.

    Args:
        step: What happened, with the motion of the key points.
        anchor: Site of the torso (its ``upper_body_mimic``).
        sites: The other sites; by its default all of them, the head included.
        weights: Weights and exponents; None takes its defaults.
        effort: For penalties; None means that no action can be out of bounds (the task bounds them).

    Returns:
        Reward, at least 0.

    Raises:
        ValueError: If a penalty on acceleration or torque is wanted without ``effort``.

    Source: loco-mujoco 1.0.0, ``core.reward.trajectory_based.MimicReward``.
    """
    weights = weights or LocoMujocoWeights()
    if effort is None and (weights.joint_acceleration > 0.0 or weights.joint_torque > 0.0):
        raise ValueError("penalties on joint acceleration and torque need effort=Effort(...)")
    xp = namespace(step.action)
    total = _loco_mujoco_kernels(step, anchor, sites, weights)
    total = total + clamp(_loco_mujoco_penalties(step, weights, effort), -1.0, float("inf"))
    return clamp(xp.where(xp.isnan(total), 0.0, total), 0.0, float("inf"))


def _loco_mujoco_kernels(
    step: Transition, anchor: int, sites: tuple[int, ...], weights: LocoMujocoWeights
) -> Float[Array, " env"]:
    xp = namespace(step.action)
    q, q_ref = step.state.qpos, step.reference.qpos
    placed = xp.concat((q[:, :3] - q_ref[:, :3], q[:, 7:] - q_ref[:, 7:]), axis=1)
    angle = quaternion.angle_between(q_ref[:, 3:7], q[:, 3:7])
    position, rotation, angular, linear = (
        ((a - b) ** 2).mean(axis=(1, 2))
        for a, b in zip(
            _relative(step.state.site_motion(), anchor, sites), _relative(step.reference.site_motion(), anchor, sites)
        )
    )
    return (
        weights.qpos * xp.exp(-weights.qpos_exponent * ((placed**2).mean(axis=1) + angle))
        + weights.qvel * xp.exp(-weights.qvel_exponent * ((step.state.qvel - step.reference.qvel) ** 2).mean(axis=1))
        + weights.site_position * xp.exp(-weights.site_position_exponent * position)
        + weights.site_rotation * xp.exp(-weights.site_rotation_exponent * rotation)
        + weights.site_velocity * xp.exp(-weights.site_velocity_exponent * angular)
        + weights.site_velocity * xp.exp(-weights.site_velocity_exponent * linear)
    )


def _loco_mujoco_penalties(step: Transition, weights: LocoMujocoWeights, effort: Effort | None) -> Float[Array, " env"]:
    """Return the sum of penalties, at most 0."""
    xp = namespace(step.action)
    total = -(weights.action_rate**2) * square_sum(step.action - step.last_action)
    if effort is None:
        return total
    beyond = clamp(xp.abs(step.action) - effort.action_bound, 0.0, float("inf"))
    change = step.state.qvel[:, 6:] - effort.joint_velocity_before
    return (
        total
        - weights.action_out_of_bounds * (beyond**2).mean(axis=1)
        - weights.joint_acceleration**2 * square_sum(change) / effort.control_period
        - weights.joint_torque**2 * square_sum(effort.joint_torque)
    )


def _relative(motion: SiteStates, anchor: int, sites: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
    """Return LocoMuJoCo's relative positions, rotation vectors, angular and linear velocities, each (env, site, 3)."""
    main, rotation = motion.rotation[:, anchor, None], pick(motion.rotation, sites)
    turn = namespace(main).matrix_transpose(main) @ rotation
    apart = motion.linear[:, anchor, None] - pick(motion.linear, sites)
    return (
        pick(motion.position, sites) - motion.position[:, anchor, None],
        quaternion.to_rotvec(quaternion.from_matrix(turn)),
        (turn * pick(motion.angular, sites)[:, :, :, None]).sum(axis=2) - motion.angular[:, anchor, None],
        (main * apart[:, :, None, :]).sum(axis=3),
    )
