"""Unit quaternions (w, x, y, z) as arrays of any leading shape; rotations act on column vectors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Quaternions = Float[np.ndarray, "*batch 4"]
Vectors = Float[np.ndarray, "*batch 3"]


def multiply(a: Float[np.ndarray, "*#batch 4"], b: Float[np.ndarray, "*#batch 4"]) -> Float[np.ndarray, "*out 4"]:
    """Return the Hamilton product a b (first rotate by b, then by a)."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        axis=-1,
    )


def conjugate(q: Quaternions) -> Quaternions:
    """Return the inverse rotation."""
    return q * np.array([1.0, -1.0, -1.0, -1.0])


def normalise(q: Quaternions) -> Quaternions:
    """Return q / |q|."""
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def rotate(q: Float[np.ndarray, "*#batch 4"], v: Float[np.ndarray, "*#batch 3"]) -> Float[np.ndarray, "*out 3"]:
    """Rotate vectors v by q."""
    w, u = q[..., :1], q[..., 1:]
    t = 2.0 * np.cross(u, v)
    return v + w * t + np.cross(u, t)


def to_matrix(q: Quaternions) -> Float[np.ndarray, "*batch 3 3"]:
    """Return rotation matrices R with R v = rotate(q, v)."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def from_yaw(yaw: Float[np.ndarray, "*batch"] | float) -> Float[np.ndarray, "*batch 4"]:
    """Return rotations about the vertical by ``yaw`` [rad]."""
    half = 0.5 * np.asarray(yaw, dtype=float)
    zero = np.zeros_like(half)
    return np.stack((np.cos(half), zero, zero, np.sin(half)), axis=-1)


def yaw(q: Quaternions) -> Float[np.ndarray, "*batch"]:
    """Return the heading [rad]: angle of the rotated x axis in the horizontal plane."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    return np.asarray(np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z)))


def to_rotvec(q: Quaternions) -> Vectors:
    """Return rotation vectors [rad] with angle in [0, pi]."""
    q = np.where(q[..., :1] < 0, -q, q)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, q[..., :1])
    scale = np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)
    return scale * q[..., 1:]


def from_rotvec(v: Vectors) -> Quaternions:
    """Return the rotations whose rotation vectors [rad] are v."""
    angle = np.linalg.norm(v, axis=-1, keepdims=True)
    half = 0.5 * angle
    scale = np.where(angle > 1e-9, np.sin(half) / np.maximum(angle, 1e-9), 0.5)
    return np.concatenate((np.cos(half), scale * v), axis=-1)


def angle_between(a: Float[np.ndarray, "*#batch 4"], b: Float[np.ndarray, "*#batch 4"]) -> Float[np.ndarray, "*out"]:
    """Return the angle [rad] in [0, pi] of the rotation from a to b; q and -q are the same rotation."""
    return np.asarray(np.linalg.norm(to_rotvec(multiply(conjugate(a), b)), axis=-1))


def slerp(a: Quaternions, b: Quaternions, fraction: Float[np.ndarray, "*batch"] | float) -> Quaternions:
    """Interpolate along the shorter arc; fraction 0 gives a, 1 gives b (up to sign)."""
    step = to_rotvec(multiply(conjugate(a), b))
    return multiply(a, from_rotvec(np.asarray(fraction)[..., None] * step))


def angular_velocity(q: Float[np.ndarray, "frame 4"], dt: float) -> Float[np.ndarray, "frame 3"]:
    """Return body-frame angular velocity [rad/s] by central differences (one-sided at the ends).

    Args:
        q: Orientations of consecutive frames.
        dt: Time between frames [s].
    """
    earlier = np.concatenate((q[:1], q[:-1]))
    later = np.concatenate((q[1:], q[-1:]))
    span = np.full(len(q), 2.0 * dt)
    span[0] = span[-1] = dt
    world = to_rotvec(multiply(later, conjugate(earlier))) / span[:, None]
    return rotate(conjugate(q), world)


def integrate(q: Quaternions, omega_b: Vectors, dt: float) -> Quaternions:
    """Advance q by a constant body-frame angular velocity [rad/s] over dt [s]."""
    return multiply(q, from_rotvec(omega_b * dt))


def make_continuous(q: Float[np.ndarray, "*batch frame 4"]) -> Float[np.ndarray, "*batch frame 4"]:
    """Flip signs so that consecutive frames lie in the same hemisphere; the first frame keeps its sign."""
    dots = np.sum(q[..., 1:, :] * q[..., :-1, :], axis=-1)
    signs = np.cumprod(np.where(dots < 0, -1.0, 1.0), axis=-1)
    first = np.ones_like(signs[..., :1]) if signs.shape[-1] else np.ones((*q.shape[:-2], 1))
    return q * np.concatenate((first, signs), axis=-1)[..., None]
