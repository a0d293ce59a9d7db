"""Which codes of the vocabulary held-out images use (DAPS, figures 2, 14 and 15)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from motionlex.data.images.collection import Images
from motionlex.data.images.dataset import ImageData
from motionlex.data.images.source import in_order
from motionlex.motion_vae import metrics
from motionlex.motion_vae.images.evaluation import BATCH
from motionlex.motion_vae.images.jobs import Experiment, Finished, Options, Result, TrainingJob
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.images.tables import KL, PERPLEXITY, PSNR, USAGE, Measure, by_row

COUNTS = "code_counts"
"""Key of evaluation.json: occurrences of every code over all positions of all held-out images."""
RELATIVE = Measure(key="relative_perplexity", title="perplexity / codes", digits=3)
RAREST = Measure(key="rarest_half_share", title="share of the rarer half", digits=3)
ROWS = (
    Row(name="DAPS", slug="daps", method="daps"),
    Row(name="VQ-VAE", slug="vqvae", method="vqvae"),
    Row(name="FSQ", slug="fsq", method="fsq"),
)


@torch.no_grad()
def count_codes(trained: TrainedImages, images: Images, *, limit: int | None, seed: int) -> Int[np.ndarray, " code"]:
    """Count codes over all positions, one stochastic sequence per image.

    Args:
        trained: A discrete model.
        images: Held-out images.
        limit: Count on so many; None takes all.
        seed: Of the codes and of drawn pixels.
    """
    model = trained.model
    device = next(model.parameters()).device
    pixels, draws = torch.Generator().manual_seed(seed), torch.Generator(device=device).manual_seed(seed + 1)
    counts = torch.zeros(model.vocabulary, dtype=torch.long)
    for x, _ in in_order(images, trained.preprocessing, batch=BATCH, limit=limit, generator=pixels):
        indices = model.encode(x.to(device), draws).indices
        assert indices is not None
        counts += metrics.code_counts(indices.cpu(), model.vocabulary)
    return counts.numpy()


def rarer_half_share(counts: Int[np.ndarray, " code"]) -> float:
    """Share of all occurrences that falls on the rarer half of the vocabulary: 0.5 where all codes are alike."""
    ordered = np.sort(counts)
    return float(ordered[: len(counts) // 2].sum() / counts.sum())


@dataclass(frozen=True, kw_only=True)
class UsageJob(TrainingJob):
    """Train, measure, and count every code."""

    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Count codes on the held-out images."""
        counts = count_codes(trained, data.test, limit=self.images, seed=self.seed)
        return {
            COUNTS: counts.tolist(),
            RELATIVE.key: metrics.perplexity(torch.from_numpy(counts)) / len(counts),
            RAREST.key: rarer_half_share(counts),
        }


def _draw(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw the vocabulary of the first seed of every method as a grid, codes that are never used in white."""
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    groups = by_row(finished)
    figure = Figure(figsize=(3.6 * len(groups), 3.6), dpi=figures.DPI, layout="constrained")
    for axes, (name, group) in zip(np.atleast_1d(figure.subplots(1, len(groups))), groups.items()):
        counts = np.asarray(group[0].result[COUNTS])
        grid = figures.vocabulary_grid(counts)
        image = axes.imshow(np.where(grid > 0.0, grid, np.nan), cmap="viridis", vmin=0.0, interpolation="nearest")
        axes.set_title(f"{name}: {np.count_nonzero(counts)} of {len(counts)} codes", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, shrink=0.8, label="occurrences")
    figure.suptitle(options.title, fontsize=10)
    return [figures.save(figure, folder / "code_usage.png")]


def _usage(name: str, figure: str, title: str, setting: str) -> Experiment:
    return experiment(
        name,
        f"DAPS, {figure}: use of the codes ({title})",
        setting=setting,
        data=setting,
        rows=ROWS,
        measures=(USAGE, PERPLEXITY, RELATIVE, RAREST, PSNR, KL),
        notes=(
            "Over all positions of all held-out images; the rarer half of the codes has a share of 0.5 where all are "
            "used alike",
            "The paper shows pictures, no numbers",
        ),
        draw=_draw,
        job=UsageJob,
    )


CODE_USAGE = _usage("code-usage", "figures 2 and 15", "MNIST", "mnist")
CODE_USAGE_CIFAR = _usage("code-usage-cifar", "figure 14", "CIFAR-10", "cifar10")
