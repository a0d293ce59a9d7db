"""95 % intervals: Wilson's for rates, the percentile bootstrap over episodes for means.

Both take episodes to be independent, which repeats of one clip are not.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import stats

CONFIDENCE = 0.95
"""Level of every interval."""
ASSUMPTION = (
    "Intervals are 95 %: Wilson's for rates, a bootstrap over episodes for means. Both take the episodes to be "
    "independent. Starts in one clip and repeats of one start are not: with few clips and many repeats the intervals "
    "say how well these clips were measured, and are too narrow for clips that were not."
)
"""What the intervals mean, in words for reports."""
_RESAMPLES = 1000


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the interval of a rate.

    Args:
        successes: How many of the trials succeeded.
        trials: At least 1; independent.
    Source: Wilson 1927, by scipy.
    """
    found = stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def ratio(numerator: Float[np.ndarray, " episode"], denominator: Float[np.ndarray, " episode"]) -> float:
    """Return sum / sum: a mean over frames when the denominator counts them; NaN where it is 0."""
    total = float(denominator.sum())
    return float(numerator.sum()) / total if total > 0 else float("nan")


def bootstrap_interval(
    numerator: Float[np.ndarray, " episode"], denominator: Float[np.ndarray, " episode"], *, seed: int
) -> tuple[float, float] | None:
    """Return the interval of :func:`ratio` when whole episodes are drawn anew with replacement.

    Args:
        numerator: Sum of the quantity per episode.
        denominator: Its weight per episode; episodes of weight 0 are left out.
        seed: Seed of the 1000 draws.

    Returns:
        Both ends; None where fewer than two episodes carry weight.
    Source: Efron's percentile bootstrap, by scipy.
    """
    used = denominator > 0
    if used.sum() < 2:
        return None
    found = stats.bootstrap(
        (numerator[used], denominator[used]),
        lambda above, below, axis: above.sum(axis=axis) / below.sum(axis=axis),
        n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE,
        paired=True,
        vectorized=True,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
