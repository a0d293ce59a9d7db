"""One stream of random numbers per purpose and process of a low-level run, all from its one seed."""

from __future__ import annotations

from typing import Literal

import numpy as np

Purpose = Literal["environment", "exploration"]
_NUMBERS: dict[Purpose, int] = {"environment": 1, "exploration": 2}


def seed_of(seed: int, purpose: Purpose, rank: int) -> np.random.SeedSequence:
    """Return what numpy's generators start from; no two of (seed, purpose, rank) share a stream.

    Sums such as seed + 1000 rank would: rank 1 of one run would see what rank 0 of another one saw.

    Args:
        seed: The run's, below 2^32.
        purpose: What the numbers are for.
        rank: Process that draws them.
    """
    return np.random.SeedSequence((seed, _NUMBERS[purpose], rank))


def torch_seed_of(seed: int, purpose: Purpose, rank: int) -> int:
    """Return the same for torch's generators, as 32 bits: torch's generator on the CPU keeps no more."""
    return int(seed_of(seed, purpose, rank).generate_state(1, np.uint32)[0])
