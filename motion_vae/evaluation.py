"""Metrics of a run on held-out clips."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.data.features import FeatureStatistics, features_to_state
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.data.segments import SegmentSource
from motionlex.motion_vae import metrics
from motionlex.motion_vae.checkpoint import TrainedAutoencoder, load_run
from motionlex.motion_vae.contract import BatchSource
from motionlex.motion_vae.registry import PlainValue, domain_from_plain
from motionlex.motion_vae.trainer import resolve_device


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
    seed: int = 0
    """Seed of the segments and of the one code sample per segment."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass
class _Sums:
    """What is collected over batches."""

    psnr: list[float] = field(default_factory=list)
    psnr_per_segment: list[float] = field(default_factory=list)
    psnr_of_mean: list[float] = field(default_factory=list)
    log_likelihood: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    poses: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


def evaluate_run(run: Path, flags: EvaluateFlags) -> dict[str, PlainValue]:
    """Load a run and the clips, and measure.

    Args:
        run: Run folder.
        flags: What to measure on.

    Raises:
        UserError: On a missing run, data or device.
    """
    for name in ("batches", "batch", "keypoint_segments"):
        check_number(f"--{name.replace('_', '-')}", getattr(flags, name), above=0)
    check_seed(flags.seed)
    if flags.split not in ("validation", "train"):
        raise UserError(f"--split must be validation or train, got {flags.split!r}")
    device = resolve_device(flags.device)
    trained = load_run(run, device)
    config = trained.config
    hz = config.optimisation.hz
    root = flags.data_root or (None if config.data_root is None else Path(config.data_root))
    data = load_dataset(flags.data or config.data, root, hz=hz)
    clips = data.validation if flags.split == "validation" else data.train
    if not clips:
        raise UserError(f"data set {data.name!r} has no {flags.split} clips")
    kinematics = ForwardKinematics(get_robot("h1"))
    frames = domain_from_plain(config.domain).grid[0]
    source = SegmentSource(clips, trained.statistics, kinematics=kinematics, frames=frames)
    result = evaluate(
        trained, source, kinematics, batches=flags.batches, batch=flags.batch,
        keypoint_segments=flags.keypoint_segments, seed=flags.seed, device=device,
    )  # fmt: skip
    return {"run": str(run), "split": flags.split, "clips": len(clips), "hz": hz, **result}


@torch.no_grad()
def evaluate(
    trained: TrainedAutoencoder,
    source: BatchSource,
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
        Metrics by name, units in the names. ``beta_elbo`` uses the final beta; it is None without an ELBO.
    Source: DAPS, evaluation protocol (SEEDS: pooled MSE of a batch, mean over batches).
    """
    model, statistics = trained.model, trained.statistics
    data_generator = torch.Generator().manual_seed(seed)
    code_generator = torch.Generator(device=device).manual_seed(seed + 1)
    counts = torch.zeros(model.vocabulary, dtype=torch.long)
    sums = _Sums()
    for _ in range(batches):
        x = source.sample(batch, data_generator).to(device)
        codes = model.encode(x, code_generator)
        reconstruction = model.decode(codes)
        if codes.indices is not None:
            counts += metrics.code_counts(codes.indices.cpu(), model.vocabulary)
        sums.kl.append(model.kl_to_prior(x, codes).mean().item())
        sums.log_likelihood.append(reconstruction.log_prob(x).mean().item())
        _add_reconstruction(sums, statistics, x.cpu(), reconstruction.mean.cpu())
        if len(sums.poses) * batch < keypoint_segments:
            sums.poses.append((x.cpu().numpy(), reconstruction.mean.cpu().numpy()))
    joint_error, keypoint_error = pose_errors(
        np.concatenate([truth for truth, _ in sums.poses])[:keypoint_segments],
        np.concatenate([decoded for _, decoded in sums.poses])[:keypoint_segments],
        statistics,
        kinematics,
    )
    log_likelihood, kl = float(np.mean(sums.log_likelihood)), float(np.mean(sums.kl))
    beta = model.final_beta
    return {
        "psnr_db": float(np.mean(sums.psnr)),
        "psnr_per_segment_db": float(np.mean(sums.psnr_per_segment)),
        "psnr_of_training_mean_db": float(np.mean(sums.psnr_of_mean)),
        "beta_elbo": None if beta is None else log_likelihood - beta * kl,
        "beta": beta,
        "kl_nats": kl,
        "log_likelihood": log_likelihood,
        "usage": metrics.usage(counts) if model.discrete else None,
        "perplexity": metrics.perplexity(counts) if model.discrete else None,
        "joint_error_rad": joint_error,
        "keypoint_error_mm": keypoint_error,
        "segments": batches * batch,
    }


def pose_errors(
    truth: Float[np.ndarray, "segment frame kept"],
    decoded: Float[np.ndarray, "segment frame kept"],
    statistics: FeatureStatistics,
    kinematics: ForwardKinematics,
) -> tuple[float, float]:
    """Compare decoded motion with the original as poses of the robot.

    Both are turned into states that start at the origin of the heading frame, so that drift of the integrated root
    counts; the key points are all sites of the robot.

    Args:
        truth: Standardised features of the original.
        decoded: Standardised features of the reconstruction.
        statistics: To de-standardise.
        kinematics: Of the robot.

    Returns:
        Mean absolute joint error [rad] and mean key-point distance [mm].
    """
    states = []
    for values in (decoded, truth):
        features = statistics.destandardise(values.astype(np.float64))
        origin = np.zeros(len(features))
        qpos, _ = features_to_state(features, hz=statistics.hz, start_xy=np.zeros((len(features), 2)), start_yaw=origin)
        states.append((qpos[..., 7:], kinematics(qpos.reshape(-1, qpos.shape[-1])).site_pos))
    tensors = [[torch.from_numpy(part) for part in state] for state in states]
    joint_error = metrics.joint_error_rad(tensors[0][0], tensors[1][0])
    return joint_error, metrics.keypoint_error_mm(tensors[0][1], tensors[1][1])


def _add_reconstruction(sums: _Sums, statistics: FeatureStatistics, x: Tensor, mean: Tensor) -> None:
    centre, scale, minimum, maximum = (
        torch.from_numpy(np.asarray(value)).double()
        for value in (statistics.mean, statistics.std, statistics.minimum, statistics.maximum)
    )
    truth = x.double() * scale + centre
    error = metrics.mean_squared_error(mean.double() * scale + centre, truth, minimum, maximum)
    baseline = metrics.mean_squared_error(centre.expand_as(truth), truth, minimum, maximum)
    sums.psnr.append(metrics.psnr_db(error.mean()).item())
    sums.psnr_per_segment.append(metrics.psnr_db(error).mean().item())
    sums.psnr_of_mean.append(metrics.psnr_db(baseline.mean()).item())
