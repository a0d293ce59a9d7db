"""All image experiments by name, with what the papers report."""

from collections.abc import Sequence
from pathlib import Path

from motionlex.data.registry import find_by_name
from motionlex.motion_vae.images.daps_experiments import DAPS_EXPERIMENTS
from motionlex.motion_vae.images.gm_vq_experiments import GM_VQ_EXPERIMENTS
from motionlex.motion_vae.images.gumbel_bias import GUMBEL_BIAS
from motionlex.motion_vae.images.jobs import Experiment, Finished, Options
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.rrvq_experiments import RRVQ_EXPERIMENTS
from motionlex.motion_vae.images.tables import ELBO, KL, LOG_LIKELIHOOD, PERPLEXITY

TUTORIAL_PLATEAU = -124.0
"""Where the curve of the tutorial ends [nat]."""


def available_experiments() -> dict[str, str]:
    """Names of all experiments with what they repeat."""
    return {one.name: one.summary for one in EXPERIMENTS}


def get_experiment(name: str) -> Experiment:
    """Look an experiment up.

    Raises:
        UserError: If there is none of that name; the message lists what exists.
    """
    return find_by_name(EXPERIMENTS, name, kind="experiment", where="motion_vae/images/experiments.py")


def _draw_curves(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw the training ELBO of every seed."""
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    figure = Figure(figsize=(6.0, 4.0), dpi=figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    for one in finished:
        curve = figures.read_curves(one.folder / "tensorboard").get("train/elbo_nats")
        if curve is not None:
            axes.plot(curve.steps, curve.values, linewidth=1.0, label=f"{one.job.row}, seed {one.job.seed}")
    if options.data == "mnist":
        axes.axhline(TUTORIAL_PLATEAU, color="black", linestyle="--", linewidth=0.8, label="tutorial, about -124")
    axes.set_xlabel("step")
    axes.set_ylabel("ELBO on training images [nat]")
    axes.set_title(options.title, fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return [figures.save(figure, folder / "elbo_curve.png")]


TUTORIAL = experiment(
    "tutorial",
    "Tutorial on discrete VAEs: REINFORCE on resampled MNIST",
    setting="mnist_tutorial",
    data="mnist",
    rows=(Row(name="REINFORCE", slug="reinforce", method="reinforce", paper={"elbo_nats": TUTORIAL_PLATEAU}),),
    measures=(ELBO, LOG_LIKELIHOOD, KL, PERPLEXITY),
    notes=("The tutorial's value is read off its training curve; ours is on the test split",),
    resampled=True,
    draw=_draw_curves,
)

OTHERS = (*GM_VQ_EXPERIMENTS, GUMBEL_BIAS, *RRVQ_EXPERIMENTS, TUTORIAL)
"""Of the other papers."""
EXPERIMENTS = (*DAPS_EXPERIMENTS, *OTHERS)
"""In the order of listings."""
