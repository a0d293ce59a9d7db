"""Pictures sorted into classes: one folder per class, one zip in order of classes, or webdataset shards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from motionlex.data.errors import UserError
from motionlex.data.images.files import open_tar
from motionlex.data.images.stores import FolderStore, ShardStore, Store, ZipStore, open_zip

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Ends of the names of pictures, in any case."""


class Listing(NamedTuple):
    """Pictures with their classes."""

    store: Store
    """The pictures."""
    labels: Int[np.ndarray, " image"]
    """Class of each."""
    classes: tuple[str, ...]
    """Names of the classes."""


def is_picture(name: str) -> bool:
    """Tell whether a name is that of a picture (files that the system leaves behind begin with a dot)."""
    base = os.path.basename(name)
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")


def read_class_folders(root: Path) -> Listing:
    """List pictures by class, sub-folders of a class included, in order of their names.

    Args:
        root: Folder with one folder per class.

    Returns:
        The pictures, class by class.

    Raises:
        UserError: If there are no class folders, or one holds no picture; names it.
    """
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        loose = sum(is_picture(entry.name) for entry in os.scandir(root))
        held = f"{loose:,} pictures of no class" if loose else "nothing of the kind"
        raise UserError(f"{root} has no class folders (it holds {held}); wanted {root}/CLASS/PICTURE.jpg")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _pictures_below(root, name)
        if not found:
            raise UserError(f"{root / name} is a class folder without a picture ({', '.join(SUFFIXES)})")
        files += found
        labels += [label] * len(found)
    return Listing(FolderStore(root, files), np.array(labels), tuple(classes))


def read_class_zip(path: Path) -> Listing:
    """List the pictures of a zip; the class is the folder, else what comes before the first underscore of a name.

    Args:
        path: The archive, e.g. with members ``n01440764_tench.jpg``.

    Returns:
        The pictures in order of their names.

    Raises:
        UserError: If it is damaged or holds no pictures.
    """
    with open_zip(path) as archive:
        members = sorted(name for name in archive.namelist() if is_picture(name) and not name.startswith("__MACOSX"))
    if not members:
        raise UserError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
    keys = [_class_of(member) for member in members]
    classes = sorted(set(keys))
    numbers = {name: number for number, name in enumerate(classes)}
    return Listing(ZipStore(path, members), np.array([numbers[key] for key in keys]), tuple(classes))


def read_shards(shards: Sequence[Path]) -> Listing:
    """Index webdataset shards: plain tar files in which a sample is a picture and a ``.cls`` file of the same stem.

    The stem ends at the first dot, and all behind it is the name of a field, as webdataset has it: ``7.seg.png`` is the
    field ``seg.png`` of sample 7, and not its picture, which is ``7.png`` or of another plain end.

    Only places and labels are kept: 24 bytes a picture. The pictures are read where they lie, so that shards may be
    spread over several disks by links.

    Args:
        shards: The tar files, in order.

    Returns:
        The pictures in order of the shards; classes have numbers for names, up to the largest that occurs.

    Raises:
        UserError: If a shard is compressed or damaged, a picture lacks its label, a label its picture, or a sample has
            two pictures; names it.
    """
    places: list[tuple[int, int, int]] = []
    labels: list[int] = []
    for number, path in enumerate(shards):
        if path.suffix != ".tar":
            raise UserError(f"{path} is compressed, so that no picture can be read alone: unpack it to a plain .tar")
        marks, pictures = _samples(path)
        if lacking := [key for key in pictures if key not in marks]:
            raise UserError(f"{path}: picture {lacking[0]} has no label {lacking[0]}.cls ({len(lacking)} such)")
        if lacking := [key for key in marks if key not in pictures]:
            wanted = f"{lacking[0]}{SUFFIXES[0]} or the like"
            raise UserError(f"{path}: label {lacking[0]}.cls has no picture {wanted} ({len(lacking)} such)")
        places += [(number, *place) for place in pictures.values()]
        labels += [marks[key] for key in pictures]
    if not places:
        raise UserError(f"{shards[0].parent} has shards without pictures: {shards[0].name}, ...")
    return Listing(ShardStore(shards, np.array(places)), np.array(labels), tuple(map(str, range(max(labels) + 1))))


def _samples(path: Path) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """Labels, and first byte and length of the pictures, by what is before the first dot of their names."""
    marks: dict[str, int] = {}
    pictures: dict[str, tuple[int, int]] = {}
    with open_tar(path) as archive:
        for member in archive:
            stem, _, field = os.path.basename(member.name).partition(".")
            key = os.path.join(os.path.dirname(member.name), stem)
            if not member.isfile() or not stem:
                continue
            if field == "cls":
                file = archive.extractfile(member)
                marks[key] = _label(b"" if file is None else file.read(), f"{path}: {member.name}")
            elif f".{field.lower()}" in SUFFIXES:
                if key in pictures:
                    raise UserError(f"{path}: sample {key} has two pictures, the second is {member.name}; keep one")
                pictures[key] = (member.offset_data, member.size)
    return marks, pictures


def _pictures_below(root: Path, name: str) -> list[str]:
    found: list[str] = []
    for folder, _, files in os.walk(root / name, followlinks=True):
        relative = os.path.relpath(folder, root)
        found += [os.path.join(relative, file) for file in files if is_picture(file)]
    return sorted(found)


def _class_of(member: str) -> str:
    folder, _, base = member.rpartition("/")
    return folder.rpartition("/")[2] if folder else base.partition("_")[0].partition(".")[0]


def _label(content: bytes, name: str) -> int:
    try:
        label = int(content)
    except ValueError as error:
        raise UserError(f"{name}: {content[:20]!r} is no class number") from error
    if label < 0:
        raise UserError(f"{name}: class {label}, wanted 0 or more")
    return label
