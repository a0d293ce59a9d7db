"""Rewards of other projects, for comparison at equal physics: pure functions on numpy arrays or torch tensors."""

from __future__ import annotations

from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.arrays import Array, namespace
from motionlex.envs.rewards import Transition


def beyond_mimic_reward(step: Transition, *, anchor: int, sites: tuple[int, ...]) -> Float[Array, " env"]:
    """Return BeyondMimic's reward."""
    raise NotImplementedError


def loco_mujoco_reward(step: Transition, *, anchor: int, sites: tuple[int, ...]) -> Float[Array, " env"]:
    """Return 0.5 exp(-100 e_p) + 0.3 exp(-10 e_q), LocoMuJoCo-like, from positions only.

    e_p is the mean squared error of the key points relative to the torso site in the world frame (its definition),
    e_q the mean squared error of the hinges and the root's angle.

    Departure: LocoMuJoCo's second term uses relative rotation vectors of sites; here the hinges stand in for them.
    """
    state, reference, chosen = step.state, step.reference, list(sites)
    relative = state.sites[:, chosen] - state.sites[:, [anchor]]
    relative_ref = reference.sites[:, chosen] - reference.sites[:, [anchor]]
    e_p = ((relative - relative_ref) ** 2).mean(axis=(1, 2))
    angle = quaternion.angle_between(reference.qpos[:, 3:7], state.qpos[:, 3:7])
    e_q = (((state.qpos[:, 7:] - reference.qpos[:, 7:]) ** 2).sum(axis=1) + angle**2) / (state.qpos.shape[1] - 6)
    xp = namespace(e_p)
    return 0.5 * xp.exp(-100.0 * e_p) + 0.3 * xp.exp(-10.0 * e_q)
