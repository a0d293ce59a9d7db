"""The idx files of MNIST and of the sets made in its likeness, plain, gzipped, or inside a tar archive."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from motionlex.data.errors import UserError
from motionlex.data.images.collection import ArrayImages
from motionlex.data.images.dataset import ImageData, ImageDataset
from motionlex.data.images.files import (
    digest_of,
    find_all,
    find_archives,
    find_file,
    folders,
    incomplete,
    missing,
    read_members,
    wrong_sum,
)

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Images and labels of both splits."""
SIZE = 28
"""Rows and columns of every image."""


class _Unpacked(NamedTuple):
    """A file without its packing, and what errors call it."""

    content: bytes
    name: str


@dataclass(frozen=True, kw_only=True)
class IdxSet:
    """One set in the layout of MNIST."""

    name: str
    """Name of the data set."""
    title: str
    """What tables call it."""
    classes: tuple[str, ...]
    """Name of every label."""
    folders: tuple[str, ...]
    """Usual folders below the root."""
    archives: str
    """Pattern of tar archives that may hold the files."""
    download: str
    """What to fetch from where."""
    sums: Mapping[str, str]
    """MD5 of every file, unpacked: those of packed files depend on who packed them."""
    counts: Mapping[str, int]
    """Images of every split."""

    def dataset(self, description: str) -> ImageDataset:
        """Return what a data set file contributes.

        Args:
            description: One line for listings.
        """
        return ImageDataset(
            name=self.name, description=description, load=self.load, download=self.download, look=self.look
        )

    def look(self, root: Path) -> Path | None:
        """Find the loose files, packed or not, or an archive."""
        loose = [f"{name}*" for names in FILES.values() for name in names]
        return find_all(folders(root, self.folders), loose, [self.archives])

    def load(self, root: Path | None) -> ImageData:
        """Read all of it.

        Raises:
            UserError: If a file is missing, damaged or not the official one; names it.
        """
        assert root is not None, f"{self.title} is read from a folder"
        contents = self._contents(root)
        splits = {}
        for split, (images, labels) in FILES.items():
            pixels = self._array(contents[images], images, (self.counts[split], SIZE, SIZE))
            marks = self._array(contents[labels], labels, (self.counts[split],))
            if (marks >= len(self.classes)).any():
                raise UserError(f"{contents[labels].name}: label {marks.max()}, wanted below {len(self.classes)}")
            splits[split] = ArrayImages(pixels[..., None], marks.astype(np.int64))
        return ImageData(
            name=self.name, title=self.title, train=splits["train"], test=splits["test"], classes=self.classes
        )

    def _array(self, file: _Unpacked, name: str, shape: tuple[int, ...]) -> UInt8[np.ndarray, "*shape"]:
        array = parse_idx(file.content, file.name)
        if array.shape != shape:
            raise UserError(f"{file.name} holds an array {array.shape}, wanted {shape}: download it again")
        if (got := digest_of([file.content])) != self.sums[name]:
            raise wrong_sum(file.name, got, self.sums[name])
        return array

    def _contents(self, root: Path) -> dict[str, _Unpacked]:
        """Find the four files, loose ones first, and unpack them; an archive is read once."""
        places = folders(root, self.folders)
        wanted = [name for names in FILES.values() for name in names]
        found: dict[str, _Unpacked] = {}
        for name in wanted:
            if (path := find_file(places, (name, f"{name}.gz"))) is not None:
                found[name] = _unpacked(path.read_bytes(), str(path))
        for archive in find_archives(places, self.archives):
            lacking = [name for name in wanted if name not in found]
            packed = read_members(archive, [*lacking, *(f"{name}.gz" for name in lacking)]) if lacking else {}
            found |= {
                name.removesuffix(".gz"): _unpacked(content, f"{archive}: {name}") for name, content in packed.items()
            }
        for name in wanted:
            if name not in found:
                raise (incomplete if found else missing)(self.name, root, f"{name} (or {name}.gz)", self.download)
        return found


def parse_idx(content: bytes, name: str) -> UInt8[np.ndarray, "*shape"]:
    """Read an idx file of bytes: two zeros, the type 8, the number of axes, their lengths (big-endian), the values.

    Args:
        content: The whole file, unpacked.
        name: What errors call it.

    Raises:
        UserError: If it is no such file, or too short or too long.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise UserError(
            f"{name} is no idx file of bytes: it begins with {content[:4].hex() or 'nothing'}, wanted 000008"
        )
    axes = content[3]
    values = len(content) - 4 - 4 * axes
    if values < 0:
        raise UserError(f"{name} ends after {len(content)} bytes, within its header: it is incomplete or damaged")
    shape = tuple(np.frombuffer(content[4 : 4 + 4 * axes], ">u4").tolist())
    if values != math.prod(shape):
        raise UserError(f"{name} has {values:,} values for an array {shape}: it is incomplete or damaged")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _unpacked(content: bytes, name: str) -> _Unpacked:
    """Unpack a file if its name says that it is gzipped."""
    if not name.endswith(".gz"):
        return _Unpacked(content, name)
    try:
        return _Unpacked(gzip.decompress(content), name)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name} is not an intact gzip file: {error}; download it again") from error
