"""What the low-level policy sees: pure functions on (env, ...) arrays, the same in training and at run time.

Arrays are numpy's or torch's; both go through the same lines.

Layout of the ``reference`` and ``decoded`` goals (H1: 151 numbers): hinge angles 19, 0.1 hinge velocities 19, gravity
in the base 3, base angular velocity 3, base linear velocity 3, root height 1, last action 19; then for each command
frame (one and eight frames ahead) hinge error 19, heading-frame position error 3, relative rotation 6, heading-frame
linear velocity 3; then 0.1 hinge velocities 19 and angular velocity 3 of the first command frame.
Layout of ``latent`` (128 numbers): 64 codes, segment phase 1, hinge angles 19, 0.1 hinge velocities 19, gravity 3,
torso angular velocity 3, last action 19.
"""

from __future__ import annotations

from jaxtyping import Float, Int

from motionlex.data import quaternion
from motionlex.data.arrays import Array, namespace, stack_last

VELOCITY_SCALE = 0.1
"""Factor on hinge velocities."""


def projected_gravity(rotation: Float[Array, "env 3 3"]) -> Float[Array, "env 3"]:
    """Return the unit gravity vector in the base frame, R^T (0, 0, -1)."""
    return -rotation[:, 2, :]


def to_heading(
    vectors: Float[Array, "env vector 3"], rotation: Float[Array, "env 3 3"]
) -> Float[Array, "env vector 3"]:
    """Turn world vectors into the heading frame: vertical z, x along the heading of the base's x axis."""
    xp = namespace(vectors)
    yaw = xp.atan2(rotation[:, 1, 0], rotation[:, 0, 0])[:, None]
    cosine, sine = xp.cos(yaw), xp.sin(yaw)
    x, y, z = vectors[:, :, 0], vectors[:, :, 1], vectors[:, :, 2]
    return stack_last((cosine * x + sine * y, cosine * y - sine * x, z))


def proprioception(
    qpos: Float[Array, "env coordinate"],
    qvel: Float[Array, "env velocity"],
    last_action: Float[Array, "env action"],
    rotation: Float[Array, "env 3 3"],
) -> tuple[Array, ...]:
    """Return the robot's own state: everything the goals ``reference`` and ``decoded`` see besides the command.

    Args:
        qpos: Measured positions.
        qvel: Measured velocities.
        last_action: Action of the step before.
        rotation: Rotation matrix of the base.
    """
    linear_b = (rotation * qvel[:, :3, None]).sum(axis=1)
    own = (qpos[:, 7:], VELOCITY_SCALE * qvel[:, 6:], projected_gravity(rotation), qvel[:, 3:6])
    return (*own, linear_b, qpos[:, 2:3], last_action)


def goal_features(
    qpos: Float[Array, "env coordinate"],
    goal_qpos: Float[Array, "env ahead coordinate"],
    goal_qvel: Float[Array, "env ahead velocity"],
    rotation: Float[Array, "env 3 3"],
) -> tuple[Array, ...]:
    """Return the command frames as seen from the robot.

    Args:
        qpos: Measured positions.
        goal_qpos: Command frames ahead, in the world.
        goal_qvel: Their velocities.
        rotation: Rotation matrix of the base.
    """
    xp = namespace(qpos)
    count, ahead = goal_qpos.shape[:2]
    columns = quaternion.to_matrix(goal_qpos[..., 3:7])[..., :2]
    relative = (rotation[:, None, :, :, None] * columns[:, :, :, None, :]).sum(axis=2)  # R^T R_goal, two columns
    moved = xp.concat((goal_qpos[..., :3] - qpos[:, None, :3], goal_qvel[..., :3]), axis=1)
    moved = to_heading(moved, rotation)
    parts = (
        goal_qpos[..., 7:] - qpos[:, None, 7:],
        moved[:, :ahead],
        relative[..., 0],
        relative[..., 1],
        moved[:, ahead:],
    )
    frames = xp.concat(parts, axis=2).reshape((count, -1))
    return frames, VELOCITY_SCALE * goal_qvel[:, 0, 6:], goal_qvel[:, 0, 3:6]


def goal_frame_starts(joints: int, ahead: int) -> tuple[int, ...]:
    """Return where the features of each command frame begin in :func:`tracking_observation`.

    Args:
        joints: Number of hinges.
        ahead: Number of command frames.
    """
    return tuple(3 * joints + 10 + frame * (joints + 12) for frame in range(ahead))


def tracking_observation(
    qpos: Float[Array, "env coordinate"],
    qvel: Float[Array, "env velocity"],
    last_action: Float[Array, "env action"],
    goal_qpos: Float[Array, "env ahead coordinate"],
    goal_qvel: Float[Array, "env ahead velocity"],
) -> Float[Array, "env feature"]:
    """Return the observation of the goals ``reference`` and ``decoded``.

    Args:
        qpos: Measured positions.
        qvel: Measured velocities.
        last_action: Action of the step before, as the policy gave it (clipped to its bounds).
        goal_qpos: Command frames one and eight control steps ahead, in the same world as ``qpos``.
        goal_qvel: Their velocities.
    """
    rotation = quaternion.to_matrix(qpos[:, 3:7])
    own = proprioception(qpos, qvel, last_action, rotation)
    return namespace(qpos).concat((*own, *goal_features(qpos, goal_qpos, goal_qvel, rotation)), axis=1)


def torso_angular_velocity(
    qpos: Float[Array, "env coordinate"], qvel: Float[Array, "env velocity"], torso_joint: int
) -> Float[Array, "env 3"]:
    """Return the angular velocity of the torso in its own frame [rad/s]; the torso turns on the base about z."""
    xp = namespace(qpos)
    angle = qpos[:, 7 + torso_joint]
    cosine, sine = xp.cos(angle), xp.sin(angle)
    x, y, z = qvel[:, 3], qvel[:, 4], qvel[:, 5]
    return stack_last((cosine * x + sine * y, cosine * y - sine * x, z + qvel[:, 6 + torso_joint]))


def latent_observation(
    qpos: Float[Array, "env coordinate"],
    qvel: Float[Array, "env velocity"],
    last_action: Float[Array, "env action"],
    codes: Int[Array, "env token"],
    phase: Float[Array, " env"],
    torso_joint: int,
) -> Float[Array, "env feature"]:
    """Return the observation of the goal ``latent``: codes and phase, then exactly the paper's proprioception.

    Args:
        qpos: Measured positions.
        qvel: Measured velocities.
        last_action: Action of the step before.
        codes: The running segment's codes.
        phase: Frames since the segment's start / frames between replans.
        torso_joint: Index of the hinge that carries the torso (about the base's z axis).

    Source: DAPS, appendix K. Departure: the phase, since segments here outlive one control step.
    """
    xp = namespace(qpos)
    rotation = quaternion.to_matrix(qpos[:, 3:7])
    return xp.concat(
        (
            xp.astype(codes, qpos.dtype),
            phase[:, None],
            qpos[:, 7:],
            VELOCITY_SCALE * qvel[:, 6:],
            projected_gravity(rotation),
            torso_angular_velocity(qpos, qvel, torso_joint),
            last_action,
        ),
        axis=1,
    )
