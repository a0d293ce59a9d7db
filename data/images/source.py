"""Batches of images: what models train on and are measured on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data.images.collection import Images
from motionlex.data.images.preprocessing import Preprocessing


class ImageSource:
    """Training batches in shuffled epochs: every image once before any twice.

    The order is a function of the seed and of the number of images drawn so far, so that a run continues where it
    stopped by :meth:`skip`; crops, flips and drawn pixels come from the generator that the trainer saves.

    Args:
        images: The training split.
        preprocessing: What is done to the bytes.
        seed: Of the order.
    """

    def __init__(self, images: Images, preprocessing: Preprocessing, *, seed: int) -> None:
        self.images, self.preprocessing, self.seed = images, preprocessing, seed
        self.drawn = 0
        """Images drawn so far."""
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch pixel colour"]:
        """Return the next images of the order.

        Args:
            batch: Number of images.
            generator: Source of augmentation and drawn pixels, on the CPU.
        """
        return self.sample_with_labels(batch, generator)[0]

    def sample_with_labels(
        self, batch: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch pixel colour"], Int[Tensor, " batch"]]:
        """Return the images of :meth:`sample`, with their classes."""
        rows = self._next_rows(batch)
        x = self.preprocessing.apply(self.images.read(rows, generator), generator)
        return x, torch.from_numpy(self.images.labels[rows])

    def skip(self, images: int) -> None:
        """Go to where the order is after so many images in total (steps times batch of a run that is resumed)."""
        self.drawn = images

    def _next_rows(self, batch: int) -> Int[np.ndarray, " batch"]:
        parts = []
        while batch:
            epoch, first = divmod(self.drawn, len(self.images))
            if epoch != self._epoch:
                self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))
                self._epoch = epoch
            part = self._order[first : first + batch]
            parts.append(part)
            self.drawn += len(part)
            batch -= len(part)
        return np.concatenate(parts)


def in_order(
    images: Images,
    preprocessing: Preprocessing,
    *,
    batch: int,
    limit: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Float[Tensor, "batch pixel colour"], Int[Tensor, " batch"]]]:
    """Go once through held-out images, without augmentation.

    Args:
        images: The split.
        preprocessing: What is done to the bytes.
        batch: Images at a time; the last batch may be smaller.
        limit: Stop after so many images; None takes all. Sets are often sorted by class: a limited reading takes
            images at equal distances.
        generator: Source of drawn pixels, on the CPU; seeded afresh it gives the same pixels every time.

    Yields:
        Images and their classes.
    """
    count = len(images) if limit is None else min(limit, len(images))
    chosen = np.arange(count) * len(images) // count
    for first in range(0, count, batch):
        rows = chosen[first : first + batch]
        yield preprocessing.apply(images.read(rows), generator), torch.from_numpy(images.labels[rows])
