"""How far apart two sets of feature vectors are, and how varied one is; the draws behind their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from motionlex.motion_vae.frechet import frechet_distance, moments

PER_ACTION = 3
"""Windows of every action in one draw."""


def mean_distance(features: Float[np.ndarray, "window dimension"]) -> float:
    """Mean Euclidean distance over all pairs: diversity."""
    squares = (features**2).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2.0 * features @ features.T, 0.0))
    return float(distance[np.triu_indices(len(features), 1)].mean())


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Embedded windows, with the action and the take that each is of."""

    features: Float[np.ndarray, "window dimension"]
    """Embedded windows."""
    action: Int[np.ndarray, " window"]
    """Index of the action."""
    take: Int[np.ndarray, " window"]
    """Index of the take: windows of one take are no independent samples."""

    def halves(
        self, actions: Int[np.ndarray, " action"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
        """Draw ``PER_ACTION`` windows of each action twice, from two halves of its takes that share none.

        An action with a single take gives both halves the same windows to draw from.

        Args:
            actions: Actions that occur.
            rng: Source of the draw.
        """
        rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for action in actions:
            mine = np.flatnonzero(self.action == action)
            takes = rng.permutation(np.unique(self.take[mine]))
            middle = max(1, len(takes) // 2)
            for half, chosen in zip(rows, (takes[:middle], takes[middle:] if len(takes) > 1 else takes), strict=True):
                pool = mine[np.isin(self.take[mine], chosen)]
                half.append(rng.choice(pool, size=PER_ACTION, replace=len(pool) < PER_ACTION))
        return np.concatenate(rows[0]), np.concatenate(rows[1])


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one draw gave."""

    distance: float
    """Frechet distance between the drawn halves."""
    diversity: float
    """Mean distance between the windows drawn from the sample."""


def compare(sample: Sample, real: Sample, *, floor: bool, draws: int, rng: np.random.Generator) -> Iterator[Draw]:
    """Compare half of the takes of a sample with half of the real ones, again and again, at one sample size.

    The Frechet distance of finite samples is biased upwards, more so for small ones. Therefore everything is compared
    at the same size: ``PER_ACTION`` windows of each action that both have, from half of the takes.

    Args:
        sample: What is measured.
        real: Held-out recordings.
        floor: Whether the sample is the recordings themselves: then two halves that share no take are compared.
        draws: How many draws.
        rng: Source of the draws.
    Source: half-sampling (McCarthy 1969): a half of n takes without replacement varies as n takes with replacement do.
    """
    actions = np.intersect1d(sample.action, real.action)
    for _ in range(draws):
        first, second = sample.halves(actions, rng)
        other = second if floor else real.halves(actions, rng)[0]
        mine, theirs = sample.features[first], real.features[other]
        yield Draw(distance=frechet_distance(*moments(mine), *moments(theirs)), diversity=mean_distance(mine))
