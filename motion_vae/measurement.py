"""What is collected over batches of held-out segments, and the numbers made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data.features import FeatureStatistics
from motionlex.data.segments import SegmentSource
from motionlex.motion_vae import metrics
from motionlex.motion_vae.checkpoint import TrainedAutoencoder
from motionlex.motion_vae.contract import Codes, DiscreteAutoencoder
from motionlex.motion_vae.registry import PlainValue
from motionlex.motion_vae.trajectories.poses import PoseErrors


@dataclass
class Measured:
    """Results of every batch, and of every segment where categories need them."""

    batch_error: list[float] = field(default_factory=list)
    """Mean squared error of each batch, features scaled to [0, 1]."""
    batch_error_of_mean: list[float] = field(default_factory=list)
    """The same for the mean of the training split instead of a reconstruction."""
    segment_errors: list[Tensor] = field(default_factory=list)
    """Mean squared errors of the segments of each batch."""
    log_likelihood: list[float] = field(default_factory=list)
    """Mean log p(x|z) of each batch [nat]."""
    kl: list[float] = field(default_factory=list)
    """Mean divergence from the prior of each batch [nat]."""
    batch_usage: list[float] = field(default_factory=list)
    """Share of the vocabulary that each batch uses."""
    batch_perplexity: list[float] = field(default_factory=list)
    """Effective number of codes of each batch."""
    counts: Int[Tensor, "token code"] | None = None
    """How often each code occurred at each position, over all batches; None for continuous relatives."""
    clips: list[np.ndarray] = field(default_factory=list)
    """Clip of every segment, per batch."""
    truth: list[np.ndarray] = field(default_factory=list)
    """Standardised features of the first batches, for poses."""
    decoded: list[np.ndarray] = field(default_factory=list)
    """Their reconstructions."""

    def poses(
        self, count: int | None
    ) -> tuple[Float[np.ndarray, "segment frame kept"], Float[np.ndarray, "segment frame kept"]]:
        """Return the first ``count`` originals and reconstructions, or all that were kept."""
        return np.concatenate(self.truth)[:count], np.concatenate(self.decoded)[:count]


@torch.no_grad()
def measure(
    trained: TrainedAutoencoder,
    source: SegmentSource,
    *,
    batches: int,
    batch: int,
    keypoint_segments: int,
    seed: int,
    device: torch.device,
) -> Measured:
    """Encode and decode held-out segments with one stochastic code sequence each.

    Args:
        trained: Model and statistics.
        source: Where standardised segments come from.
        batches: Batches to collect.
        batch: Segments per batch.
        keypoint_segments: Segments that are kept for poses.
        seed: Of segments and codes.
        device: Where the model is.
    """
    model = trained.model
    data_generator = torch.Generator().manual_seed(seed)
    code_generator = torch.Generator(device=device).manual_seed(seed + 1)
    measured = Measured()
    for index in range(batches):
        segments, clips = source.sample_with_clips(batch, data_generator)
        x = segments.to(device)
        codes = model.encode(x, code_generator)
        reconstruction = model.decode(codes)
        measured.kl.append(model.kl_to_prior(x, codes).mean().item())
        measured.log_likelihood.append(reconstruction.log_prob(x).mean().item())
        _add_codes(measured, model, codes)
        _add_reconstruction(measured, trained.statistics, segments, reconstruction.mean.cpu())
        measured.clips.append(clips)
        if index * batch < keypoint_segments:
            measured.truth.append(segments.numpy())
            measured.decoded.append(reconstruction.mean.cpu().numpy())
    return measured


def summarise(measured: Measured, model: DiscreteAutoencoder) -> dict[str, PlainValue]:
    """Make numbers of what was collected.

    Returns:
        Metrics by name, units in the names. ``beta_elbo`` uses the final beta; it is None without an ELBO. ``usage``
        and ``perplexity`` are those of all segments together, ``..._per_batch`` the means over batches.
    Source: DAPS, evaluation protocol (pooled MSE of a batch, mean over batches).
    """
    log_likelihood, kl = float(np.mean(measured.log_likelihood)), float(np.mean(measured.kl))
    beta, counts = model.final_beta, measured.counts
    total = None if counts is None else counts.sum(dim=0)
    return {
        "psnr_db": _mean_psnr(torch.tensor(measured.batch_error, dtype=torch.float64)),
        "psnr_per_segment_db": _mean_psnr(torch.cat(measured.segment_errors)),
        "psnr_of_training_mean_db": _mean_psnr(torch.tensor(measured.batch_error_of_mean, dtype=torch.float64)),
        "beta_elbo": None if beta is None else log_likelihood - beta * kl,
        "elbo_nats": log_likelihood - kl,
        "beta": beta,
        "kl_nats": kl,
        "log_likelihood": log_likelihood,
        "usage": None if total is None else metrics.usage(total),
        "perplexity": None if total is None else metrics.perplexity(total),
        "usage_per_batch": None if total is None else float(np.mean(measured.batch_usage)),
        "perplexity_per_batch": None if total is None else float(np.mean(measured.batch_perplexity)),
        "perplexity_per_token": None if counts is None else float(np.mean([metrics.perplexity(row) for row in counts])),
    }


def by_category(
    measured: Measured, errors: PoseErrors, categories: Sequence[str]
) -> dict[str, dict[str, int | float | None]]:
    """Split the errors by what kind of clip a segment is from.

    Args:
        measured: Segments with their clips.
        errors: Pose errors of the first segments.
        categories: Category of every clip.

    Returns:
        By category, sorted: number of segments and their PSNR, number of segments with poses and their errors (None
        where there are none). Categories without a segment are left out.
    """
    clips, psnr = np.concatenate(measured.clips), metrics.psnr_db(torch.cat(measured.segment_errors)).numpy()
    names = np.array(categories)[clips]
    posed = names[: len(errors.joint_rad)]
    table: dict[str, dict[str, int | float | None]] = {}
    for name in sorted(set(names.tolist())):
        some = bool((posed == name).any())
        table[name] = {
            "segments": int((names == name).sum()),
            "psnr_per_segment_db": float(psnr[names == name].mean()),
            "keypoint_segments": int((posed == name).sum()),
            "joint_error_rad": float(errors.joint_rad[posed == name].mean()) if some else None,
            "keypoint_error_mm": float(errors.keypoint_mm[posed == name].mean()) if some else None,
        }
    return table


def describe_size(model: DiscreteAutoencoder) -> dict[str, PlainValue]:
    """Bits and parameters of a model; bits are None for continuous relatives."""
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {
        "tokens": model.tokens,
        "vocabulary": model.vocabulary if model.discrete else None,
        "bits_per_segment": metrics.bits_per_segment(model.tokens, model.vocabulary) if model.discrete else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_by_part": {name: count for name, count in parts.items() if count},
    }


def _mean_psnr(errors: Float[Tensor, " error"]) -> float:
    return metrics.psnr_db(errors).mean().item()


def _add_codes(measured: Measured, model: DiscreteAutoencoder, codes: Codes) -> None:
    if codes.indices is None:
        return
    counts = metrics.position_counts(codes.indices.cpu(), model.vocabulary)
    measured.counts = counts if measured.counts is None else measured.counts + counts
    total = counts.sum(dim=0)
    measured.batch_usage.append(metrics.usage(total))
    measured.batch_perplexity.append(metrics.perplexity(total))


def _add_reconstruction(
    measured: Measured,
    statistics: FeatureStatistics,
    x: Float[Tensor, "batch frame kept"],
    mean: Float[Tensor, "batch frame kept"],
) -> None:
    centre, scale, minimum, maximum = (
        torch.from_numpy(np.asarray(value)).double()
        for value in (statistics.mean, statistics.std, statistics.minimum, statistics.maximum)
    )
    truth = x.double() * scale + centre
    error = metrics.mean_squared_error(mean.double() * scale + centre, truth, minimum, maximum)
    baseline = metrics.mean_squared_error(centre.expand_as(truth), truth, minimum, maximum)
    measured.segment_errors.append(error)
    measured.batch_error.append(error.mean().item())
    measured.batch_error_of_mean.append(baseline.mean().item())
