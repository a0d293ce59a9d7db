"""What an image data set is, and the registry of those in data/datasets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from motionlex.data.errors import UserError
from motionlex.data.images.collection import Images
from motionlex.data.images.files import MissingDataError
from motionlex.data.registry import find_by_name, sibling_members

ROOT_VARIABLE = "MOTIONLEX_IMAGES"
"""Environment variable with the folder of all image data sets, or with a parent of their folders."""


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """The splits of one data set, all of one size."""

    name: str
    """Name of the data set."""
    title: str
    """What tables and figures call results on it."""
    train: Images
    """Images to train on."""
    test: Images
    """Held-out images that results are reported on: the official test split (ImageNet: its validation split)."""
    validation: Images | None = None
    """Held-out images for choices made during training, where the set has an official third split."""
    classes: tuple[str, ...]
    """Name of every label."""

    def __post_init__(self) -> None:
        shapes = {split.shape for split in (self.train, self.test, self.validation) if split is not None}
        assert len(shapes) == 1, f"splits of different sizes: {shapes}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and colours."""
        return self.train.shape


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """What a data set file contributes; an image data set needs no more than to be listed in ``DATASET``."""

    name: str
    """Name used by commands on images."""
    description: str
    """One line for listings."""
    load: Callable[[Path | None], ImageData]
    """Load the splits from a folder (None where the data set needs none)."""
    download: str | None = None
    """What to download, from where, into which folder; None where the data set needs no files."""
    look: Callable[[Path], Path | None] | None = None
    """Find the first of its files below a folder by names alone, None where one is missing; nothing is read. None where
    the data set needs no files."""


def available_image_datasets() -> tuple[str, ...]:
    """Return the names of all image data sets."""
    return tuple(dataset.name for dataset in _datasets())


def get_image_dataset(name: str) -> ImageDataset:
    """Return the image data set of that name.

    Raises:
        UserError: If there is none; the message lists those that exist.
    """
    return find_by_name(_datasets(), name, kind="image data set", where="data/datasets/")


def load_image_dataset(name: str, root: Path | None = None) -> ImageData:
    """Load an image data set.

    Args:
        name: Its name.
        root: Its folder, or a parent of it; None for ``MOTIONLEX_IMAGES`` (or for data sets without files).

    Raises:
        MissingDataError: If the set, its folder or the variable is not there; says what to download.
        UserError: On an unknown name, and on an incomplete or damaged set; says what to do.
    """
    dataset = get_image_dataset(name)
    if dataset.download is None:
        return dataset.load(None)
    if root is None:
        value = os.environ.get(ROOT_VARIABLE, "")
        if not value:
            raise MissingDataError(
                f"data set {name!r} needs a folder: give --data-root PATH or set {ROOT_VARIABLE}. {dataset.download}"
            )
        root = Path(value)
    root = root.expanduser()
    if root.is_file():
        raise UserError(f"data set {name!r}: {root} is a file; wanted the folder that holds it")
    if not root.is_dir():
        raise MissingDataError(f"data set {name!r}: no such folder: {root}. {dataset.download}")
    return dataset.load(root)


def image_data_states() -> dict[str, str]:
    """Say of every image data set where it is, or what to do, in one line; by names of files alone, nothing is read."""
    value = os.environ.get(ROOT_VARIABLE, "")
    root = Path(value).expanduser() if value else None
    return {dataset.name: _state(dataset, root) for dataset in _datasets()}


def _state(dataset: ImageDataset, root: Path | None) -> str:
    if dataset.download is None or dataset.look is None:
        return "built in"
    if root is None:
        return f"not set: {ROOT_VARIABLE}. {dataset.download}"
    if not root.is_dir():
        return f"not found, no such folder: {root}. {dataset.download}"
    found = dataset.look(root)
    return (
        f"not found in {root}. {dataset.download}" if found is None else f"found: {found} (checked when it is loaded)"
    )


def _datasets() -> tuple[ImageDataset, ...]:
    members = sibling_members("motionlex.data.datasets", "DATASET")
    return tuple(member for member in members if isinstance(member, ImageDataset))
