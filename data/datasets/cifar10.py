"""CIFAR-10: 50,000 and 10,000 colour images of 32 x 32 in ten classes (Krizhevsky 2009), exact or as JPEG.

The exact pixels come from the binary version; the pickled one is refused, since unpickling a file runs whatever code
is in it. The JPEG variant is a set of its own: its pixels differ from the exact ones by about 30 dB, so that no result
on it is one on CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from motionlex.data.errors import UserError
from motionlex.data.images.collection import ArrayImages, StoredImages, Subset
from motionlex.data.images.dataset import ImageData, ImageDataset
from motionlex.data.images.files import (
    check_sum,
    find_all,
    find_archives,
    find_file,
    folders,
    incomplete,
    missing,
    read_members,
)
from motionlex.data.images.stores import BlockStore
from motionlex.data.images.transforms import Exact
from motionlex.data.storage import read_npz

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE, COLOURS = 32, 3
BATCHES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
"""Files of the binary version."""
PER_BATCH = 10_000
"""Images of every file."""
ARCHIVE, ARCHIVE_SUM = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
"""The official download, with its MD5."""
PICKLED = ("data_batch_1", "cifar-10-python.tar.gz")
"""What gives the pickled version away."""
JPEG_PATTERN = "[cC][iI][fF][aA][rR]10*[jJ][pP]*[gG]*.npz"
"""Of names of the JPEG variant."""
JPEG_KEYS = ("blob", "offsets", "labels", "is_test")
"""Arrays of the JPEG variant: all files after one another, their borders, and a class and a split for each."""
DOWNLOAD = (
    f"Download {ARCHIVE} (the binary version) from https://www.cs.toronto.edu/~kriz/{ARCHIVE} into its sub-folder "
    "cifar10; unpacking is not necessary"
)
JPEG_DOWNLOAD = (
    f"It is an npz named cifar10*jpeg*.npz with the arrays {', '.join(JPEG_KEYS)}, made from CIFAR-10 by whoever wants "
    "a small copy; take the data set cifar10 for exact pixels"
)
_FOLDERS = ("cifar10", "CIFAR10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar-10")


def load(root: Path | None, per_batch: int = PER_BATCH, archive_sum: str = ARCHIVE_SUM) -> ImageData:
    """Load the binary version, unpacked or in its archive.

    Args:
        root: Folder of the files, or a parent of it.
        per_batch: Images of every file.
        archive_sum: MD5 of the archive.

    Raises:
        UserError: If a file is missing, damaged or pickled; names it.
    """
    assert root is not None, "CIFAR-10 is read from a folder"
    places = folders(root, _FOLDERS)
    splits = {}
    packed: Mapping[str, bytes] | None = None
    for split, names in BATCHES.items():
        parts = []
        for name in names:
            path = find_file(places, (name,))
            if path is None and packed is None:
                packed = _packed(root, places, archive_sum, name)
            if path is None and packed is not None and name not in packed:
                raise incomplete("cifar10", root, name, DOWNLOAD)
            content = path.read_bytes() if path is not None else (packed or {})[name]
            parts.append(parse_batch(content, str(path or ARCHIVE + ": " + name), per_batch))
        labels, pixels = (np.concatenate(arrays) for arrays in zip(*parts))
        _check_balance(labels, split, root)
        splits[split] = ArrayImages(pixels, labels)
    return ImageData(name="cifar10", title="CIFAR-10", train=splits["train"], test=splits["test"], classes=CLASSES)


def parse_batch(
    content: bytes, name: str, images: int
) -> tuple[Int[np.ndarray, " image"], UInt8[np.ndarray, "image 32 32 3"]]:
    """Read one file of the binary version: per image a byte with its class, then 1,024 bytes of each colour.

    Returns:
        Labels and pixels.

    Raises:
        UserError: If the size is wrong, or a class does not exist.
    """
    record = 1 + COLOURS * SIZE * SIZE
    if len(content) != images * record:
        raise UserError(
            f"{name} has {len(content):,} bytes, wanted {images * record:,} ({images:,} images of {record:,}): it is "
            "incomplete or another file"
        )
    rows = np.frombuffer(content, np.uint8).reshape(images, record)
    labels = rows[:, 0].astype(np.int64)
    if (labels >= len(CLASSES)).any():
        bad = int(np.argmax(labels >= len(CLASSES)))
        raise UserError(f"{name}, image {bad}: class {labels[bad]}, wanted 0 to {len(CLASSES) - 1}; download it again")
    planes = rows[:, 1:].reshape(images, COLOURS, SIZE, SIZE)
    return labels, np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def load_jpeg(root: Path | None) -> ImageData:
    """Load the JPEG variant; pictures are decoded when they are read.

    Raises:
        UserError: If the file is missing, or its arrays do not fit together; names it.
    """
    assert root is not None, "the JPEG variant is read from a folder"
    found = find_archives(folders(root, _FOLDERS), JPEG_PATTERN)
    if not found:
        raise missing("cifar10_jpeg", root, "cifar10*jpeg*.npz", JPEG_DOWNLOAD)
    path = found[0]
    arrays = read_npz(path)
    if lacking := [key for key in JPEG_KEYS if key not in arrays]:
        raise UserError(f"{path} has no array {lacking[0]!r} (it has {', '.join(sorted(arrays))}). {JPEG_DOWNLOAD}")
    block, offsets, labels, is_test = (arrays[key] for key in JPEG_KEYS)
    offsets, labels, is_test = offsets.astype(np.int64), labels.astype(np.int64), is_test.astype(bool)
    fits = len(offsets) == len(labels) + 1 == len(is_test) + 1 and offsets[0] == 0 and offsets[-1] == len(block)
    if not fits or (np.diff(offsets) <= 0).any() or not is_test.any() or is_test.all():
        raise UserError(f"{path}: blob, offsets, labels and is_test do not fit together; make or fetch it again")
    images = StoredImages(BlockStore(path, block.astype(np.uint8, copy=False), offsets), labels, Exact(SIZE))
    return ImageData(
        name="cifar10_jpeg",
        title="CIFAR-10 (JPEG)",
        train=Subset(images, np.flatnonzero(~is_test)),
        test=Subset(images, np.flatnonzero(is_test)),
        classes=CLASSES,
    )


def _packed(root: Path, places: tuple[Path, ...], archive_sum: str, first: str) -> Mapping[str, bytes]:
    """Read the batches out of the archive."""
    archive = find_file(places, (ARCHIVE,))
    if archive is not None:
        check_sum(archive, archive_sum)
        return read_members(archive, [name for names in BATCHES.values() for name in names])
    pickled = find_file((*places, *folders(root, ("cifar-10-batches-py", "cifar10/cifar-10-batches-py"))), PICKLED)
    if pickled is not None:
        raise UserError(
            f"{pickled} is the pickled version of CIFAR-10, which is not read: unpickling runs code. {DOWNLOAD}"
        )
    loose = find_file(places, tuple(name for names in BATCHES.values() for name in names))
    raise (missing if loose is None else incomplete)("cifar10", root, first, DOWNLOAD)


def _check_balance(labels: Int[np.ndarray, " image"], split: str, root: Path) -> None:
    """Compare with what the publisher states: every class has as many images as any other, in both splits."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    if (counts != len(labels) // len(CLASSES)).any():
        raise UserError(
            f"{root}: the {split} split of CIFAR-10 has {counts.tolist()} images by class, wanted equal numbers: a "
            "file is damaged or occurs twice; download it again"
        )


DATASET = (
    ImageDataset(
        name="cifar10",
        description="CIFAR-10, binary version or its tar.gz (60,000 colour images of 32 x 32)",
        load=load,
        download=DOWNLOAD,
        look=lambda root: find_all(folders(root, _FOLDERS), [*BATCHES["train"], *BATCHES["test"]], [ARCHIVE]),
    ),
    ImageDataset(
        name="cifar10_jpeg",
        description="CIFAR-10 compressed as JPEG, in one npz; results on it are no results on CIFAR-10",
        load=load_jpeg,
        download=JPEG_DOWNLOAD,
        look=lambda root: find_all(folders(root, _FOLDERS), [JPEG_PATTERN]),
    ),
)
