"""DAPS by the number of code sequences per image that its baseline averages over (DAPS, figure 10)."""

from collections.abc import Sequence
from pathlib import Path

from motionlex.motion_vae.images.jobs import Finished, Options
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.run_curves import ETA, LOG_P, SPREAD, draw_training
from motionlex.motion_vae.images.tables import BETA_ELBO, KL, LOG_LIKELIHOOD, PERPLEXITY, PSNR, by_row

SAMPLES = (2, 4, 8, 16, 32)
"""K."""
ESS_TARGET = 0.6
"""Above 1/K for every K here; the paper's 0.33 would have no meaning at K = 2."""


def _name(samples: int) -> str:
    return f"K = {samples}"


def _draw(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw how training went with every number of samples."""
    return [draw_training({"": by_row(finished)}, (LOG_P, SPREAD, ETA), options.title, folder / "value_samples.png")]


VALUE_SAMPLES = experiment(
    "value-samples",
    "DAPS, figure 10: number of value samples (MNIST)",
    setting="mnist",
    data="mnist",
    rows=tuple(
        Row(
            name=_name(samples),
            slug=f"samples{samples}",
            method="daps",
            changes=(f"samples={samples}", f"ess_target={ESS_TARGET:g}"),
        )
        for samples in SAMPLES
    ),
    measures=(PSNR, BETA_ELBO, LOG_LIKELIHOOD, KL, PERPLEXITY),
    notes=(
        f"Every row has the ESS target {ESS_TARGET:g} K: the paper's 0.33 K is below one sample at K = 2",
        "The paper shows curves, no numbers, and its values of K are not in the text",
    ),
    draw=_draw,
)
