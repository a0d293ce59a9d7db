"""RRVQ-VAE, figures B.2 and H.10: samples of spatial latents are patchwork, even where every image has one colour.

The finding is measured: the *spread* of an image is the standard deviation of its pixels, by colour. It is zero for a
swatch, and for a sample of a model that keeps the image together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.data.images.dataset import ImageData
from motionlex.data.images.source import in_order
from motionlex.motion_vae.images.evaluation import prior_samples, tiled
from motionlex.motion_vae.images.jobs import Finished, Job, Options, Result, TrainingJob
from motionlex.motion_vae.images.levels import decode_levels, most_probable_codes
from motionlex.motion_vae.images.metrics import squared_error
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.images.tables import MSE, PERPLEXITY, Measure, by_row
from motionlex.motion_vae.methods.rrvq import RRVQ

STEPS = 5000
"""Of every model, unless the user says otherwise; the paper gives none."""
COUNT, SHOWN = 90, 16
"""Images that the spread is averaged over, and images in a line of the picture."""
PICTURE = "swatches.png"
"""In the folder of a job: originals, their reconstructions, samples of the prior."""
SPREADS = tuple(
    Measure(key=f"spread_{name}_1e3", title=f"spread of {name} x 1e3", digits=1)
    for name in ("originals", "reconstructions", "samples")
)


def spread(images: Float[Tensor, "image pixel colour"]) -> float:
    """Standard deviation of the pixels of an image, by colour; averaged over colours and images."""
    return images.double().std(dim=1, correction=0).mean().item()


@dataclass(frozen=True, kw_only=True)
class SwatchJob(TrainingJob):
    """Train one model, and look at its samples."""

    @torch.no_grad()
    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Measure spreads and, with a hierarchy of codes, the error by levels; draw figure B.2."""
        from motionlex.motion_vae.figures import save_picture  # matplotlib is slow to import and wanted only here

        model, preprocessing = trained.model, trained.preprocessing
        device = next(model.parameters()).device
        draws = torch.Generator(device=device).manual_seed(self.seed)
        x, _ = next(in_order(data.test, preprocessing, batch=COUNT, limit=COUNT))
        x = x.to(device)
        decoded = (x, model.decode(model.encode(x, draws)).mean, prior_samples(model, COUNT, draws))
        images = [preprocessing.to_unit(one).cpu() for one in decoded]
        grid = (model.domain.grid[0], model.domain.grid[1])
        save_picture(tiled(torch.cat([one[:SHOWN] for one in images]), grid, SHOWN), folder / PICTURE)
        found: dict[str, float | list[float]] = {
            measure.key: 1e3 * spread(one) for measure, one in zip(SPREADS, images)
        }
        if isinstance(model, RRVQ):
            codes = most_probable_codes(model, x)
            means = [decode_levels(model, codes, kept).mean for kept in range(1, model.layers + 1)]
            errors = [squared_error(preprocessing.to_unit(mean).cpu(), images[0]) for mean in means]
            found["mse_1e3_by_levels"] = [1e3 * error.mean().item() for error in errors]
        return found


def _draw(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw the pictures of all models, first seed, and the error over the levels that are decoded."""
    from matplotlib.figure import Figure  # slow to import and wanted only here
    from PIL import Image

    from motionlex.motion_vae import figures

    groups = by_row(finished)
    figure = Figure(figsize=(8.0, 1.9 * len(groups)), dpi=figures.DPI, layout="constrained")
    for axes, (name, group) in zip(np.atleast_1d(figure.subplots(len(groups), 1)), groups.items()):
        with Image.open(group[0].folder / PICTURE) as picture:
            axes.imshow(np.asarray(picture))
        axes.set_title(f"{name}: originals, reconstructions, samples of the prior", fontsize=9)
        axes.axis("off")
    drawn = [figures.save(figure, folder / "swatches.png")]
    figure = Figure(figsize=(5.0, 3.6), dpi=figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    for name, group in groups.items():
        curves = [one.result["mse_1e3_by_levels"] for one in group if "mse_1e3_by_levels" in one.result]
        if curves:
            mean = np.mean(np.array(curves, dtype=np.float64), axis=0)
            axes.plot(range(1, len(mean) + 1), mean, "o-", label=name)
    axes.set_xlabel("levels decoded, coarsest first; the others are the most probable of p")
    axes.set_ylabel("MSE x 1e3")
    axes.set_title(options.title, fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return [*drawn, figures.save(figure, folder / "levels.png")]


CODES = ("vocabulary=16", "embedding_width=16", "ladder.width=32", "ladder.blocks=2", "ladder_blocks=0")
"""Appendix B: 16 codes of width 16, two residual blocks of 32 channels."""
ONE_LAYER = (*CODES, "variances=unit")

ALL_STEPS = experiment(
    "rrvq-swatches",
    "RRVQ-VAE, figures B.2 and H.10: samples of models of colour swatches",
    setting="cifar10_rrvq",
    data="swatches",
    rows=(
        Row(
            name="rVQ-VAE, convolutional",
            slug="rvqvae",
            method="rrvq",
            changes=("grid_tokens=256", *ONE_LAYER),
            tiny_changes=("grid_tokens=16", *ONE_LAYER),
        ),
        Row(name="Spatial-VAE", slug="spatial_vae", method="spatial_vae"),
        Row(name="rVQ-VAE, MLP", slug="rvqvae_mlp", method="rrvq", changes=("grid_tokens=1", *ONE_LAYER)),
        Row(
            name="RRVQ-VAE, L = 5",
            slug="rrvq",
            method="rrvq",
            changes=CODES,
        ),
    ),
    measures=(*SPREADS, MSE, PERPLEXITY),
    notes=(
        f"Spread: standard deviation of the pixels of an image, by colour, mean of {COUNT} images; the paper shows "
        "pictures only",
        "MLP: one token on a grid of 1 x 1, over which convolutions are dense layers; the paper gives no sizes",
        "RRVQ-VAE, L = 5 (on digits L = 3), is the paper's remedy, which its two figures do not show",
    ),
    draw=_draw,
    job=SwatchJob,
)


def _jobs(options: Options) -> Sequence[Job]:
    return ALL_STEPS.jobs(replace(options, steps=options.steps or STEPS))


RRVQ_SWATCHES = replace(ALL_STEPS, jobs=_jobs)
