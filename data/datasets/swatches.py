"""Colour swatches: images of one colour each, of nine colours (RRVQ-VAE, appendices B and H); made here, no files.

The paper names neither the colours nor the size. Ours are all combinations of three levels of red and three of blue at
a middle green, so that any two differ by a visible step, and 32 x 32 pixels, like the two other sets of its figure B.2.
A split holds equal images, as the paper's must: there are only nine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from motionlex.data.images.collection import ArrayImages
from motionlex.data.images.dataset import ImageData, ImageDataset

SIZE = 32
"""Rows and columns."""
LEVELS = (32, 128, 224)
"""Bytes of red and of blue."""
GREEN = 128
"""Byte of green."""
COLOURS = np.array([(red, GREEN, blue) for red in LEVELS for blue in LEVELS], dtype=np.uint8)
"""One row per colour."""
REPEATS = {"train": 100, "test": 10}
"""Images of every colour."""


def load(root: Path | None) -> ImageData:
    """Return the swatches."""
    del root
    splits = {}
    for split, repeats in REPEATS.items():
        labels = np.tile(np.arange(len(COLOURS)), repeats)
        pixels = np.broadcast_to(COLOURS[labels][:, None, None], (len(labels), SIZE, SIZE, 3))
        splits[split] = ArrayImages(np.ascontiguousarray(pixels), labels)
    return ImageData(
        name="swatches",
        title="colour swatches",
        train=splits["train"],
        test=splits["test"],
        classes=tuple(f"red {red}, blue {blue}" for red in LEVELS for blue in LEVELS),
    )


DATASET = ImageDataset(
    name="swatches",
    description="images of one of nine colours (32 x 32), made by the loader; needs no files",
    load=load,
)
