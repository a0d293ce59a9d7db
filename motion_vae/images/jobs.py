"""What an image experiment is: independent jobs, and a report made of their results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from motionlex.data.images.dataset import ImageData
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.images.evaluation import EVALUATION_FILE, evaluate_run
from motionlex.motion_vae.images.recipes import Recipe, load_recipe_data
from motionlex.motion_vae.images.runs import TrainedImages, load_image_run, train_recipe
from motionlex.motion_vae.registry import PlainValue

Result = Mapping[str, PlainValue]
"""What a job found, by name, units in the names."""


@runtime_checkable
class Job(Protocol):
    """One part of an experiment that needs no other; a frozen dataclass."""

    @property
    def name(self) -> str:
        """Name of the job's folder."""
        ...

    @property
    def row(self) -> str:
        """Row of the table that it belongs to; seeds share one."""
        ...

    @property
    def seed(self) -> int:
        """Tells the jobs of a row apart."""
        ...

    def run(self, folder: Path, device: str) -> None:
        """Do it, or continue it, and write evaluation.json into the folder last."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Train and measure one model."""

    row: str
    """Row of the table."""
    slug: str
    """The row as a name of folders."""
    recipe: Recipe
    """What to train."""
    images: int | None = None
    """Measure on so many held-out images; None takes all."""

    @property
    def name(self) -> str:
        """Row and seed."""
        return f"{self.slug}_seed{self.seed}"

    @property
    def seed(self) -> int:
        """Of the recipe."""
        return self.recipe.seed

    def run(self, folder: Path, device: str) -> None:
        """Train to the end, then measure."""
        train_recipe(self.recipe, folder, device=device)
        data, trained = load_recipe_data(self.recipe), load_image_run(folder, device)
        further = self.further(trained, data, folder)
        evaluate_run(trained, data.test, folder, limit=self.images, further=further)

    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Find what only one kind of job asks for, to be kept in evaluation.json too; nothing here."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may change of an experiment."""

    data: str
    """Data set; empty where the experiment has none."""
    title: str
    """What tables call it."""
    shape: tuple[int, int, int]
    """Rows, columns and colours of its images."""
    data_root: str | None
    """Its folder."""
    steps: int | None
    """Steps of every model; None takes the paper's."""
    batch: int | None
    """Images per step; None takes the paper's."""
    width: int | None
    """Width of all networks; None takes the paper's."""
    seeds: tuple[int, ...]
    """Every row is repeated for each."""
    images: int | None
    """Held-out images to measure on; None takes all."""
    changes: tuple[str, ...] = ()
    """Of the recipe of every row that has such a setting, as ``name=value``."""
    inception: str | None = None
    """File of Inception's weights for FID; None goes without."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job with its result."""

    job: Job
    """The job."""
    result: Result
    """What it found."""
    folder: Path
    """Where its files are."""


Report = tuple[str, Mapping[str, PlainValue], Sequence[Path]]
"""Markdown, the same as plain data, and the figures that were drawn."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One table or figure of a paper."""

    name: str
    """What the user types."""
    summary: str
    """One line for listings: what it repeats."""
    data: str
    """The paper's data set; empty where there is none."""
    jobs: Callable[[Options], Sequence[Job]]
    """The independent parts."""
    report: Callable[[Options, Sequence[Finished], Path], Report]
    """Table and figures of what is finished, at least one row with all its seeds; figures go into the folder."""


def is_finished(folder: Path) -> bool:
    """Tell whether a job is done: its numbers are written last."""
    return (folder / EVALUATION_FILE).is_file()


def read_result(job: Job, folder: Path) -> Finished:
    """Read what a finished job found."""
    return Finished(job=job, result=checkpoint.read_json(folder / EVALUATION_FILE), folder=folder)
