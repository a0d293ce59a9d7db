"""Encoded pictures by number, wherever they lie: class folders, one zip, tar shards, or one block of bytes."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from motionlex.data.errors import UserError
from motionlex.data.storage import content_key


class Store(ABC):
    """A list of encoded pictures; only their index is in memory."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pictures."""

    @abstractmethod
    def name(self, row: int) -> str:
        """Return what errors call a picture: its path, or its archive and its name there."""

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Return the encoded picture.

        Raises:
            UserError: If it cannot be read; names it.
        """

    @abstractmethod
    def digest(self) -> str:
        """Return a SHA-256 of what tells this list from another without reading all of it."""


class FolderStore(Store):
    """Files below a folder.

    Args:
        root: The folder.
        files: Paths relative to it.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root, self.files = root, files

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def name(self, row: int) -> str:
        """Return the path."""
        return os.path.join(self.root, self.files[row])

    def read(self, row: int) -> bytes:
        """Read one file."""
        try:
            with open(self.name(row), "rb") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"{self.name(row)} cannot be read: {error.strerror}") from error

    def digest(self) -> str:
        """Hash the names; the sizes of a million files would take minutes to ask for."""
        return content_key("\n".join(self.files))


class ZipStore(Store):
    """Members of one zip archive, whose own checksums are verified.

    Args:
        path: The archive.
        members: Names in it.
    """

    def __init__(self, path: Path, members: Sequence[str]) -> None:
        self.path, self.members = path, members
        self._archive, self._lock = open_zip(path), threading.Lock()

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.members)

    def name(self, row: int) -> str:
        """Return archive and member."""
        return f"{self.path}: {self.members[row]}"

    def read(self, row: int) -> bytes:
        """Read one member."""
        try:
            with self._lock:
                return self._archive.read(self.members[row])
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{self.name(row)} is not intact: {error}") from error

    def digest(self) -> str:
        """Hash names, sizes and checksums of the members."""
        infos = [self._archive.getinfo(member) for member in self.members]
        return content_key("\n".join(f"{info.filename} {info.file_size} {info.CRC}" for info in infos))


class ShardStore(Store):
    """Members of plain tar files, read at their place.

    Args:
        shards: The tar files.
        places: Shard, first byte and number of bytes of every member.
    """

    def __init__(self, shards: Sequence[Path], places: Int[np.ndarray, "member 3"]) -> None:
        self.shards, self.places = shards, places

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.places)

    def name(self, row: int) -> str:
        """Return the shard and where the member is in it."""
        shard, first, _ = self.places[row].tolist()
        return f"{self.shards[shard]} (picture at byte {first})"

    def read(self, row: int) -> bytes:
        """Read one member."""
        shard, first, length = self.places[row].tolist()
        try:
            with open(self.shards[shard], "rb") as file:
                file.seek(first)
                content = file.read(length)
        except OSError as error:
            raise UserError(f"{self.shards[shard]} cannot be read: {error.strerror}") from error
        if len(content) < length:
            raise UserError(f"{self.name(row)} ends after {len(content)} of {length} bytes: fetch the shard again")
        return content

    def digest(self) -> str:
        """Hash the names of the shards and the places."""
        return content_key("\n".join(path.name for path in self.shards), self.places)


class BlockStore(Store):
    """Parts of one block of bytes.

    Args:
        path: The file that it is from.
        block: All pictures after one another.
        offsets: Where each begins, and where the last ends.
    """

    def __init__(self, path: Path, block: UInt8[np.ndarray, " byte"], offsets: Int[np.ndarray, " border"]) -> None:
        self.path, self.block, self.offsets = path, block, offsets

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.offsets) - 1

    def name(self, row: int) -> str:
        """Return the file and the number of the picture."""
        return f"{self.path} (picture {row})"

    def read(self, row: int) -> bytes:
        """Return one part."""
        return self.block[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def digest(self) -> str:
        """Hash all of it."""
        return content_key(self.block, self.offsets)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive.

    Raises:
        UserError: If it is none, or cut off.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not an intact zip file: {error}; fetch it again") from error
