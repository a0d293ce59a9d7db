"""Parameters and memory of every method where a whole step is too much to do: ImageNet (DAPS, figures 16 and 17).

What automatic differentiation keeps is a constant (weights apart) plus as much for every image, so that two small
batches tell what the paper's batch takes.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from motionlex.data.images.source import ImageSource
from motionlex.data.storage import write_json
from motionlex.motion_vae.images.daps_tables import IMAGENET, NAMES
from motionlex.motion_vae.images.evaluation import EVALUATION_FILE
from motionlex.motion_vae.images.jobs import Experiment, TrainingJob
from motionlex.motion_vae.images.model_experiments import Row, model_jobs
from motionlex.motion_vae.images.overview import (
    SIZE_MEASURES,
    describe_machine,
    held_by_step,
    kept_bytes,
    report_costs,
)
from motionlex.motion_vae.images.recipes import load_recipe_data, resolve
from motionlex.motion_vae.images.tables import Measure, TableLayout
from motionlex.motion_vae.trainer import resolve_device

BATCHES = (1, 2)
"""Images of the two batches that are measured."""
PER_IMAGE = Measure(key="kept_per_image_mb", title="of this, per image of the batch [MB]", digits=1)


def extrapolated(batches: tuple[int, int], kept: tuple[float, float], batch: int) -> float:
    """Follow the straight line through two batches to a third.

    Args:
        batches: Their numbers of images, different.
        kept: What each takes.
        batch: Images of the third.
    """
    slope = (kept[1] - kept[0]) / (batches[1] - batches[0])
    return kept[0] + slope * (batch - batches[0])


@dataclass(frozen=True, kw_only=True)
class MemoryJob(TrainingJob):
    """Count parameters, and measure two small batches instead of training; nothing is timed."""

    def run(self, folder: Path, device: str) -> None:
        """Evaluate the loss of one image and of two."""
        data = load_recipe_data(self.recipe)
        preprocessing, config = resolve(self.recipe, data)
        chosen = resolve_device(device)
        model = config.build().to(chosen)
        source, pixels = (
            ImageSource(data.train, preprocessing, seed=self.seed),
            torch.Generator().manual_seed(self.seed),
        )
        draws = torch.Generator(device=chosen).manual_seed(self.seed)
        batch = config.optimisation.batch
        first, second = (
            float(kept_bytes(lambda x=x: model.loss(x, draws, progress=1.0).total, model.parameters()))
            for x in (source.sample(count, pixels).to(chosen) for count in BATCHES)
        )
        write_json(
            folder / EVALUATION_FILE,
            {
                "method": self.recipe.method,
                "setting": self.recipe.setting,
                "data": self.recipe.data,
                "batch": batch,
                "seed": self.seed,
                "images": BATCHES[-1],
                "steps": 0,
                "machine": describe_machine(chosen),
                **held_by_step(model, extrapolated(BATCHES, (first, second), batch)),
                PER_IMAGE.key: (second - first) / (BATCHES[1] - BATCHES[0]) / 1e6,
            },
        )


SUMMARY = "DAPS, figures 16 and 17: parameters and memory (ImageNet-256)"
LAYOUT = TableLayout(
    title=SUMMARY,
    measures=(*SIZE_MEASURES, PER_IMAGE),
    paper={},
    paper_data="imagenet",
    notes=(
        "Held by a step: weights, gradients, Adam's two moments, and all that automatic differentiation keeps of the "
        f"first objective of a batch, worked out from batches of {BATCHES[0]} and {BATCHES[1]} images",
        "Nothing is trained or timed. The paper shows bars, no numbers; its authors' modules for DAPS count 1,211,008 "
        "and 330,198",
    ),
    held_out=False,
)
METHODS = {*IMAGENET, "gumbel"}
"""Of the paper's column, and the one that it trains elsewhere only and shows in figure 17."""
ROWS = tuple(Row(name=NAMES[method], slug=method, method=method) for method in NAMES if method in METHODS)
OVERVIEW_IMAGENET = Experiment(
    name="overview-imagenet",
    summary=SUMMARY,
    data="imagenet",
    jobs=partial(model_jobs, ROWS, "imagenet256", False, MemoryJob),
    report=partial(report_costs, LAYOUT),
)
