r"""Paths of the centre of mass whose zero-moment point follows a plan.

Both paths are sparse least-squares problems over the whole clip, so later steps are anticipated as in
preview control (Kajita et al. 2003) without a horizon.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Bool, Float
from scipy.sparse.linalg import splu

GRAVITY = 9.81
_JERK_SCALE = 60.0
"""Jerk [m/s^3] that counts as much as 1 cm of error."""


def _difference(n: int, stencil: tuple[float, ...], dt: float) -> sparse.csr_matrix:
    """Rows of a finite difference inside the clip."""
    order = len(stencil) - 1
    offsets = range(len(stencil))
    return sparse.diags([c / dt**order for c in stencil], list(offsets), shape=(n - order, n), format="csr")


def vertical_path(
    reference: Float[np.ndarray, " frame"], flight: Bool[np.ndarray, " frame"], *, dt: float
) -> Float[np.ndarray, " frame"]:
    """Return heights near a reference that are ballistic in flight.

    Minimises (z - ref)^2 on the floor, (z'' + g)^2 with a very large weight in flight, and the jerk.

    Args:
        reference: Wanted height [m].
        flight: True where no foot stands.
        dt: Time between frames [s].
    """
    n = len(reference)
    second, third = _difference(n, (1.0, -2.0, 1.0), dt), _difference(n, (-1.0, 3.0, -3.0, 1.0), dt)
    inside = flight[1:-1]
    track = sparse.diags(np.where(flight, 1e-6, 1.0))
    ballistic = sparse.diags(np.where(inside, 1e3, 1e-5))
    touching = inside[1:] | inside[:-1] | np.append(inside[2:], False) | np.insert(inside[:-2], 0, False)
    jerk = sparse.diags(np.where(touching, 1e-10, (0.01 / _JERK_SCALE) ** 2))
    normal = track + second.T @ ballistic @ second + third.T @ jerk @ third
    right = track @ reference + second.T @ (ballistic @ np.where(inside, -GRAVITY, 0.0))
    return splu(normal.tocsc()).solve(right)


def lever(height: Float[np.ndarray, " frame"], *, dt: float) -> Float[np.ndarray, " frame"]:
    r"""Return :math:`z / (\ddot z + g)` [s^2], the factor between acceleration and zero-moment point."""
    acceleration = np.zeros_like(height)
    acceleration[1:-1] = (height[2:] - 2 * height[1:-1] + height[:-2]) / dt**2
    return height / np.maximum(acceleration + GRAVITY, 1.0)


def horizontal_path(
    zmp: Float[np.ndarray, "frame axis"],
    factor: Float[np.ndarray, " frame"],
    flight: Bool[np.ndarray, " frame"],
    *,
    dt: float,
) -> Float[np.ndarray, "frame axis"]:
    r"""Return the path x whose zero-moment point :math:`x - \frac{z}{\ddot z + g}\ddot x` follows ``zmp``.

    In flight :math:`\ddot x = 0` instead. The jerk is regularised, and both ends are at rest.

    Args:
        zmp: Wanted zero-moment point [m]; linear in it, so errors can be fed through as well.
        factor: ``lever`` [s^2].
        flight: True where no foot stands.
        dt: Time between frames [s].
    """
    n = len(zmp)
    second, third = _difference(n, (1.0, -2.0, 1.0), dt), _difference(n, (-1.0, 3.0, -3.0, 1.0), dt)
    inside = flight[1:-1]
    select = sparse.eye(n, format="csr")[1:-1]
    point = select - sparse.diags(factor[1:-1]) @ second
    on_floor = sparse.diags(np.where(inside, 0.0, 1.0))
    ballistic = sparse.diags(np.where(inside, 1e2, 0.0))
    ends = np.zeros(n)
    ends[[0, 1, -2, -1]] = 1e2
    jerk = (0.01 / _JERK_SCALE / 4) ** 2
    normal = point.T @ on_floor @ point + second.T @ ballistic @ second + jerk * third.T @ third + sparse.diags(ends)
    right = point.T @ (on_floor @ zmp[1:-1]) + ends[:, None] * zmp
    return splu(normal.tocsc()).solve(right)


def rocking(
    moment: Float[np.ndarray, "frame axis"],
    inertia: Float[np.ndarray, " axis"],
    flight: Bool[np.ndarray, " frame"],
    *,
    dt: float,
) -> Float[np.ndarray, "frame axis"]:
    r"""Return angles whose acceleration takes up a moment that nothing outside can give in flight.

    Minimises :math:`(I \ddot\theta - m)^2` in flight against small and smooth angles on the floor.

    Args:
        moment: Outer moment [N m] that the motion needs so far.
        inertia: Moment of inertia I of what rocks, for each axis [kg m^2].
        flight: True where no foot stands.
        dt: Time between frames [s].

    Returns:
        Changes of the angles [rad].
    """
    n = len(moment)
    second = _difference(n, (1.0, -2.0, 1.0), dt)
    inside = flight[1:-1]
    weight = sparse.diags(np.where(inside, 1.0, 3e-4))
    small = sparse.diags(np.where(flight, 1e-3, 1.0))
    right = second.T @ (weight @ np.where(inside[:, None], moment[1:-1] / inertia, 0.0))
    return splu((second.T @ weight @ second + small).tocsc()).solve(-right)
