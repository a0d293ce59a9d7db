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


def planar_pose(qpos: Float[Array, "env coordinate"]) -> Float[Array, "env 3"]:
    """Return x, y [m] and heading [rad] of the root, see :func:`motionlex.data.quaternion.heading`.

    Not the yaw of the base's x axis, which the observations use: of a robot that lies it turns by half a circle when
    the pitch passes 90 degrees, and would take the reference with it.
    """
    return namespace(qpos).concat((qpos[:, :2], quaternion.heading(qpos[:, 3:7])[:, None]), axis=1)


def carry(
    pose: Float[Array, "env 3"], before: Float[Array, "env 3"], after: Float[Array, "env 3"]
) -> Float[Array, "env 3"]:
    """Move a planar pose as a reference moves from one pose to another, each step seen from its own heading."""
    xp = namespace(pose)
    turn = pose[:, 2] - before[:, 2]
    cosine, sine = xp.cos(turn), xp.sin(turn)
    x, y = after[:, 0] - before[:, 0], after[:, 1] - before[:, 1]
    moved = xp.stack((cosine * x - sine * y, sine * x + cosine * y, after[:, 2] - before[:, 2]), axis=1)
    return pose + moved


def approach(pose: Float[Array, "env 3"], target: Float[Array, "env 3"], share: float) -> Float[Array, "env 3"]:
    """Move a planar pose a share of the way to another, the shorter way round."""
    xp = namespace(pose)
    gap = target - pose
    angle = xp.atan2(xp.sin(gap[:, 2:]), xp.cos(gap[:, 2:]))
    return pose + share * xp.concat((gap[:, :2], angle), axis=1)


def follow(
    place: Float[Array, "env 3"],
    before: Float[Array, "env coordinate"],
    after: Float[Array, "env coordinate"],
    robot: Float[Array, "env coordinate"],
    share: float,
) -> Float[Array, "env 3"]:
    """Move the place of a reference on by the reference's own step, and a little towards the robot that took that step.

    Args:
        place: x, y [m] and heading [rad] before the step.
        before: Positions of the reference before the step.
        after: Its positions after the step.
        robot: Positions that the robot reached.
        share: How much of the way to the robot.
    """
    return approach(carry(place, planar_pose(before), planar_pose(after)), planar_pose(robot), share)


def at_place(reference: BodyState, place: Float[Array, "env 3"]) -> BodyState:
    """Move the reference to a planar pose; height, tilt and motion stay."""
    return shift(reference, planar_pose(reference.qpos), place)


def move_under(reference: BodyState, qpos: Float[Array, "env coordinate"]) -> BodyState:
    """Move the reference to the robot's x, y and heading; height, tilt and motion stay."""
    return at_place(reference, planar_pose(qpos))


def shift(reference: BodyState, anchor: Float[Array, "env 3"], target: Float[Array, "env 3"]) -> BodyState:
    """Apply to ``reference`` the planar motion that takes one planar pose to another."""
    xp = namespace(target)
    turn = quaternion.from_yaw(target[:, 2] - anchor[:, 2])
    matrix = quaternion.to_matrix(turn)
    level = xp.zeros_like(target[:, :1])
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
