"""All image experiments by name, with what the papers report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motionlex.data.registry import find_by_name
from motionlex.motion_vae.images.daps_experiments import DAPS_EXPERIMENTS
from motionlex.motion_vae.images.gm_vq_experiments import GM_VQ_EXPERIMENTS
from motionlex.motion_vae.images.gumbel_bias import GUMBEL_BIAS
from motionlex.motion_vae.images.jobs import Experiment, Finished, Options
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.rrvq_experiments import RRVQ_EXPERIMENTS
from motionlex.motion_vae.images.tables import (
    BATCH_PERPLEXITY,
    BETA_ELBO,
    BITS,
    ELBO,
    KL,
    LOG_LIKELIHOOD,
    MSE,
    PERPLEXITY,
    PSNR,
    SSIM,
    USAGE,
    by_row,
)

BETAS = (0.1, 1.0, 5.0, 10.0)
"""Weights of the KL, constant over a run (DAPS, appendix C)."""
ESS_TARGETS = (0.25, 0.5, 0.75)
"""Targets of the effective sample size as shares of K = 8."""
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


def _grid_name(beta: float, target: float) -> str:
    return f"beta {beta:g}, ESS {target:g} K"


def _draw_grid(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw PSNR over beta and ESS target."""
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    groups = by_row(finished)
    values = np.array(
        [
            [np.mean([one.result["psnr_db"] for one in groups[_grid_name(beta, target)]]) for target in ESS_TARGETS]
            for beta in BETAS
        ]
    )
    figure = Figure(figsize=(5.0, 4.0), dpi=figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis")
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white", fontsize=9)
    axes.set_xticks(range(len(ESS_TARGETS)), [f"{target:g} K" for target in ESS_TARGETS])
    axes.set_yticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
    axes.set_xlabel("target of the effective sample size")
    axes.set_ylabel("beta")
    axes.set_title(f"PSNR [dB], {options.title}", fontsize=10)
    figure.colorbar(image, ax=axes)
    return [figures.save(figure, folder / "beta_ess_grid.png")]


GM_VQ_TABLE1 = experiment(
    "gm-vq-table1",
    "GM-VQ, table 1 (CIFAR-10)",
    setting="cifar10_gm_vq",
    data="cifar10",
    rows=(
        Row(name="GM-VQ", slug="gm_vq", method="gm_vq", paper={"mse_1e3": 3.13, "perplexity_per_batch": 731.9}),
        Row(name="VQ-VAE", slug="vqvae", method="vqvae", paper={"mse_1e3": 5.65, "perplexity_per_batch": 14.0}),
        Row(
            name="Gumbel-VQVAE",
            slug="gumbel_vqvae",
            method="gumbel_vqvae",
            paper={"mse_1e3": 6.16, "perplexity_per_batch": 20.3},
        ),
    ),
    measures=(MSE, BATCH_PERPLEXITY, PERPLEXITY, USAGE, PSNR, SSIM),
    notes=(
        "Perplexity per batch: of 256 images, averaged over batches, as in the paper; perplexity and usage: of all",
    ),
)

RRVQ_TABLE1 = experiment(
    "rrvq-table1",
    "RRVQ-VAE with L = 5 against rVQ-VAE (CIFAR-10)",
    setting="cifar10_rrvq",
    data="cifar10",
    rows=(
        Row(name="RRVQ-VAE", slug="rrvq", method="rrvq", paper={"bits_per_dimension": 4.65}),
        Row(
            name="rVQ-VAE",
            slug="rvqvae",
            method="rrvq",
            changes=("grid_tokens=256", "variances=unit"),
            tiny_changes=("grid_tokens=16", "variances=unit"),
            paper={"bits_per_dimension": 4.77},
        ),
    ),
    measures=(BITS, ELBO, PSNR, SSIM, USAGE, PERPLEXITY),
    notes=(
        "The paper's RRVQ-VAE with L = 5 is from its ablation G.1, its rVQ-VAE from table 1",
        "rVQ-VAE here is RRVQ-VAE with one layer on the finest grid and unit variances",
    ),
)

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

BETA_ESS_GRID = experiment(
    "beta-ess-grid",
    "DAPS, figures 8 and 9: beta against the ESS target (CIFAR-10)",
    setting="cifar10",
    data="cifar10",
    rows=(
        *(
            Row(
                name=_grid_name(beta, target),
                slug=f"beta{beta:g}_ess{target:g}",
                method="daps",
                changes=(f"beta_start={beta:g}", f"beta_end={beta:g}", f"ess_target={target:g}", "samples=8"),
            )
            for beta in BETAS
            for target in ESS_TARGETS
        ),
        Row(name="beta annealed", slug="annealed", method="daps"),
    ),
    measures=(PSNR, LOG_LIKELIHOOD, KL, BETA_ELBO, PERPLEXITY),
    notes=(
        "The beta-ELBO is at each row's own beta: compare it within one beta only",
        "The paper shows curves, no numbers",
    ),
    draw=_draw_grid,
)

OTHERS = (GM_VQ_TABLE1, *GM_VQ_EXPERIMENTS, GUMBEL_BIAS, RRVQ_TABLE1, *RRVQ_EXPERIMENTS, TUTORIAL)
"""Of the other papers."""
EXPERIMENTS = (*DAPS_EXPERIMENTS, BETA_ESS_GRID, *OTHERS)
"""In the order of listings."""
