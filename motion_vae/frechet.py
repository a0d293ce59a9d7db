"""How far apart two sets of feature vectors are: distance of fitted Gaussians, and of kernel means.

Both serve whatever gives the features: an image network (FID, KID) or an evaluator of motions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

KERNEL_DEGREE = 3
"""Of the polynomial kernel of KID."""


def moments(
    features: Float[np.ndarray, "example dimension"],
) -> tuple[Float[np.ndarray, " dimension"], Float[np.ndarray, "dimension dimension"]]:
    """Return mean and unbiased covariance in float64.

    Args:
        features: At least two vectors.
    """
    centre = features.mean(axis=0, dtype=np.float64)
    centred = features - centre
    return centre, centred.T @ centred / (len(features) - 1)


def frechet_distance(
    mean: Float[np.ndarray, " dimension"],
    covariance: Float[np.ndarray, "dimension dimension"],
    other_mean: Float[np.ndarray, " dimension"],
    other_covariance: Float[np.ndarray, "dimension dimension"],
) -> float:
    r"""Distance of two Gaussians.

    .. math:: d = \lVert \mu_1 - \mu_2 \rVert^2 + \mathrm{tr}\bigl(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2}\bigr)

    The symmetric form has a root of its own for every covariance, also a singular one (fewer vectors than dimensions),
    where that of the product :math:`C_1 C_2` may come out complex.

    Args:
        mean: mu_1.
        covariance: C_1, symmetric and positive semi-definite up to rounding.
        other_mean: mu_2.
        other_covariance: C_2.

    Returns:
        The squared 2-Wasserstein distance, at least 0.
    Source: Dowson and Landau 1982; Heusel et al. 2017.
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_covariance @ root), 0.0)).sum()
    difference = mean - other_mean
    distance = difference @ difference + np.trace(covariance) + np.trace(other_covariance) - 2.0 * cross
    return float(max(distance, 0.0))


def polynomial_kernel(
    x: Float[np.ndarray, "example dimension"], y: Float[np.ndarray, "other dimension"]
) -> Float[np.ndarray, "example other"]:
    r"""Kernel of KID, :math:`k(x, y) = (x \cdot y / d + 1)^3` with d dimensions.

    Source: Binkowski et al. 2018, section 4.
    """
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1.0) ** KERNEL_DEGREE


def kernel_distance(x: Float[np.ndarray, "example dimension"], y: Float[np.ndarray, "other dimension"]) -> float:
    r"""Squared distance of the kernel means of two distributions (MMD^2), estimated without bias.

    .. math::

        \frac{1}{m (m-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{n (n-1)} \sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{m n} \sum_{i, j} k(x_i, y_j)

    Args:
        x: m samples of one, at least two.
        y: n samples of the other, at least two.

    Returns:
        The estimate; it may be negative.
    Source: Binkowski et al. 2018, equation (4); Gretton et al. 2012, lemma 6.
    """
    within = 0.0
    for sample in (x, y):
        kernel = polynomial_kernel(sample, sample)
        within += (kernel.sum() - np.trace(kernel)) / (len(sample) * (len(sample) - 1))
    return float(within - 2.0 * polynomial_kernel(x, y).mean())


class BlockEstimate(NamedTuple):
    """An average over blocks."""

    mean: float
    """Average of the estimates of all blocks."""
    standard_error: float
    """Standard deviation between blocks, by the root of their number."""
    blocks: int
    """Number of blocks."""
    block: int
    """Samples of each side in a block."""


def kernel_distance_in_blocks(
    x: Float[np.ndarray, "example dimension"],
    y: Float[np.ndarray, "other dimension"],
    *,
    block: int = 1000,
    rng: np.random.Generator,
) -> BlockEstimate:
    """Average :func:`kernel_distance` over disjoint blocks of both samples, which bounds memory and gives an error bar.

    Args:
        x: Samples of one distribution.
        y: Samples of the other.
        block: Samples of each side in a block; fewer samples are cut into two blocks.
        rng: Shuffles both samples before they are cut.

    Returns:
        Mean and its standard error.
    Source: Zaremba, Gretton and Blaschko 2013 (B-test). Departure: Binkowski et al. average over subsets drawn anew
        from the same samples (100 of 1,000), whose spread is no error of the mean.
    """
    fewest = min(len(x), len(y))
    assert fewest >= 4, f"blocks need at least 4 samples of each side, got {fewest}"
    block = min(block, fewest // 2)
    estimates = np.array([kernel_distance(*pair) for pair in _blocks(x, y, block, rng)])
    error = float(estimates.std(ddof=1) / np.sqrt(len(estimates)))
    return BlockEstimate(mean=float(estimates.mean()), standard_error=error, blocks=len(estimates), block=block)


def _blocks(
    x: Float[np.ndarray, "example dimension"],
    y: Float[np.ndarray, "other dimension"],
    block: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Float[np.ndarray, "block dimension"], Float[np.ndarray, "block dimension"]]]:
    first, second = rng.permutation(len(x)), rng.permutation(len(y))
    for start in range(0, min(len(x), len(y)) - block + 1, block):
        yield x[first[start : start + block]], y[second[start : start + block]]
