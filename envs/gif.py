"""A small moving picture that every page shows: an animated GIF of at most a minute."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from motionlex.data.storage import atomic_file
from motionlex.envs.simulator import Simulator
from motionlex.envs.video import make_painter

logger = logging.getLogger(__name__)
MAXIMUM_FPS = 20.0
"""Control steps are skipped above this rate [1/s]."""
LONGEST_S = 60.0
"""Later control steps are not filmed [s]: the pictures wait in memory, 92 MB of them at most."""
TICK_MS = 10
"""GIF counts time in hundredths of a second [ms]."""
COLOURS = 128
"""All pictures share the colours of the first one: nothing flickers, and only what moves takes space."""


class Gif:
    """A GIF file that appears under its name when it is complete."""

    def __init__(self, path: Path, simulator: Simulator, *, width: int = 320, height: int = 240) -> None:
        """Prepare the painter.

        Args:
            path: The file; its folder must exist.
            simulator: What to film.
            width: Picture width [pixel].
            height: Picture height [pixel].
        """
        self._path, self._simulator = path, simulator
        self._every = max(1, int(np.ceil(simulator.hz / MAXIMUM_FPS)))
        self._last = round(LONGEST_S * simulator.hz)
        self._count = 0
        self._painter = make_painter(simulator.model, width=width, height=height)
        self._pictures: list[Image.Image] = []

    def show(self) -> None:
        """Film the present state, if it is this frame's turn and the minute is not over."""
        if self._count == self._last:
            logger.info("the GIF holds %.0f s and ends here", LONGEST_S)
        if self._count < self._last and self._count % self._every == 0:
            self._simulator.place_bodies()
            picture = Image.fromarray(self._painter.paint(self._simulator.data))
            palette = self._pictures[0] if self._pictures else None
            self._pictures.append(picture.quantize(COLOURS, palette=palette, dither=Image.Dither.NONE))
        self._count += 1

    def durations(self) -> list[int]:
        """Return how long each picture stays [ms]: whole ticks whose sums keep to the true time."""
        tick = self._every / self._simulator.hz * 1000.0 / TICK_MS
        ends = [round(number * tick) for number in range(len(self._pictures) + 1)]
        return [TICK_MS * (after - before) for before, after in itertools.pairwise(ends)]

    def close(self) -> None:
        """Write the file.

        Raises:
            OSError: On a full or read-only disk; nothing is left then.
        """
        self._painter.close()
        if not self._pictures:
            return
        first, *others = self._pictures
        with atomic_file(self._path) as file:
            first.save(
                file, format="GIF", save_all=True, append_images=others, duration=self.durations(), loop=0, disposal=1
            )
