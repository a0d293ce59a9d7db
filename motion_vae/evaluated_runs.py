"""Evaluated runs as they lie on the disk, and whether their metrics may be compared."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motionlex.data.errors import UserError
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.checkpoint import RunConfig
from motionlex.motion_vae.evaluation import EVALUATION_FILE
from motionlex.motion_vae.registry import PlainValue, domain_from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column with one value per run."""

    key: str
    """Name in evaluation.json."""
    title: str
    """Header, with the unit."""
    digits: int
    """Digits after the point in the table."""
    plotted: bool = False
    """Whether the picture has a panel of it."""


MEASURES = (
    Measure(key="psnr_db", title="PSNR pooled [dB]", digits=2, plotted=True),
    Measure(key="psnr_per_segment_db", title="PSNR per segment [dB]", digits=2),
    Measure(key="beta_elbo", title="beta-ELBO [nat]", digits=1),
    Measure(key="kl_nats", title="KL [nat]", digits=1),
    Measure(key="iwae_nats", title="IWAE bound [nat]", digits=1),
    Measure(key="joint_error_rad", title="joint error [rad]", digits=4, plotted=True),
    Measure(key="keypoint_error_mm", title="key-point error [mm]", digits=1, plotted=True),
    Measure(key="usage", title="usage", digits=3),
    Measure(key="perplexity", title="perplexity", digits=1, plotted=True),
    Measure(key="seconds_per_step", title="s/step", digits=3),
)


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """What the files of one run say."""

    folder: Path
    """The run."""
    config: RunConfig
    """How it was made."""
    meta: Mapping[str, PlainValue]
    """Provenance, with the steps it was trained for."""
    evaluation: Mapping[str, PlainValue]
    """Its metrics."""

    @property
    def conditions(self) -> dict[str, PlainValue]:
        """What must be equal for metrics to be comparable."""
        domain = domain_from_plain(self.config.domain)
        return {
            "data": self.config.data,
            "data_hash": self.meta.get("data_hash"),
            "hz": self.config.optimisation.hz,
            "grid": list(domain.grid),
            **{f"evaluated_{name}": self.evaluation.get(name) for name in ("data", "split", "batch")},
        }

    @property
    def settings(self) -> dict[str, PlainValue]:
        """Every setting but the seed and the place of the data, by its path in the configuration."""
        plain = {**to_plain(self.config), "steps": self.meta["steps"]}
        return {
            path: value
            for path, value in _leaves(plain)
            if path not in ("seed", "data_root", "optimisation.steps", "domain.features")
        }


def read_runs(folders: Sequence[Path]) -> list[EvaluatedRun]:
    """Read config.json, meta.json and evaluation.json of every run.

    Raises:
        UserError: If a folder is no run, a file is damaged, or a run was not evaluated since it was last trained.
    """
    runs, waiting = [], []
    for folder in folders:
        config, meta = checkpoint.load_config(folder), checkpoint.read_json(folder / checkpoint.META_FILE)
        try:
            domain_from_plain(config.domain)
        except UserError as error:
            raise UserError(f"{folder / checkpoint.CONFIG_FILE} is damaged: {error}") from error
        if not isinstance(meta.get("steps"), int):
            raise UserError(f"{folder / checkpoint.META_FILE} is damaged: it has no number of steps")
        if not (folder / EVALUATION_FILE).is_file():
            waiting.append(folder)
            continue
        evaluation = checkpoint.read_json(folder / EVALUATION_FILE)
        for measure in MEASURES:
            value = evaluation.get(measure.key)
            wanted = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not wanted and (value is not None or measure.key == "psnr_db"):
                raise UserError(
                    f"{folder / EVALUATION_FILE} is damaged: {measure.key} is {value!r}, wanted a number; "
                    f"run motionlex evaluate-motion-vae {folder}"
                )
        if evaluation.get("steps") != meta["steps"]:
            waiting.append(folder)
            continue
        runs.append(EvaluatedRun(folder=folder, config=config, meta=meta, evaluation=evaluation))
    if waiting:
        listed = ", ".join(map(str, waiting))
        raise UserError(
            f"not evaluated since the last training step: {listed}; run motionlex evaluate-motion-vae {waiting[0]}"
        )
    return runs


def check_conditions(runs: Sequence[EvaluatedRun], *, mixed: bool) -> list[str]:
    """Find out whether the metrics of runs may be compared.

    Args:
        runs: At least one.
        mixed: Whether differences are wanted.

    Returns:
        One note per difference.

    Raises:
        UserError: On a difference that is not wanted.
    """
    notes = []
    for name in runs[0].conditions:
        found: dict[str, list[str]] = {}
        for run in runs:
            found.setdefault(str(run.conditions[name])[:16], []).append(run.folder.name)
        if len(found) > 1:
            notes.append(f"runs differ in {name}: " + "; ".join(f"{v} ({', '.join(r)})" for v, r in found.items()))
    bounds = {samples for run in runs if (samples := run.evaluation.get("iwae_samples"))}
    if len(bounds) > 1:
        notes.append(f"runs differ in the samples of their IWAE bounds: {', '.join(map(str, sorted(bounds)))}")
    if notes and not mixed:
        raise UserError(f"{notes[0]}. Compare them apart, or give --mixed for one table that says so")
    return notes


def _leaves(values: Mapping[str, PlainValue], prefix: str = "") -> Iterator[tuple[str, PlainValue]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
