"""SVHN, cropped digits: 73,257 and 26,032 colour images of 32 x 32 house numbers (Netzer et al. 2011).

The 531,131 images of the extra split are not read: none of our experiments trains on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from motionlex.data.errors import UserError
from motionlex.data.images.collection import ArrayImages
from motionlex.data.images.dataset import ImageData, ImageDataset
from motionlex.data.images.files import check_sum, find_all, find_file, folders, incomplete, missing

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
COUNTS = {"train": 73_257, "test": 26_032}
SUMS = {"train": "e26dedcc434d2e4c54c9b2d4a06d8373", "test": "eb5a983be6a315427106f1b164d9cef3"}
"""MD5 of both files."""
_FOLDERS = ("svhn", "SVHN")
DOWNLOAD = (
    "Download train_32x32.mat and test_32x32.mat (format 2, cropped digits) from "
    "http://ufldl.stanford.edu/housenumbers/ into its sub-folder svhn"
)


def load(root: Path | None, counts: Mapping[str, int] = COUNTS, sums: Mapping[str, str] = SUMS) -> ImageData:
    """Load both splits.

    Args:
        root: Folder of the files, or a parent of it.
        counts: Images of both splits.
        sums: MD5 of both files.

    Raises:
        UserError: If a file is missing, damaged or not the official one; names it.
    """
    assert root is not None, "SVHN is read from a folder"
    places = folders(root, _FOLDERS)
    splits = {}
    for split, name in FILES.items():
        path = find_file(places, (name,))
        if path is None:
            raise (incomplete if find_file(places, tuple(FILES.values())) else missing)("svhn", root, name, DOWNLOAD)
        check_sum(path, sums[split])
        splits[split] = read_mat(path)
        if (got := len(splits[split])) != counts[split]:
            raise UserError(f"{path} holds {got:,} images, wanted {counts[split]:,}")
    return ImageData(name="svhn", title="SVHN", train=splits["train"], test=splits["test"], classes=tuple("0123456789"))


def read_mat(path: Path) -> ArrayImages:
    """Read one file: X (row, column, colour, image) and y (image, 1), where class 10 means the digit 0.

    Raises:
        UserError: If it is damaged, or its arrays are others.
    """
    from scipy.io import loadmat  # slow to import, wanted only here

    try:
        arrays = loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # scipy raises whatever its parser stumbles over in a damaged file
        raise UserError(f"{path} is not an intact MATLAB file: {error}; download it again") from error
    pixels, labels = arrays.get("X"), arrays.get("y")
    if pixels is None or labels is None or pixels.dtype != np.uint8 or pixels.shape[:3] != (32, 32, 3):
        raise UserError(f"{path} wants X of (32, 32, 3, image) bytes and y: is it the full-number format instead?")
    if labels.size != pixels.shape[3] or labels.min() < 1 or labels.max() > 10:
        raise UserError(f"{path}: y must hold a class of 1 to 10 for each of {pixels.shape[3]:,} images")
    return ArrayImages(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), labels.reshape(-1).astype(np.int64) % 10)


DATASET = ImageDataset(
    name="svhn",
    description="SVHN, cropped digits, .mat files (99,289 colour images of 32 x 32)",
    load=load,
    download=DOWNLOAD,
    look=lambda root: find_all(folders(root, _FOLDERS), list(FILES.values())),
)
