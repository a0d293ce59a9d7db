"""Rewards for following a reference motion: pure functions on (env, ...) arrays.

Both the measured state and the reference are given in the world; every term is unchanged when both are turned about
the vertical or moved together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from motionlex.data import quaternion

Terms = dict[str, Float[np.ndarray, " env"]]


@dataclass(frozen=True, kw_only=True)
class BodyState:
    """State of many robots."""

    qpos: Float[np.ndarray, "env coordinate"]
    """Root position [m], quaternion (w, x, y, z), hinges [rad]."""
    qvel: Float[np.ndarray, "env velocity"]
    """Root linear velocity in the world [m/s], angular in the base [rad/s], hinges [rad/s]."""
    sites: Float[np.ndarray, "env site 3"]
    """Key points in the world [m]."""


@dataclass(frozen=True, kw_only=True)
class DeepMimicWeights:
    """Weights of the default reward; they sum to 1, and 0.1 scales the total so that returns stay near one."""

    joint: float = 0.25
    """Hinge angles."""
    joint_velocity: float = 0.10
    """Hinge velocities."""
    root_position: float = 0.15
    """Root position."""
    root_orientation: float = 0.10
    """Root orientation."""
    key_point: float = 0.25
    """Key points."""
    root_velocity: float = 0.10
    """Root linear velocity."""
    root_angular_velocity: float = 0.05
    """Root angular velocity."""
    action_rate: float = -0.01
    """Mean squared change of the action, a penalty."""
    scale: float = 0.1
    """Factor on the total."""


def kernel(squared_error: Float[np.ndarray, " env"], *, width_squared: float) -> Float[np.ndarray, " env"]:
    """Return exp(-e^2 / w^2), in (0, 1]."""
    return np.exp(-squared_error / width_squared)


def position_term(p: Float[np.ndarray, "env 3"], p_ref: Float[np.ndarray, "env 3"], *, width_squared: float = 0.09):  # noqa: ANN201
    """Score the root position; ``width_squared`` in m^2."""
    return kernel(((p - p_ref) ** 2).sum(axis=1), width_squared=width_squared)


def orientation_term(q: Float[np.ndarray, "env 4"], q_ref: Float[np.ndarray, "env 4"], *, width_squared: float = 0.16):  # noqa: ANN201
    """Score the root orientation by the squared angle between both (q and -q are the same); width in rad^2."""
    return kernel(quaternion.angle_between(q_ref, q) ** 2, width_squared=width_squared)


def mean_square_term(
    x: Float[np.ndarray, "env element"], x_ref: Float[np.ndarray, "env element"], *, width_squared: float
) -> Float[np.ndarray, " env"]:
    """Score the mean squared difference over elements."""
    return kernel(((x - x_ref) ** 2).mean(axis=1), width_squared=width_squared)


def key_point_term(
    sites: Float[np.ndarray, "env site 3"], sites_ref: Float[np.ndarray, "env site 3"], *, width_squared: float = 0.04
) -> Float[np.ndarray, " env"]:
    """Score the mean squared distance of the key points; width in m^2."""
    return kernel(((sites - sites_ref) ** 2).sum(axis=2).mean(axis=1), width_squared=width_squared)


def deepmimic_terms(state: BodyState, reference: BodyState) -> Terms:
    """Return every kernel of the default reward, each in (0, 1].

    Source: DeepMimic's terms (Peng et al. 2018) with the widths of the recipe this project measured on two cores.
    Departure: world-frame key points of the whole body instead of end effectors, root velocities scored in the world.
    """
    q, q_ref, v, v_ref = state.qpos, reference.qpos, state.qvel, reference.qvel
    angular = quaternion.rotate(q[:, 3:7], v[:, 3:6]) - quaternion.rotate(q_ref[:, 3:7], v_ref[:, 3:6])
    return {
        "joint": mean_square_term(q[:, 7:], q_ref[:, 7:], width_squared=0.04),
        "joint_velocity": mean_square_term(v[:, 6:], v_ref[:, 6:], width_squared=4.0),
        "root_position": position_term(q[:, :3], q_ref[:, :3]),
        "root_orientation": orientation_term(q[:, 3:7], q_ref[:, 3:7]),
        "key_point": key_point_term(state.sites, reference.sites),
        "root_velocity": kernel(((v[:, :3] - v_ref[:, :3]) ** 2).sum(axis=1), width_squared=0.5),
        "root_angular_velocity": kernel((angular**2).sum(axis=1), width_squared=4.0),
    }


def deepmimic_reward(
    state: BodyState,
    reference: BodyState,
    action: Float[np.ndarray, "env action"],
    last_action: Float[np.ndarray, "env action"],
    weights: DeepMimicWeights,
) -> Float[np.ndarray, " env"]:
    """Return the weighted sum of the kernels minus the action-rate penalty, scaled.

    Args:
        state: Measured state after the step.
        reference: Reference at the same instant.
        action: Action of this step (dimensionless).
        last_action: Action of the step before.
        weights: Weight per term.
    """
    total = weights.action_rate * ((action - last_action) ** 2).mean(axis=1)
    for name, value in deepmimic_terms(state, reference).items():
        total = total + getattr(weights, name) * value
    return weights.scale * total


def loco_mujoco_reward(
    state: BodyState, reference: BodyState, *, anchor: int, sites: tuple[int, ...]
) -> Float[np.ndarray, " env"]:
    """Return 0.5 exp(-100 e_p) + 0.3 exp(-10 e_q), LocoMuJoCo-like, from positions only.

    e_p is the mean squared error of the key points relative to the torso site in the world frame (its definition),
    e_q the mean squared error of the hinges and the root's angle.

    Departure: LocoMuJoCo's second term uses relative rotation vectors of sites; here the hinges stand in for them.
    """
    chosen = list(sites)
    relative = state.sites[:, chosen] - state.sites[:, [anchor]]
    relative_ref = reference.sites[:, chosen] - reference.sites[:, [anchor]]
    e_p = ((relative - relative_ref) ** 2).mean(axis=(1, 2))
    angle = quaternion.angle_between(reference.qpos[:, 3:7], state.qpos[:, 3:7])
    e_q = (((state.qpos[:, 7:] - reference.qpos[:, 7:]) ** 2).sum(axis=1) + angle**2) / (state.qpos.shape[1] - 6)
    return 0.5 * np.exp(-100.0 * e_p) + 0.3 * np.exp(-10.0 * e_q)
