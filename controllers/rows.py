"""A table that grows row by row, in blocks, and may forget its beginning: what a session of a day can afford."""

from __future__ import annotations

import copy

import numpy as np
from jaxtyping import Float, Num

BLOCK = 1024
"""Rows that are allocated, and forgotten, at once."""


class Rows:
    """Rows of equal width, the latest kept."""

    def __init__(self, width: int, *, longest: int | None = None, block: int = BLOCK) -> None:
        """Begin empty.

        Args:
            width: Columns.
            longest: Rows that are kept at least; older ones are forgotten a block at a time. None keeps all.
            block: Rows per block.
        """
        self._width, self._longest, self._size = width, longest, block
        self._blocks: list[Float[np.ndarray, "row column"]] = []
        self._filled = block
        self.forgotten = 0
        """Rows that were dropped at the beginning."""

    def __len__(self) -> int:
        return len(self._blocks) * self._size - (self._size - self._filled) if self._blocks else 0

    def append(self, *parts: Num[np.ndarray, " _"] | float) -> None:
        """Add a row made of parts, one after the other."""
        if self._filled == self._size:
            if self._longest is not None and len(self) >= self._longest + self._size:
                del self._blocks[0]
                self.forgotten += self._size
            self._blocks.append(np.empty((self._size, self._width)))
            self._filled = 0
        self._blocks[-1][self._filled] = np.hstack(parts)
        self._filled += 1

    def snapshot(self) -> Rows:
        """Return the rows that are kept as a table of its own, at once: it shares the blocks, whose rows never change.

        Another thread may read it while rows are added here.
        """
        still = copy.copy(self)
        still._blocks = list(self._blocks)
        return still

    def array(self) -> Float[np.ndarray, "row column"]:
        """Return the rows that are kept, as one array of its own."""
        rows = np.empty((len(self), self._width))
        for number, block in enumerate(self._blocks):  # one at a time: other threads take turns between them
            part = rows[number * self._size : (number + 1) * self._size]
            part[:] = block[: len(part)]
        return rows
