"""Comparing a robot with its reference: errors, and the reference moved to where the robot is."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.arrays import Array, namespace
from motionlex.envs.rewards import BodyState


def tracking_errors(
    state: BodyState, reference: BodyState
) -> tuple[Float[Array, " env"], Float[Array, " env"], Float[Array, " env"]]:
    """Return root height error [m], root angle [rad] and mean key-point distance [m]."""
    xp = namespace(state.qpos)
    height = xp.abs(state.qpos[:, 2] - reference.qpos[:, 2])
    angle = quaternion.angle_between(reference.qpos[:, 3:7], state.qpos[:, 3:7])
    difference = state.sites - reference.sites
    distance = xp.sqrt((difference * difference).sum(axis=2)).mean(axis=1)
    return height, angle, distance


def move_under(reference: BodyState, qpos: Float[Array, "env coordinate"]) -> BodyState:
    """Move the reference to the robot's x, y and heading; height, tilt and motion stay."""
    return shift(reference, reference.qpos, qpos)


def shift(
    reference: BodyState, anchor: Float[Array, "env coordinate"], target: Float[Array, "env coordinate"]
) -> BodyState:
    """Apply to ``reference`` the planar motion that takes the anchor's place and heading to the target's."""
    xp = namespace(target)
    turn = quaternion.from_yaw(quaternion.yaw(target[:, 3:7]) - quaternion.yaw(anchor[:, 3:7]))
    matrix = quaternion.to_matrix(turn)
    level = xp.zeros_like(target[:, 2:3])
    offset = xp.concat((target[:, :2], level), axis=1)
    origin = xp.concat((anchor[:, :2], level), axis=1)

    def turned(vectors: Array) -> Array:
        return (matrix[:, None] * vectors[:, :, None, :]).sum(axis=-1)

    root = turned((reference.qpos[:, :3] - origin)[:, None])[:, 0] + offset
    qpos = xp.concat((root, quaternion.multiply(turn, reference.qpos[:, 3:7]), reference.qpos[:, 7:]), axis=1)
    qvel = xp.concat((turned(reference.qvel[:, None, :3])[:, 0], reference.qvel[:, 3:]), axis=1)
    sites = turned(reference.sites - origin[:, None]) + offset[:, None]
    motion = reference.motion
    if motion is not None:
        motion = replace(
            motion,
            position=sites,
            rotation=matrix[:, None] @ motion.rotation,
            linear=turned(motion.linear),
            angular=turned(motion.angular),
        )
    return BodyState(qpos=qpos, qvel=qvel, sites=sites, motion=motion)
