"""Data sets: one file each, exposing ``DATASET``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError, check_number
from motionlex.data.registry import find_by_name, sibling_members

FASTEST_HZ = 1000.0
"""Highest rate to which motions are resampled [Hz]; beyond it a slip of the keyboard would fill the memory."""

__all__ = ["MotionData", "MotionDataset", "available_datasets", "find_root", "get_dataset", "load_dataset"]


@dataclass(frozen=True, kw_only=True)
class MotionData:
    """Clips of one data set at one rate, split by whole clips."""

    name: str
    """Name of the data set."""
    train: tuple[MotionClip, ...]
    """Clips to train on."""
    validation: tuple[MotionClip, ...]
    """Held-out clips."""
    hz: float
    """Frames per second of every clip."""

    @property
    def clips(self) -> tuple[MotionClip, ...]:
        """All clips, training first."""
        return (*self.train, *self.validation)


@dataclass(frozen=True, kw_only=True)
class MotionDataset:
    """What a data set file contributes."""

    name: str
    """Name used by ``--data``."""
    description: str
    """One line for ``motionlex doctor``."""
    load: Callable[[Path | None, float], MotionData]
    """Load the clips from a folder (None where the data set needs none) at a rate [Hz]."""
    environment_variable: str | None = None
    """Variable that names the folder when ``--data-root`` is not given."""


def available_datasets() -> tuple[str, ...]:
    """Return the names of all motion data sets."""
    return tuple(d.name for d in _datasets())


def get_dataset(name: str) -> MotionDataset:
    """Return the data set of that name.

    Raises:
        UserError: If there is none; the message lists those that exist.
    """
    return find_by_name(_datasets(), name, kind="data set", where="data/datasets/")


def find_root(dataset: MotionDataset, root: Path | None) -> Path | None:
    """Return the folder of a data set: the one given, else the one its environment variable names."""
    if root is None and dataset.environment_variable is not None:
        value = os.environ.get(dataset.environment_variable, "")
        root = Path(value) if value else None
        if root is None:
            raise UserError(
                f"data set {dataset.name!r} needs a folder: give --data-root PATH or set {dataset.environment_variable}"
            )
    return root


def load_dataset(name: str, root: Path | None, *, hz: float) -> MotionData:
    """Load a data set at a rate.

    Args:
        name: Name of the data set.
        root: Its folder, or None for the environment variable (or for data sets without files).
        hz: Rate [Hz] to which every clip is resampled.

    Raises:
        UserError: On an unknown name, a rate out of range, a missing folder or a malformed file.
    """
    dataset = get_dataset(name)
    check_number("--hz", hz, above=0, at_most=FASTEST_HZ)
    return dataset.load(find_root(dataset, root), hz)


def _datasets() -> tuple[MotionDataset, ...]:
    members = sibling_members("motionlex.data.datasets", "DATASET")
    return tuple(m for m in members if isinstance(m, MotionDataset))
