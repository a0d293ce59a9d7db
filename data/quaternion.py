"""Unit quaternions (w, x, y, z) as arrays of any leading shape; rotations act on column vectors.

Functions above :func:`slerp` take numpy arrays or torch tensors.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float

from motionlex.data.arrays import Array, namespace, stack_last

Quaternions = Float[Array, "*batch 4"]
Vectors = Float[Array, "*batch 3"]
Angle = TypeVar("Angle", float, np.ndarray)


def multiply(a: Float[Array, "*#batch 4"], b: Float[Array, "*#batch 4"]) -> Float[Array, "*out 4"]:
    """Return the Hamilton product a b (first rotate by b, then by a)."""
    aw, ax, ay, az = _parts(a)
    bw, bx, by, bz = _parts(b)
    return stack_last(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        )
    )


def conjugate(q: Quaternions) -> Quaternions:
    """Return the inverse rotation."""
    w, x, y, z = _parts(q)
    return stack_last((w, -x, -y, -z))


def normalise(q: Quaternions) -> Quaternions:
    """Return q / |q|."""
    return q / _norm(q)


def rotate(q: Float[Array, "*#batch 4"], v: Float[Array, "*#batch 3"]) -> Float[Array, "*out 3"]:
    """Rotate vectors v by q."""
    w, a, b, c = _parts(q)
    x, y, z = _parts(v)
    tx, ty, tz = 2.0 * (b * z - c * y), 2.0 * (c * x - a * z), 2.0 * (a * y - b * x)
    return stack_last((x + w * tx + (b * tz - c * ty), y + w * ty + (c * tx - a * tz), z + w * tz + (a * ty - b * tx)))


def to_matrix(q: Quaternions) -> Float[Array, "*batch 3 3"]:
    """Return rotation matrices R with R v = rotate(q, v)."""
    w, x, y, z = _parts(q)
    xx, yy, zz, wx, wy, wz = x * x, y * y, z * z, w * x, w * y, w * z
    xy, xz, yz = x * y, x * z, y * z
    xp = namespace(q)
    flat = xp.stack(
        (
            *(1 - 2 * (yy + zz), 2 * (xy - wz), 2 * (xz + wy)),
            *(2 * (xy + wz), 1 - 2 * (xx + zz), 2 * (yz - wx)),
            *(2 * (xz - wy), 2 * (yz + wx), 1 - 2 * (xx + yy)),
        ),
        axis=0,
    )
    return xp.permute_dims(flat.reshape((3, 3, *w.shape)), (*range(2, w.ndim + 2), 0, 1))


def from_yaw(yaw: Float[Array, "*batch"] | float) -> Float[Array, "*batch 4"]:
    """Return rotations about the vertical by ``yaw`` [rad]."""
    half = 0.5 * yaw if isinstance(yaw, torch.Tensor) else np.asarray(0.5 * yaw)
    xp = namespace(half)
    zero = xp.zeros_like(half)
    return stack_last((xp.cos(half), zero, zero, xp.sin(half)))


def yaw(q: Quaternions) -> Float[Array, "*batch"]:
    """Return the heading [rad]: angle of the rotated x axis in the horizontal plane."""
    w, x, y, z = _parts(q)
    xp = namespace(q)
    return xp.asarray(xp.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z)))


def heading(q: Quaternions) -> Float[Array, "*batch"]:
    r"""Return the turn about the vertical [rad] that is left of a rotation when its smallest tilt is taken away.

    .. math:: q = q_\text{yaw}\, q_\text{tilt},\quad \psi = 2\,\operatorname{atan2}(q_z, q_w)
        = \operatorname{atan2}(2 q_w q_z,\; q_w^2 - q_z^2)

    where the axis of the tilt is horizontal (swing and twist). Of all turns about the vertical it is the nearest to q.
    It is smooth where :func:`yaw` jumps by half a turn, with the x axis vertical (a robot on its back or its belly),
    and undefined only upside down. For a rotation about the vertical alone both agree.

    Args:
        q: Rotations; q and -q have the same heading.

    Returns:
        Angles in [-pi, pi].
    """
    w, _, _, z = _parts(q)
    xp = namespace(q)
    return xp.asarray(xp.atan2(2 * w * z, (w - z) * (w + z)))


def wrap_angle(angle: Angle) -> Angle:
    """Map an angle, or an array of them, [rad] to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def to_rotvec(q: Quaternions) -> Vectors:
    """Return rotation vectors [rad] with angle in [0, pi]."""
    xp = namespace(q)
    q = xp.where(q[..., :1] < 0, -q, q)
    sine = _norm(q[..., 1:])
    angle = 2.0 * xp.atan2(sine, q[..., :1])
    scale = xp.where(sine > 1e-9, angle / xp.where(sine > 1e-9, sine, 1.0), 2.0)
    return scale * q[..., 1:]


def from_rotvec(v: Vectors) -> Quaternions:
    """Return the rotations whose rotation vectors [rad] are v."""
    xp = namespace(v)
    angle = _norm(v)
    half = 0.5 * angle
    scale = xp.where(angle > 1e-9, xp.sin(half) / xp.where(angle > 1e-9, angle, 1.0), 0.5)
    return xp.concat((xp.cos(half), scale * v), axis=-1)


def from_matrix(matrix: Float[Array, "*batch 3 3"]) -> Quaternions:
    """Return quaternions of rotation matrices, with either sign.

    The matrix tells all of 4 q q^T; of its rows, each a multiple of q, the one with the largest diagonal element is
    taken, so that no digits are lost.
    """
    xp = namespace(matrix)
    (a, b, c), (d, e, f), (g, h, i) = (tuple(matrix[..., row, col] for col in range(3)) for row in range(3))
    rows = (
        (1 + a + e + i, h - f, c - g, d - b),
        (h - f, 1 + a - e - i, b + d, c + g),
        (c - g, b + d, 1 - a + e - i, f + h),
        (d - b, c + g, f + h, 1 - a - e + i),
    )
    best, size = stack_last(rows[0]), rows[0][0]
    for index in (1, 2, 3):
        larger = rows[index][index] > size
        best = xp.where(larger[..., None], stack_last(rows[index]), best)
        size = xp.where(larger, rows[index][index], size)
    return normalise(best)


def angle_between(a: Float[Array, "*#batch 4"], b: Float[Array, "*#batch 4"]) -> Float[Array, "*out"]:
    """Return the angle [rad] in [0, pi] of the rotation from a to b; q and -q are the same rotation."""
    xp = namespace(a)
    difference = multiply(conjugate(a), b)
    sine = _norm(difference[..., 1:])[..., 0]
    return xp.asarray(2.0 * xp.atan2(sine, xp.abs(difference[..., 0])))


def _parts(x: Float[Array, "*batch part"]) -> tuple[Array | np.generic, ...]:
    """Return the components along the last axis."""
    return tuple(x[..., part] for part in range(x.shape[-1]))


def _norm(x: Float[Array, "*batch part"]) -> Float[Array, "*batch 1"]:
    return namespace(x).sqrt((x * x).sum(axis=-1))[..., None]


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
