"""Recording glitches: steps of the root that no body could make, found by their size and masked with a margin."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from motionlex.data import quaternion

LINEAR_THRESHOLD = 4.0
"""Least deviation [m/s] of a step's velocity from the mean of its neighbours that counts as a teleport."""
ANGULAR_THRESHOLD = 16.0
"""Least deviation [rad/s] of a step's angular velocity from the mean of its neighbours that counts as a spike."""
MARGIN_S = 0.17
"""Time [s] masked on either side: velocities are differences, and a spline through a jump rings for some frames."""


def step_deviation(
    qpos: Float[np.ndarray, "frame 26"], hz: float
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"]]:
    r"""Measure how far every root step is from what its neighbours suggest.

    .. math:: e_i = \lVert v_i - (v_{i-1} + v_{i+1}) / 2 \rVert

    with :math:`v_i` the velocity of the step from frame i to frame i + 1. A jump of d metres within one frame shows
    as :math:`d \cdot hz` whatever the speed, while running, falling and landing stay far below.

    Args:
        qpos: Positions, see ``MotionClip.qpos``.
        hz: Frames per second.

    Returns:
        Linear [m/s] and angular [rad/s] deviation of every step; the first and the last step, which have one
        neighbour only, are compared with that.
    """
    linear = np.diff(qpos[:, :3], axis=0) * hz
    turn = quaternion.multiply(qpos[1:, 3:7], quaternion.conjugate(qpos[:-1, 3:7]))
    return _deviation(linear), _deviation(quaternion.to_rotvec(turn) * hz)


def glitch_steps(
    qpos: Float[np.ndarray, "frame 26"],
    hz: float,
    *,
    linear_threshold: float = LINEAR_THRESHOLD,
    angular_threshold: float = ANGULAR_THRESHOLD,
) -> Int[np.ndarray, " glitch"]:
    """Return the frames after which the root jumps.

    Args:
        qpos: Positions, see ``MotionClip.qpos``.
        hz: Frames per second.
        linear_threshold: See ``LINEAR_THRESHOLD`` [m/s].
        angular_threshold: See ``ANGULAR_THRESHOLD`` [rad/s].

    Returns:
        Frame i for a jump between frames i and i + 1; of neighbouring detections (the echo of a large jump in the
        steps beside it) only the largest.
    """
    linear, angular = step_deviation(qpos, hz)
    size = np.maximum(linear / linear_threshold, angular / angular_threshold)
    padded = np.concatenate(([0.0, 0.0], size, [0.0, 0.0]))
    largest = np.max([padded[k : k + len(size)] for k in range(5)], axis=0)
    return np.flatnonzero((size > 1.0) & (size >= largest))


def valid_mask(
    qpos: Float[np.ndarray, "frame 26"], hz: float, *, margin_s: float = MARGIN_S
) -> Bool[np.ndarray, " frame"]:
    """Return False for frames within ``margin_s`` [s] of a glitch, True elsewhere."""
    valid = np.ones(len(qpos), dtype=bool)
    margin = int(np.ceil(margin_s * hz - 1e-9))
    for step in glitch_steps(qpos, hz):
        valid[max(0, step + 1 - margin) : step + 1 + margin] = False
    return valid


def _deviation(velocity: Float[np.ndarray, "step 3"]) -> Float[np.ndarray, " step"]:
    if len(velocity) < 2:
        return np.zeros(len(velocity))
    before = np.concatenate((velocity[1:2], velocity[:-1]))
    after = np.concatenate((velocity[1:], velocity[-2:-1]))
    return np.linalg.norm(velocity - 0.5 * (before + after), axis=-1)
