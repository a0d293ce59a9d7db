"""From the flags of ``motionlex benchmark-images`` to finished jobs and, once all are there, to the table."""

import logging
import os
import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

from motionlex.data.errors import UserError, check_number, check_seed, unknown_name
from motionlex.data.images.dataset import ImageData, load_image_dataset
from motionlex.data.images.files import MissingDataError
from motionlex.data.storage import finite, write_bytes, write_json
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.images.distance_job import DistanceJob
from motionlex.motion_vae.images.experiments import get_experiment
from motionlex.motion_vae.images.features import load_features
from motionlex.motion_vae.images.jobs import (
    Experiment,
    Job,
    Options,
    TrainingJob,
    is_finished,
    read_result,
)
from motionlex.motion_vae.images.on_ray import run_on_ray
from motionlex.motion_vae.images.runs import check_recipe
from motionlex.motion_vae.registry import PlainValue

logger = logging.getLogger(__name__)
FALLBACK = "digits"
"""The built-in set, used where an experiment's own is not found and no other is asked for."""
OPTIONS_FILE, TABLE, JOBS = "experiment.json", "table", "jobs"
"""What a folder belongs to, its table (.md and .json), and the folder of its jobs."""


@dataclass(frozen=True, kw_only=True)
class ImageBenchmarkFlags:
    """Repeat an image experiment of the papers: its jobs one after the other, then a table and figures."""

    out: Path | None = None
    """Folder of the jobs, table.md, table.json and the figures; None takes runs/images_EXPERIMENT."""
    data: str | None = None
    """Image data set; None takes the experiment's own, or digits (built in) where that is not found."""
    data_root: Path | None = None
    """Folder of the data set; None takes MOTIONLEX_IMAGES."""
    steps: int | None = None
    """Steps of every model; None takes the paper's."""
    batch: int | None = None
    """Images per step; None takes the paper's."""
    seeds: int = 1
    """Every row of the table is repeated with seeds 0 to this less one."""
    width: int | None = None
    """Width of all networks, for a cheaper experiment; the table says so. None takes the paper's."""
    images: int | None = None
    """Held-out images to measure on; None takes all."""
    set: tuple[str, ...] = ()
    """Changes of the recipes, e.g. temperature_control=bisection, in every row that has such a setting."""
    inception: Path | None = None
    """Weights of Inception in the layout of pytorch-fid, or their folder, for tables with FID; None goes without."""
    rows: tuple[str, ...] = ()
    """Run only these rows of the table, by their jobs without the seed, e.g. fsq daps_na; none takes all."""
    shard: str | None = None
    """Part of the jobs, e.g. 2/4 for every fourth from the second; a call without it collects what is there."""
    ray: str | None = None
    """Let Ray spread the jobs: local for the cores of this machine, or the address of a cluster, e.g. auto."""
    jobs_list: bool = False
    """Only list the jobs and which are finished."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def run_experiment(name: str, flags: ImageBenchmarkFlags) -> dict[str, PlainValue]:
    """Run the jobs that are asked for and not finished, then make the table of all rows that are there.

    Args:
        name: The experiment.
        flags: What the user asked for.

    Returns:
        Keys experiment, out, data, jobs (with ``finished`` of each), left (how many of them are not), files, and
        ``table`` once every row that was asked for is there.

    Raises:
        UserError: On any mistake of the user, and when interrupted.
    """
    experiment = get_experiment(name)
    _check(flags)
    part, parts = _shard(flags.shard)
    out = flags.out or Path("runs") / f"images_{name}"
    options = _options(experiment, flags)
    jobs = experiment.jobs(options)
    _check_inception(flags, jobs)
    if flags.set and not any(isinstance(job, TrainingJob) for job in jobs):
        raise UserError(f"--set means nothing to {name}, whose jobs are no recipes")
    chosen = _chosen(jobs, flags.rows)
    if not flags.jobs_list:
        _claim(out, experiment, options)
        _check_recipes(jobs, out)
        _run(chosen[part - 1 :: parts], out, flags.device, flags.ray)
    elif flags.rows:
        jobs = chosen
    folders = [out / JOBS / job.name for job in jobs]
    listed = [{"name": job.name, "finished": is_finished(folder)} for job, folder in zip(jobs, folders)]
    result: dict[str, PlainValue] = {
        "experiment": name,
        "out": str(out),
        "data": options.title,
        "jobs": listed,
        "left": sum(not job["finished"] for job in listed),
        "files": [],
    }
    if not flags.jobs_list and all(is_finished(out / JOBS / job.name) for job in chosen):
        result |= _write(experiment, options, jobs, out)
    return result


def _check(flags: ImageBenchmarkFlags) -> None:
    for name in ("steps", "batch", "seeds", "width", "images"):
        check_number(f"--{name}", getattr(flags, name), above=0)
    check_seed(flags.seeds)


def _check_inception(flags: ImageBenchmarkFlags, jobs: Sequence[Job]) -> None:
    """Refuse weights that nothing asks for or that cannot be read, before anything is trained."""
    if flags.inception is None:
        return
    if not any(isinstance(job, DistanceJob) for job in jobs):
        raise UserError("--inception means nothing here: only the tables of colour images have FID (table1-cifar, ...)")
    if not flags.jobs_list:
        load_features("inception", flags.inception)


def _shard(text: str | None) -> tuple[int, int]:
    """Read ``i/n``.

    Raises:
        UserError: If it is none, or i is not between 1 and n.
    """
    if text is None:
        return 1, 1
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UserError(f"--shard wants i/n with i from 1 to n, e.g. 2/4, got {text!r}")
    return int(first), int(second)


def _chosen(jobs: Sequence[Job], rows: Sequence[str]) -> Sequence[Job]:
    """Take the jobs of some rows.

    Raises:
        UserError: If there is no such row.
    """
    named = [(job.name.removesuffix(f"_seed{job.seed}"), job) for job in jobs]
    available = {name for name, _ in named}
    for row in rows:
        if row not in available:
            raise unknown_name("row", row, available)
    return [job for name, job in named if not rows or name in rows]


def _options(experiment: Experiment, flags: ImageBenchmarkFlags) -> Options:
    data = _load(experiment, flags)
    return Options(
        data="" if data is None else data.name,
        title="no data set" if data is None else data.title,
        shape=(1, 1, 1) if data is None else data.shape,
        data_root=None if flags.data_root is None else str(flags.data_root.absolute()),
        steps=flags.steps,
        batch=flags.batch,
        width=flags.width,
        seeds=tuple(range(flags.seeds)),
        images=flags.images,
        changes=flags.set,
        inception=None if flags.inception is None else str(flags.inception.expanduser().absolute()),
    )


def _load(experiment: Experiment, flags: ImageBenchmarkFlags) -> ImageData | None:
    """Load the set that is asked for, else the experiment's own, else, where that is not there, the built-in one."""
    if not experiment.data:
        for name in ("data", "data_root", "steps", "batch", "width", "images"):
            if getattr(flags, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} means nothing to {experiment.name}, which trains no model")
        return None
    try:
        return load_image_dataset(flags.data or experiment.data, flags.data_root)
    except MissingDataError as error:
        if flags.data is not None or flags.data_root is not None:
            raise
        logger.warning(f"{error}")
        logger.warning(f"going on with the built-in {FALLBACK}: these numbers say nothing about the paper's")
        return load_image_dataset(FALLBACK)


def _claim(out: Path, experiment: Experiment, options: Options) -> None:
    """Note what the folder belongs to, so that no two experiments mix in one table.

    Raises:
        UserError: If it belongs to something else.
    """
    wanted = {"experiment": experiment.name, **asdict(replace(options, data_root=None)), "seeds": len(options.seeds)}
    wanted |= {"shape": list(options.shape), "changes": list(options.changes)}
    wanted["inception"] = options.inception is not None  # wherever its file is
    path = out / OPTIONS_FILE
    if path.is_file():
        found = {"changes": [], "inception": False, **checkpoint.read_json(path)}
        different = [name for name, value in wanted.items() if found.get(name) != value]
        if different:
            first = different[0]
            raise UserError(
                f"{out} belongs to another experiment: {first} {found.get(first)!r} there, {wanted[first]!r} here; "
                "give the same flags or another --out"
            )
        return
    if out.is_dir() and os.listdir(out):
        raise UserError(f"{out} holds other files: give another --out")
    write_json(path, wanted)


def _check_recipes(jobs: Sequence[Job], out: Path) -> None:
    """Refuse a table of two versions' recipes, before anything is trained for it."""
    for job in jobs:
        folder = out / JOBS / job.name
        if isinstance(job, TrainingJob) and is_finished(folder) and (folder / checkpoint.CONFIG_FILE).is_file():
            check_recipe(job.recipe, folder)


def _run(jobs: Sequence[Job], out: Path, device: str, ray: str | None) -> None:
    """Do what is not finished, with the time that is left."""
    todo = [job for job in jobs if not is_finished(out / JOBS / job.name)]
    if len(todo) < len(jobs):
        logger.info(f"{len(jobs) - len(todo)} of {len(jobs)} jobs are finished already")
    if ray is not None and todo:
        run_on_ray({out / JOBS / job.name: job for job in todo}, device, ray)
        return
    started = time.monotonic()
    for number, job in enumerate(todo):
        each = (time.monotonic() - started) / number if number else None
        left = "" if each is None else f", about {timedelta(seconds=round(each * (len(todo) - number)))} left"
        logger.info(f"job {number + 1}/{len(todo)}: {job.name}{left}")
        try:
            job.run(out / JOBS / job.name, device)
        except KeyboardInterrupt:
            raise UserError(f"stopped in job {job.name}; the same command continues") from None


def _write(experiment: Experiment, options: Options, jobs: Sequence[Job], out: Path) -> dict[str, PlainValue]:
    """Write the table and its figures, of the rows whose every seed is there."""
    unfinished = list(dict.fromkeys(job.row for job in jobs if not is_finished(out / JOBS / job.name)))
    finished = [read_result(job, out / JOBS / job.name) for job in jobs if job.row not in unfinished]
    text, plain, figures = experiment.report(options, finished, out)
    if unfinished:
        text += f"\nNot finished: {', '.join(unfinished)}.\n"
    plain = {**plain, "unfinished": unfinished}
    markdown, numbers = out / f"{TABLE}.md", out / f"{TABLE}.json"
    write_bytes(markdown, text.encode())
    write_json(numbers, typing.cast("Mapping[str, object]", finite(plain)))
    return {"files": [str(path) for path in (markdown, numbers, *figures)], "table": plain, "markdown": text}
