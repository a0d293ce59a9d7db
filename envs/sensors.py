"""Errors of the sensors in observations: how large they are, and what is seen of a robot that measures with them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from motionlex.data.arrays import Array, like, namespace
from motionlex.envs.observations import VELOCITY_SCALE, goal_frame_starts
from motionlex.envs.task import TrackingTask


class Sensors:
    """Which columns of an observation are measured, and what else they show."""

    def __init__(self, task: TrackingTask) -> None:
        """Find the columns; arrays are of the kind of the task's library."""
        config, self._joints, first = task.config, task.actions, 0
        noise = config.randomisation.noise
        if config.goal == "latent":
            assert task.command.codes is not None
            first = task.command.codes.shape[2] + 1  # codes and phase come first
        deviation = np.repeat(
            (noise.joint, VELOCITY_SCALE * noise.joint_velocity, noise.gravity, noise.angular_velocity),
            (self._joints, self._joints, 3, 3),
        )
        self.deviation: Float[Array, " measured"] = like(task.library.qpos, deviation)
        """Standard deviation of every measured column, in the observation's units."""
        self._tilting = noise.gravity > 0.0
        self._measured = slice(first, first + len(deviation))
        self._gravity = slice(first + 2 * self._joints, first + 2 * self._joints + 3)
        # Codes say nothing about the robot; frames of a motion are shown relative to what is measured.
        self._frames = () if config.goal == "latent" else goal_frame_starts(self._joints, len(config.ahead))

    def measure(
        self, observation: Float[Array, "row feature"], errors: Float[Array, "row measured"]
    ) -> Float[Array, "row feature"]:
        """Add errors of the sensors to exact observations, in place; command frames are seen from what is measured.

        So a command's hinge angles minus the measured ones, plus the measured ones, are the command's whatever the
        error, and its rotations are relative to a base whose tilt is the measured gravity's. Heading, place and linear
        velocity of the base have no error, and what a critic sees besides the policy's part has none either.
        """
        joints, xp = self._joints, namespace(observation)
        exact = xp.asarray(observation[:, self._gravity], copy=True)
        observation[:, self._measured] += errors
        for start in self._frames:
            observation[:, start : start + joints] -= errors[:, :joints]
            if self._tilting:
                turned = slice(start + joints + 3, start + joints + 9)
                columns = xp.reshape(observation[:, turned], (-1, 2, 3))
                tilted = _tilted(columns, exact, observation[:, self._gravity])
                observation[:, turned] = xp.reshape(tilted, (-1, 6))
        return observation


def _tilted(
    vectors: Float[Array, "row vector 3"], exact: Float[Array, "row 3"], measured: Float[Array, "row 3"]
) -> Float[Array, "row vector 3"]:
    """Turn vectors by the smallest rotation that takes the exact direction of gravity to the measured one.

    Args:
        vectors: In the frame of the base.
        exact: Unit vector of gravity there.
        measured: The same with an error, of any length.

    Source: Rodrigues' formula, the axis being the cross product of both directions.
    """
    xp = namespace(vectors)
    unit = measured / xp.linalg.vector_norm(measured, axis=1, keepdims=True)
    cosine = xp.sum(exact * unit, axis=1)[:, None, None]
    axis = xp.broadcast_to(xp.linalg.cross(exact, unit)[:, None], vectors.shape)  # as long as the sine of the angle
    once = xp.linalg.cross(axis, vectors)
    return vectors + once + xp.linalg.cross(axis, once) / (1.0 + cosine)
