"""Images of one size with their labels: in memory, or decoded when they are asked for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Int, UInt8

from motionlex.data.images.decoding import decode
from motionlex.data.images.stores import Store
from motionlex.data.images.transforms import Transform


class Images(ABC):
    """Images of one size, each with the index of its class.

    Args:
        shape: Rows, columns and colours.
        labels: Class of every image.
    """

    def __init__(self, shape: tuple[int, int, int], labels: Int[np.ndarray, " image"]) -> None:
        self.shape, self.labels = shape, labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @abstractmethod
    def read(
        self, rows: Int[np.ndarray, " batch"], generator: torch.Generator | None = None
    ) -> UInt8[np.ndarray, "batch height width colour"]:
        """Return some images as bytes.

        Args:
            rows: Which, in this order.
            generator: Source of random crops and flips, where the set has any; None reads as for evaluation.

        Raises:
            UserError: If a file is missing or damaged; names it.
        """

    @abstractmethod
    def digest(self) -> str:
        """Return a SHA-256 that tells these images from others (of pixels, or of the names and sizes of files)."""


class ArrayImages(Images):
    """Images that fit into memory.

    Args:
        pixels: Bytes.
        labels: Class of every image.
    """

    def __init__(
        self, pixels: UInt8[np.ndarray, "image height width colour"], labels: Int[np.ndarray, " image"]
    ) -> None:
        assert len(pixels) == len(labels), "every image needs a label"
        super().__init__((pixels.shape[1], pixels.shape[2], pixels.shape[3]), labels)
        self.pixels = pixels

    def read(
        self, rows: Int[np.ndarray, " batch"], generator: torch.Generator | None = None
    ) -> UInt8[np.ndarray, "batch height width colour"]:
        """Return some images; there is no augmentation."""
        return self.pixels[rows]

    def digest(self) -> str:
        """Hash the pixels and the labels."""
        found = hashlib.sha256(f"{self.pixels.shape}".encode())
        found.update(np.ascontiguousarray(self.pixels).data)
        found.update(np.asarray(self.labels, dtype=np.int64).tobytes())
        return found.hexdigest()


class StoredImages(Images):
    """Images that are decoded when they are asked for: memory holds one batch, whatever the size of the set.

    Args:
        store: Encoded files.
        labels: Class of every image.
        transform: Makes every image of one size, as for evaluation.
        augmentation: The same with random crops and flips, for training; None uses ``transform``.
        grey: Whether a grey image is converted to three equal colours instead of refused.
        threads: Images decoded at once; Pillow lets other threads run meanwhile.
    """

    def __init__(
        self,
        store: Store,
        labels: Int[np.ndarray, " image"],
        transform: Transform,
        *,
        augmentation: Transform | None = None,
        grey: bool = False,
        threads: int = 1,
    ) -> None:
        assert len(store) == len(labels), "every image needs a label"
        super().__init__((transform.size, transform.size, 3), labels)
        self.store, self.transform, self.augmentation, self.grey = store, transform, augmentation, grey
        self.threads = threads

    def read(
        self, rows: Int[np.ndarray, " batch"], generator: torch.Generator | None = None
    ) -> UInt8[np.ndarray, "batch height width colour"]:
        """Decode some images; each draws from a generator of its own, so that the order of threads does not matter."""
        pixels = np.empty((len(rows), *self.shape), np.uint8)
        seeds: list[int | None] = [None] * len(rows)
        if generator is not None and self.augmentation is not None:
            seeds = torch.randint(2**62, (len(rows),), generator=generator).tolist()

        def fill(place: int) -> None:
            pixels[place] = self._decoded(int(rows[place]), seeds[place])

        if self.threads == 1 or len(rows) == 1:
            for place in range(len(rows)):
                fill(place)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(fill, range(len(rows))))
        return pixels

    def _decoded(self, row: int, seed: int | None) -> UInt8[np.ndarray, "height width colour"]:
        name = self.store.name(row)
        picture = decode(self.store.read(row), name, grey=self.grey)
        if seed is None or self.augmentation is None:
            return np.asarray(self.transform(picture, name, None))
        return np.asarray(self.augmentation(picture, name, torch.Generator().manual_seed(seed)))

    def digest(self) -> str:
        """Hash names and sizes of the files, the labels and the transforms; reading every file could take hours."""
        found = hashlib.sha256(self.store.digest().encode())
        found.update(f"{self.transform} {self.augmentation} {self.grey}".encode())
        found.update(np.asarray(self.labels, dtype=np.int64).tobytes())
        return found.hexdigest()


class Subset(Images):
    """Some of the images of another set.

    Args:
        images: The set.
        rows: Which of them.
    """

    def __init__(self, images: Images, rows: Int[np.ndarray, " image"]) -> None:
        super().__init__(images.shape, images.labels[rows])
        self.images, self.rows = images, rows

    def read(
        self, rows: Int[np.ndarray, " batch"], generator: torch.Generator | None = None
    ) -> UInt8[np.ndarray, "batch height width colour"]:
        """Read through to the set."""
        return self.images.read(self.rows[rows], generator)

    def digest(self) -> str:
        """Hash the set and the choice."""
        found = hashlib.sha256(self.images.digest().encode())
        found.update(np.asarray(self.rows, dtype=np.int64).tobytes())
        return found.hexdigest()


def split_off(images: Images, count: int, seed: int) -> tuple[Images, Images]:
    """Hold some images out, drawn at random.

    Args:
        images: Usually a training split.
        count: How many to hold out, fewer than there are.
        seed: Of the draw.

    Returns:
        What remains, and what is held out; both in the order of the set.
    """
    assert 0 < count < len(images), f"cannot hold {count} of {len(images)} images out"
    order = np.random.default_rng(seed).permutation(len(images))
    return Subset(images, np.sort(order[count:])), Subset(images, np.sort(order[:count]))
