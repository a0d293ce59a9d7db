"""The perturbation of start states: a pure function on numpy arrays or torch tensors."""

from __future__ import annotations

from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.arrays import Array, clamp, namespace
from motionlex.envs.task_config import StartNoise


def start_draws(joints: int) -> int:
    """Return how many standard normal numbers :func:`perturbed` wants per robot."""
    return 2 * joints + 11


def perturbed(
    qpos: Float[Array, "row coordinate"],
    qvel: Float[Array, "row velocity"],
    draw: Float[Array, "row draw"],
    noise: StartNoise,
    lower: Float[Array, " joint"],
    upper: Float[Array, " joint"],
) -> tuple[Float[Array, "row coordinate"], Float[Array, "row velocity"]]:
    """Add start noise; hinges stay inside their limits (or where the reference already was outside).

    Args:
        qpos: Reference positions.
        qvel: Reference velocities.
        draw: Standard normal numbers, :func:`start_draws` per robot.
        noise: Their standard deviations.
        lower: Lower limits of the hinges [rad].
        upper: Upper limits of the hinges [rad].
    """
    xp, hinges = namespace(qpos), len(lower)
    clean = qpos[:, 7:]
    moved = clean + noise.joint * draw[:, :hinges]
    moved = clamp(moved, xp.minimum(lower, clean), xp.maximum(upper, clean))
    place = qpos[:, :2] + noise.position * draw[:, 2 * hinges : 2 * hinges + 2]
    turn = quaternion.from_rotvec(noise.orientation * draw[:, 2 * hinges + 2 : 2 * hinges + 5])
    turned = quaternion.multiply(qpos[:, 3:7], turn)
    speed = qvel[:, 6:] + noise.joint_velocity * draw[:, hinges : 2 * hinges]
    root = qvel[:, :6] + noise.velocity * draw[:, 2 * hinges + 5 :]
    return xp.concat((place, qpos[:, 2:3], turned, moved), axis=1), xp.concat((root, speed), axis=1)
