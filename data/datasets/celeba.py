"""CelebA, aligned and cropped: 202,599 faces of 178 x 218 colour pixels (Liu et al. 2015), at 64 and 128 pixels.

Every face is cut to the 140 x 140 pixels in the middle and scaled, as in Tolstikhin et al. 2018 (Wasserstein
auto-encoders, appendix: "140 x 140 center crops", 64 pixels). The papers that we repeat only say "64 x 64" (RRVQ-VAE)
and "resized to 128 x 128" (GM-VQ), so that their crop may be another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from motionlex.data.errors import UserError
from motionlex.data.images.class_folders import is_picture
from motionlex.data.images.collection import StoredImages, Subset
from motionlex.data.images.dataset import ImageData, ImageDataset
from motionlex.data.images.files import check_size, check_sum, find_all, find_file, folders, incomplete, missing
from motionlex.data.images.stores import FolderStore, Store, ZipStore, open_zip
from motionlex.data.images.transforms import CentreSquare

CROP = 140
"""Side of the square that is kept [pixel]."""
THREADS = 4
"""Pictures decoded at once."""
FOLDER, ARCHIVE, PARTITION = "img_align_celeba", "img_align_celeba.zip", "list_eval_partition.txt"
_FOLDERS = ("celeba", "CelebA", "celebA")
SPLITS = ("train", "validation", "test")
"""Splits 0, 1 and 2 of the partition."""
DOWNLOAD = (
    f"Download {ARCHIVE} (Img) and {PARTITION} (Eval) from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into its "
    "sub-folder celeba; unpacking is not necessary"
)


@dataclass(frozen=True, kw_only=True)
class Official:
    """What the official files are known by."""

    images: int = 202_599
    """Number of pictures."""
    partition_sum: str = "d32c9cbf5e040fd4025c592c306e6668"
    """MD5 of the list of splits."""
    archive_bytes: int = 1_443_490_838
    """Size of the archive; its members carry checksums of their own, which are verified when they are read."""


def loader(size: int) -> Callable[[Path | None], ImageData]:
    """Return the function that loads the set at a size [pixel]."""
    return lambda root: load(root, size)


def load(root: Path | None, size: int, official: Official | None = None) -> ImageData:
    """Index the pictures and their splits; pictures are decoded when they are read.

    Args:
        root: Folder of ``img_align_celeba`` (or its zip) and the list of splits, or a parent of it.
        size: Rows and columns of the images.
        official: What the files must be.

    Raises:
        UserError: If a file is missing or not the official one; names it.
    """
    assert root is not None, "CelebA is read from a folder"
    official = official or Official()
    places = folders(root, _FOLDERS)
    partition = find_file((*places, *(place / "Eval" for place in places)), (PARTITION,))
    if partition is None:
        pictures = find_all(places, [FOLDER], [f"Img/{FOLDER}"], [ARCHIVE], [f"Img/{ARCHIVE}"])
        raise (incomplete if pictures else missing)(f"celeba{size}", root, PARTITION, DOWNLOAD)
    check_sum(partition, official.partition_sum)
    names, splits = read_partition(partition)
    store = _store(root, places, names, size, official)
    if len(names) != official.images:
        raise UserError(f"{partition} lists {len(names):,} pictures, wanted {official.images:,}")
    images = StoredImages(store, np.zeros(len(names), np.int64), CentreSquare(CROP, size), threads=THREADS)
    parts = {split: Subset(images, np.flatnonzero(splits == number)) for number, split in enumerate(SPLITS)}
    return ImageData(
        name=f"celeba{size}",
        title=f"CelebA {size}",
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        classes=("face",),
    )


def read_partition(path: Path) -> tuple[list[str], Int[np.ndarray, " image"]]:
    """Read the list of splits: a name and 0, 1 or 2 in every line.

    Raises:
        UserError: On any other line; names it.
    """
    names: list[str] = []
    splits: list[int] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        cells = line.split()
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            raise UserError(f"{path}, line {number}: {line[:60]!r}, wanted NAME.jpg and 0, 1 or 2")
        names.append(cells[0])
        splits.append(int(cells[1]))
    return names, np.array(splits)


def _store(root: Path, places: tuple[Path, ...], names: list[str], size: int, official: Official) -> Store:
    for place in (*places, *(place / "Img" for place in places)):
        folder = place / FOLDER
        if folder.is_dir():
            folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
            _check_complete(str(folder), {entry.name for entry in folder.iterdir()}, names)
            return FolderStore(folder, names)
    archive = find_file((*places, *(place / "Img" for place in places)), (ARCHIVE,))
    if archive is None:
        raise incomplete(f"celeba{size}", root, f"{FOLDER} or {ARCHIVE}", DOWNLOAD)
    check_size(archive, official.archive_bytes)
    with open_zip(archive) as opened:
        members = {name.rpartition("/")[2]: name for name in opened.namelist() if is_picture(name)}
    _check_complete(str(archive), set(members), names)
    return ZipStore(archive, [members[name] for name in names])


def _check_complete(where: str, found: set[str], names: list[str]) -> None:
    if lacking := [name for name in names if name not in found]:
        raise UserError(f"{where} lacks {len(lacking):,} of {len(names):,} pictures, first {lacking[0]}. {DOWNLOAD}")


def look(root: Path) -> Path | None:
    """Find the pictures, packed or not, beside their list, in the layouts that :func:`load` takes."""
    places = folders(root, _FOLDERS)
    places = (*places, *(place / name for place in places for name in ("Img", "Eval")))
    return find_all(places, [FOLDER, PARTITION], [ARCHIVE, PARTITION])


DATASET = tuple(
    ImageDataset(
        name=f"celeba{size}",
        description=f"CelebA, aligned faces, scaled to {size} x {size} (202,599 colour images)",
        load=loader(size),
        download=DOWNLOAD,
        look=look,
    )
    for size in (64, 128)
)
