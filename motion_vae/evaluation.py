"""Metrics of a run on held-out clips, kept in the run as evaluation.json, with figures where they are asked for."""

import os
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.data.segments import SegmentSource
from motionlex.data.storage import finite, write_json
from motionlex.motion_vae import metrics
from motionlex.motion_vae.bounds import iwae_bounds
from motionlex.motion_vae.checkpoint import (
    META_FILE,
    RunConfig,
    TrainedAutoencoder,
    load_config,
    load_run,
    read_json,
)
from motionlex.motion_vae.measurement import Measured, by_category, describe_size, measure, summarise
from motionlex.motion_vae.precision import float32_arithmetic
from motionlex.motion_vae.registry import PlainValue, domain_from_plain
from motionlex.motion_vae.trainer import resolve_device
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain
from motionlex.motion_vae.trajectories.poses import pose_errors
from motionlex.motion_vae.trajectories.strips import Renderer

EVALUATION_FILE = "evaluation.json"
"""Where the result is kept in the run folder; ``motionlex compare`` reads it."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags:
    """Measure a run of train_motion_vae on held-out clips."""

    data: str | None = None
    """Data set; None takes the one the run was trained on."""
    data_root: Path | None = None
    """Folder of the data set; None takes the run's, then the environment variable."""
    split: str = "validation"
    """Clips to measure on: validation or train."""
    batches: int = 50
    """Batches to average over."""
    batch: int = 200
    """Segments per batch; PSNR pools the squared error over a batch before the logarithm."""
    keypoint_segments: int = 400
    """Segments whose joint and key-point errors are measured by forward kinematics."""
    iwae_samples: int = 0
    """K of the importance-weighted bound; 0 leaves it out, since it costs K encodings per segment."""
    iwae_segments: int = 200
    """Segments of the importance-weighted bound."""
    figures: bool = False
    """Draw training curves, code usage and strips of the robot into the folder figures."""
    figure_segments: int = 4
    """Segments of the strips of the robot, one per category of clips first."""
    out: Path | None = None
    """Folder of evaluation.json and of the figures; None takes the run folder."""
    seed: int = 0
    """Seed of the segments and of the one code sample per segment."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def evaluate_run(
    run: Path, flags: EvaluateFlags, renderer: Callable[[], Renderer] | None = None
) -> dict[str, PlainValue]:
    """Load a run and the clips, measure, and write evaluation.json (and figures).

    Args:
        run: Run folder.
        flags: What to measure on.
        renderer: Makes what turns a pose of the robot into a picture; None leaves the strips out of the figures.

    Raises:
        UserError: On a missing run, data or device, a run on images, or a folder that cannot be written.
    """
    _check_flags(flags)
    device = resolve_device(flags.device)
    config = load_config(run)
    domain = domain_from_plain(config.domain)
    if domain.kind != TrajectoryDomain.kind:
        raise UserError(f"{run} encodes data of the kind {domain.kind!r}, not motion")
    out = run if flags.out is None else flags.out
    _check_writable(out)
    _check_not_bundled(out)
    trained = load_run(run, device)
    kinematics = ForwardKinematics(get_robot("h1"))
    source = _load_source(trained, flags, kinematics, domain.grid[0])
    measured = measure(
        trained, source, batches=flags.batches, batch=flags.batch,
        keypoint_segments=max(flags.keypoint_segments, flags.figure_segments), seed=flags.seed, device=device,
    )  # fmt: skip
    result = {
        **_describe(run, flags, trained),
        "clips": len(source.clips),
        **_report(measured, trained, source, kinematics, flags.keypoint_segments),
        **_bound(trained, source, flags, device),
    }
    if flags.figures:
        from motionlex.motion_vae.run_figures import draw_run  # matplotlib is slow to import and wanted only here

        drawn = draw_run(
            out / "figures", run, measured, trained, source, segments=flags.figure_segments, renderer=renderer
        )
        result["figures"] = [str(path) for path in drawn]
    write_json(out / EVALUATION_FILE, typing.cast("Mapping[str, object]", finite(result)))
    return result


def evaluate(
    trained: TrainedAutoencoder,
    source: SegmentSource,
    kinematics: ForwardKinematics,
    *,
    batches: int,
    batch: int,
    keypoint_segments: int,
    seed: int,
    device: torch.device,
) -> dict[str, PlainValue]:
    """Measure reconstruction, codes and bound with one stochastic code sequence per segment.

    Args:
        trained: Model and statistics.
        source: Where standardised segments come from.
        kinematics: Of the robot, for key points.
        batches: Batches to average over.
        batch: Segments per batch.
        keypoint_segments: Segments for joint and key-point errors.
        seed: Of segments and codes.
        device: Where the model is.

    Returns:
        Metrics by name, units in the names; see :func:`motionlex.motion_vae.measurement.summarise`.
    """
    with float32_arithmetic("float32"):  # cuDNN's own choice for convolutions would be TF32
        measured = measure(
            trained, source, batches=batches, batch=batch, keypoint_segments=keypoint_segments, seed=seed, device=device
        )
    return _report(measured, trained, source, kinematics, keypoint_segments)


def _report(
    measured: Measured,
    trained: TrainedAutoencoder,
    source: SegmentSource,
    kinematics: ForwardKinematics,
    keypoint_segments: int,
) -> dict[str, PlainValue]:
    truth, decoded = measured.poses(keypoint_segments)
    errors = pose_errors(truth, decoded, trained.statistics, kinematics)
    return {
        **summarise(measured, trained.model),
        "joint_error_rad": float(errors.joint_rad.mean()),
        "keypoint_error_mm": float(errors.keypoint_mm.mean()),
        "segments": sum(len(clips) for clips in measured.clips),
        "categories": by_category(measured, errors, [clip.category for clip in source.clips]),
        **describe_size(trained.model),
    }


def _bound(
    trained: TrainedAutoencoder, source: SegmentSource, flags: EvaluateFlags, device: torch.device
) -> dict[str, PlainValue]:
    """The importance-weighted bound; None if it is off or the encoder deterministic."""
    if flags.iwae_samples == 0:
        return {"iwae_nats": None, "iwae_95_nats": None, "iwae_samples": 0}
    x = source.sample(flags.iwae_segments, torch.Generator().manual_seed(flags.seed + 2)).to(device)
    generator = torch.Generator(device=device).manual_seed(flags.seed + 3)
    bounds = iwae_bounds(trained.model, x, flags.iwae_samples, generator, batch=flags.batch)
    return {
        "iwae_nats": None if bounds is None else bounds.mean().item(),
        "iwae_95_nats": None if bounds is None else metrics.normal_interval(bounds),
        "iwae_samples": flags.iwae_samples,
        "iwae_segments": flags.iwae_segments,
    }


def _describe(run: Path, flags: EvaluateFlags, trained: TrainedAutoencoder) -> dict[str, PlainValue]:
    """What was measured, so that a reader of evaluation.json can tell which numbers belong together."""
    config: RunConfig = trained.config
    steps, seconds = trained.meta.get("steps"), trained.meta.get("seconds")
    known = isinstance(steps, int) and steps > 0 and isinstance(seconds, (int, float))
    return {
        "run": str(run),
        "method": config.method,
        "steps": steps,
        "seconds_per_step": seconds / steps if known else None,
        "data": flags.data or config.data,
        "split": flags.split,
        "hz": config.optimisation.hz,
        "frames": domain_from_plain(config.domain).grid[0],
        "batches": flags.batches,
        "batch": flags.batch,
        "seed": flags.seed,
    }


def _load_source(
    trained: TrainedAutoencoder, flags: EvaluateFlags, kinematics: ForwardKinematics, frames: int
) -> SegmentSource:
    config = trained.config
    root = flags.data_root or (None if config.data_root is None else Path(config.data_root))
    data = load_dataset(flags.data or config.data, root, hz=config.optimisation.hz)
    clips = data.validation if flags.split == "validation" else data.train
    if not clips:
        raise UserError(f"data set {data.name!r} has no {flags.split} clips")
    return SegmentSource(clips, trained.statistics, kinematics=kinematics, frames=frames)


def _check_flags(flags: EvaluateFlags) -> None:
    for name in ("batches", "batch", "keypoint_segments", "iwae_segments", "figure_segments"):
        check_number(f"--{name.replace('_', '-')}", getattr(flags, name), above=0)
    check_number("--iwae-samples", flags.iwae_samples, at_least=0)
    if flags.iwae_samples and flags.iwae_segments < 2:
        raise UserError(f"--iwae-segments must be at least 2 for a confidence interval, got {flags.iwae_segments}")
    check_seed(flags.seed)
    if flags.split not in ("validation", "train"):
        raise UserError(f"--split must be validation or train, got {flags.split!r}")


def _check_writable(folder: Path) -> None:
    """Refuse before measuring what could not be kept afterwards."""
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "is read-only" if above.is_dir() else "is no folder"
        raise UserError(f"{EVALUATION_FILE} cannot be written: {above} {why}; give another --out")


def _check_not_bundled(folder: Path) -> None:
    """Refuse to add files to a part of a bundle, whose card lists all of them: it would not load any more."""
    card = folder.absolute().parent / META_FILE
    if card.is_file() and "sha256" in read_json(card):
        raise UserError(f"{folder} is part of the bundle {card.parent}, which takes no more files; give another --out")
