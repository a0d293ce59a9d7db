"""Two small sets that need no files: scikit-learn's handwritten digits and tiles of its two photographs.

``digits``: 1,797 digits of 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI; 17 grey levels spread over 0 to 255); every
fifth is held out. ``photographs``: tiles of 32 x 32 pixels on a grid of 16 from two photographs of 640 x 427
(china.jpg by danielbuechele, flower.jpg by vultilion, both CC BY 2.0); the right fifth is held out, and no tile crosses
the border.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from motionlex.data.images.collection import ArrayImages
from motionlex.data.images.dataset import ImageData, ImageDataset

EVERY = 5
"""One in so many digits is held out."""
TILE, STRIDE = 32, 16
"""Side of a tile, and distance between neighbours [pixel]."""
BORDER = 512
"""First column of the held-out part of a photograph."""
LEVELS = 16
"""Largest value of a pixel of the digits."""


def load_digits(root: Path | None) -> ImageData:
    """Return the digits."""
    from sklearn.datasets import load_digits as read  # slow to import, wanted only here

    del root
    bunch = read()
    pixels = np.rint(bunch.images * (255.0 / LEVELS)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    held = np.arange(len(labels)) % EVERY == EVERY - 1
    return ImageData(
        name="digits",
        title="digits (8 x 8)",
        train=ArrayImages(pixels[~held], labels[~held]),
        test=ArrayImages(pixels[held], labels[held]),
        classes=tuple("0123456789"),
    )


def load_photographs(root: Path | None) -> ImageData:
    """Return the tiles."""
    from sklearn.datasets import load_sample_images  # slow to import, wanted only here

    del root
    parts: dict[str, tuple[list[np.ndarray], list[int]]] = {"train": ([], []), "test": ([], [])}
    for label, photograph in enumerate(load_sample_images().images):
        rows, columns, _ = photograph.shape
        for left in range(0, columns - TILE + 1, STRIDE):
            if left < BORDER < left + TILE:
                continue
            tiles, labels = parts["train" if left < BORDER else "test"]
            for top in range(0, rows - TILE + 1, STRIDE):
                tiles.append(photograph[top : top + TILE, left : left + TILE])
                labels.append(label)
    train, test = (ArrayImages(np.stack(tiles), np.array(labels)) for tiles, labels in parts.values())
    return ImageData(
        name="photographs", title="photographs (32 x 32)", train=train, test=test, classes=("china", "flower")
    )


DATASET = (
    ImageDataset(
        name="digits",
        description="scikit-learn's digits (1,797 grey images of 8 x 8); needs no files",
        load=load_digits,
    ),
    ImageDataset(
        name="photographs",
        description="tiles of scikit-learn's two photographs (colour images of 32 x 32); needs no files",
        load=load_photographs,
    ),
)
