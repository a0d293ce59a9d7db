"""Where episodes start: more often shortly before where the policy fails."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from motionlex.data.arrays import Array, namespace
from motionlex.envs.reference import MotionLibrary

_LOOK_AHEAD = 3
"""Bins after its own that count for a bin's weight."""
_DECAY = 0.8
"""How much less each of them counts than the one before it."""


class StartSampler:
    """Start frames, more often shortly before where the policy fails.

    The library is cut into bins of 0.5 s. Each keeps a moving average of failure: a finished episode writes 0 to the
    bins it passed and 1 to the bin in which it was terminated. A bin's weight is its own average plus those of the bins
    of the next 1.5 s, each 0.8 of the one before: a fall begins a second or more before the reference counts as lost.
    To this comes a moving average of its own starts that failed within that time. Without it nobody would notice a
    policy that stumbles at the beginning of a run: nothing but starts ever leads there, and those who pass the next
    bins on their way from elsewhere outvote them. A share of the starts stays uniform over all frames. Bins never cross
    the ends of a run. Where a library has several groups of runs, each group gets its share of the starts, however it
    fares.

    Attributes:
        failure: The two averages, (2, bin): of those who pass or end there, and of those who start there.
    """

    def __init__(
        self, library: MotionLibrary, *, bin_s: float = 0.5, uniform_share: float = 0.3, rate: float = 0.1
    ) -> None:
        """Cut the library into bins; all count as failing until passed, and no start as failing until one did.

        Args:
            library: Motions; the sampler's arrays are of their kind.
            bin_s: Width of a bin [s].
            uniform_share: Share of the starts that is uniform over all frames.
            rate: Weight of one finished episode in a bin's moving average.
        """
        width = max(1, round(bin_s * library.hz))
        tail = 10  # an episode that starts in a run's last frames teaches nothing
        edges = [
            (start, min(start + width, int(stop) - tail))
            for a, stop in zip(library.run_starts, library.run_stops, strict=True)
            for start in range(int(a), int(stop) - tail, width)
        ]
        starts, stops = (np.array(side) for side in zip(*edges, strict=True))
        joined = np.append(stops[:-1] == starts[1:], False)
        size = (stops - starts).astype(float)
        self._starts, self._size, self._joined, self._floor, self.failure = (
            value if isinstance(library.qpos, np.ndarray) else torch.as_tensor(value, device=library.qpos.device)
            for value in (
                *(starts, size, joined.astype(float), uniform_share * size / size.sum()),
                np.stack((np.ones(len(edges)), np.zeros(len(edges)))),
            )
        )
        self._uniform_share, self._rate, self._bin_s = uniform_share, rate, width / library.hz
        self._groups = _memberships(library, starts) if len(library.group_shares) > 1 else None

    def sample(self, draw: Float[Array, "2 env"]) -> Int[Array, " env"]:
        """Return start frames.

        Args:
            draw: Uniform numbers in [0, 1), two per start.
        """
        xp = namespace(self.failure)
        passing, starting = self.failure
        weight = passing
        for _ in range(_LOOK_AHEAD):  # each round looks one bin further
            after = xp.concat((weight[1:], xp.zeros_like(weight[:1]))) * self._joined
            weight = passing + _DECAY * after
        weight = weight + starting + 1e-9
        share = (1.0 - self._uniform_share) * weight / weight.sum() + self._floor
        if self._groups is not None:
            member, wanted = self._groups
            share = share * ((wanted / (member @ share)) @ member)
        cumulative = xp.cumulative_sum(share)
        chosen = xp.searchsorted(cumulative, draw[0] * cumulative[-1], side="right")
        chosen = xp.where(chosen < len(share), chosen, len(share) - 1)
        return self._starts[chosen] + xp.astype(draw[1] * self._size[chosen], self._starts.dtype)

    def update(
        self, start: Int[Array, " episode"], end: Int[Array, " episode"], failed: Bool[Array, " episode"]
    ) -> None:
        """Learn from finished episodes that ran over [start, end] of one run each; their order does not matter.

        With n episodes that passed or failed in a bin and k that failed there, the average f becomes
        (1 - r)^n f + (1 - (1 - r)^n) k / n; and likewise with n that started there and k of them that failed soon.
        """
        xp, bins = namespace(self.failure), self.failure.shape[1]
        first = xp.searchsorted(self._starts, start, side="right") - 1
        last = xp.searchsorted(self._starts, end, side="right") - 1

        def count(chosen: Int[Array, " episode"]) -> Int[Array, " bin"]:
            return xp.bincount(chosen, minlength=bins + 1)[:bins]

        begun = count(first)
        seen = xp.stack((xp.cumulative_sum(begun - count(last + 1)), begun))
        lost = xp.stack((count(last[failed]), count(first[failed & (last - first <= _LOOK_AHEAD)])))
        kept = (1.0 - self._rate) ** seen
        self.failure = kept * self.failure + (1.0 - kept) * lost / xp.where(seen > 0, seen, 1)

    @property
    def mean_failure(self) -> float:
        """Share of those who come to a bin and are lost there, averaged over bins."""
        return float(self.failure[0].mean())

    def failing_share(self, episode_s: float) -> float:
        """Return the share of episodes of a duration that end early if every bin fails as often as the mean bin."""
        return 1.0 - (1.0 - self.mean_failure) ** (episode_s / self._bin_s)


def _memberships(
    library: MotionLibrary, starts: Int[np.ndarray, " bin"]
) -> tuple[Float[Array, "group bin"], Float[Array, " group"]]:
    """Return which bins belong to which group of runs (ones and zeros), and the groups' shares of the starts."""
    run = np.searchsorted(np.asarray(library.run_starts.tolist()), starts, side="right") - 1
    group = np.asarray(library.run_group.tolist())[run]
    member = (group == np.arange(len(library.group_shares))[:, None]).astype(np.float64)
    wanted = np.array(library.group_shares)
    if isinstance(library.qpos, np.ndarray):
        return member, wanted
    device = library.qpos.device
    return torch.as_tensor(member, device=device), torch.as_tensor(wanted, device=device)
