"""What the low-level policy sees: pure functions on (env, ...) arrays, the same in training and at run time.

Layout of the ``reference`` and ``decoded`` goals (H1: 151 numbers): hinge angles 19, 0.1 hinge velocities 19, gravity
in the base 3, base angular velocity 3, base linear velocity 3, root height 1, last action 19; then for each command
frame (one and eight frames ahead) hinge error 19, heading-frame position error 3, relative rotation 6, heading-frame
linear velocity 3; then 0.1 hinge velocities 19 and angular velocity 3 of the first command frame.
Layout of ``latent`` (128 numbers): 64 codes, segment phase 1, hinge angles 19, 0.1 hinge velocities 19, gravity 3,
torso angular velocity 3, last action 19.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from motionlex.data import quaternion

VELOCITY_SCALE = 0.1
"""Factor on hinge velocities."""


def projected_gravity(rotation: Float[np.ndarray, "env 3 3"]) -> Float[np.ndarray, "env 3"]:
    """Return the unit gravity vector in the base frame, R^T (0, 0, -1)."""
    return -rotation[:, 2, :]


def to_heading(
    vector: Float[np.ndarray, "env 3"], rotation: Float[np.ndarray, "env 3 3"]
) -> Float[np.ndarray, "env 3"]:
    """Turn world vectors into the heading frame: vertical z, x along the heading of the base's x axis."""
    yaw = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    cosine, sine = np.cos(yaw), np.sin(yaw)
    x, y, z = vector[:, 0], vector[:, 1], vector[:, 2]
    return np.stack((cosine * x + sine * y, -sine * x + cosine * y, z), axis=1)


def proprioception(
    qpos: Float[np.ndarray, "env coordinate"],
    qvel: Float[np.ndarray, "env velocity"],
    last_action: Float[np.ndarray, "env action"],
) -> Float[np.ndarray, "env feature"]:
    """Return the robot's own state: everything the goals ``reference`` and ``decoded`` see besides the command."""
    rotation = quaternion.to_matrix(qpos[:, 3:7])
    linear_b = (rotation * qvel[:, :3, None]).sum(axis=1)
    return np.concatenate(
        (
            qpos[:, 7:],
            VELOCITY_SCALE * qvel[:, 6:],
            projected_gravity(rotation),
            qvel[:, 3:6],
            linear_b,
            qpos[:, 2:3],
            last_action,
        ),
        axis=1,
    )


def goal_features(
    qpos: Float[np.ndarray, "env coordinate"],
    goal_qpos: Float[np.ndarray, "env ahead coordinate"],
    goal_qvel: Float[np.ndarray, "env ahead velocity"],
) -> Float[np.ndarray, "env feature"]:
    """Return the command frames as seen from the robot.

    Args:
        qpos: Measured positions.
        goal_qpos: Command frames ahead, in the world.
        goal_qvel: Their velocities.
    """
    rotation = quaternion.to_matrix(qpos[:, 3:7])
    parts = []
    for ahead in range(goal_qpos.shape[1]):
        goal, velocity = goal_qpos[:, ahead], goal_qvel[:, ahead]
        relative = np.swapaxes(rotation, 1, 2) @ quaternion.to_matrix(goal[:, 3:7])
        parts += [
            goal[:, 7:] - qpos[:, 7:],
            to_heading(goal[:, :3] - qpos[:, :3], rotation),
            relative[:, :, 0],
            relative[:, :, 1],
            to_heading(velocity[:, :3], rotation),
        ]
    parts += [VELOCITY_SCALE * goal_qvel[:, 0, 6:], goal_qvel[:, 0, 3:6]]
    return np.concatenate(parts, axis=1)


def tracking_observation(
    qpos: Float[np.ndarray, "env coordinate"],
    qvel: Float[np.ndarray, "env velocity"],
    last_action: Float[np.ndarray, "env action"],
    goal_qpos: Float[np.ndarray, "env ahead coordinate"],
    goal_qvel: Float[np.ndarray, "env ahead velocity"],
) -> Float[np.ndarray, "env feature"]:
    """Return the observation of the goals ``reference`` and ``decoded``.

    Args:
        qpos: Measured positions.
        qvel: Measured velocities.
        last_action: Action of the step before, as the policy gave it (clipped to its bounds).
        goal_qpos: Command frames one and eight control steps ahead, in the same world as ``qpos``.
        goal_qvel: Their velocities.
    """
    return np.concatenate((proprioception(qpos, qvel, last_action), goal_features(qpos, goal_qpos, goal_qvel)), axis=1)


def torso_angular_velocity(
    qpos: Float[np.ndarray, "env coordinate"], qvel: Float[np.ndarray, "env velocity"], torso_joint: int
) -> Float[np.ndarray, "env 3"]:
    """Return the angular velocity of the torso in its own frame [rad/s]; the torso turns on the base about z."""
    angle = qpos[:, 7 + torso_joint]
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y, z = qvel[:, 3], qvel[:, 4], qvel[:, 5]
    return np.stack((cosine * x + sine * y, -sine * x + cosine * y, z + qvel[:, 6 + torso_joint]), axis=1)


def latent_observation(
    qpos: Float[np.ndarray, "env coordinate"],
    qvel: Float[np.ndarray, "env velocity"],
    last_action: Float[np.ndarray, "env action"],
    codes: Int[np.ndarray, "env token"],
    phase: Float[np.ndarray, " env"],
    torso_joint: int,
) -> Float[np.ndarray, "env feature"]:
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
    rotation = quaternion.to_matrix(qpos[:, 3:7])
    return np.concatenate(
        (
            codes.astype(np.float64),
            phase[:, None],
            qpos[:, 7:],
            VELOCITY_SCALE * qvel[:, 6:],
            projected_gravity(rotation),
            torso_angular_velocity(qpos, qvel, torso_joint),
            last_action,
        ),
        axis=1,
    )
