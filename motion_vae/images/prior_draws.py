"""Images decoded from codes drawn uniformly, side by side for three methods (DAPS, figure 21)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from motionlex.data.images.dataset import ImageData
from motionlex.motion_vae.images.code_usage import ROWS
from motionlex.motion_vae.images.evaluation import SHOWN, prior_samples, tiled
from motionlex.motion_vae.images.jobs import Finished, Options, Result, TrainingJob
from motionlex.motion_vae.images.model_experiments import experiment
from motionlex.motion_vae.images.runs import TrainedImages
from motionlex.motion_vae.images.tables import KL, PERPLEXITY, PSNR, USAGE, by_row

PICTURE = "prior_row.png"
"""In the folder of a job: samples in one row."""


@dataclass(frozen=True, kw_only=True)
class PriorJob(TrainingJob):
    """Train, measure, and decode uniform codes of the job's seed."""

    def further(self, trained: TrainedImages, data: ImageData, folder: Path) -> Result:
        """Draw one row of samples; there is nothing to measure."""
        from motionlex.motion_vae.figures import save_picture  # matplotlib is slow to import and wanted only here

        device = next(trained.model.parameters()).device
        draws = torch.Generator(device=device).manual_seed(self.seed)
        samples = trained.preprocessing.to_unit(prior_samples(trained.model, SHOWN, draws).cpu())
        save_picture(tiled(samples, (data.shape[0], data.shape[1]), SHOWN), folder / PICTURE)
        return {}


def _draw(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw one row of samples per method, the first seed of each."""
    from matplotlib.figure import Figure  # slow to import and wanted only here
    from PIL import Image

    from motionlex.motion_vae import figures

    groups = by_row(finished)
    figure = Figure(figsize=(9.0, 0.95 * len(groups) + 0.3), dpi=figures.DPI, layout="constrained")
    for axes, (name, group) in zip(np.atleast_1d(figure.subplots(len(groups), 1)), groups.items()):
        with Image.open(group[0].folder / PICTURE) as picture:
            axes.imshow(np.asarray(picture), interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.axis("off")
    figure.suptitle(options.title, fontsize=10)
    return [figures.save(figure, folder / "prior_samples.png")]


PRIOR_SAMPLES = experiment(
    "prior-samples",
    "DAPS, figure 21: images decoded from uniform codes (MNIST)",
    setting="mnist",
    data="mnist",
    rows=ROWS,
    measures=(PSNR, USAGE, PERPLEXITY, KL),
    notes=(
        f"{SHOWN} samples per method in prior_samples.png: every code is drawn uniformly from the whole vocabulary, "
        "also where the model never uses it: the usage tells how much of it does",
        "The paper shows samples, no numbers",
    ),
    draw=_draw,
    job=PriorJob,
)
