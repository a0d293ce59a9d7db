"""DAPS with constant betas and targets of the effective sample size (DAPS, appendix C, figures 8 and 9)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from motionlex.motion_vae.images.jobs import Finished, Options
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.run_curves import ETA, KL, LOG_P, draw_training
from motionlex.motion_vae.images.tables import BETA_ELBO, LOG_LIKELIHOOD, PERPLEXITY, PSNR, by_row
from motionlex.motion_vae.images.tables import KL as KL_MEASURE

BETAS = (0.1, 1.0, 5.0, 10.0)
"""Weights of the KL, constant over a run (DAPS, appendix C)."""
ESS_TARGETS = (0.25, 0.5, 0.75)
"""Targets of the effective sample size as shares of K = 8."""
ANNEALED = "beta annealed"
CURVES = (LOG_P, KL, ETA)


def cell_name(beta: float, target: float) -> str:
    """Name of the row of one cell."""
    return f"beta {beta:g}, ESS {target:g} K"


def _draw(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw how training went by beta (figure 8), PSNR over the grid, and how training went in every cell (figure 9)."""
    groups = by_row(finished)
    cells = {
        f"beta {beta:g}": {
            f"ESS {target:g} K": groups[name] for target in ESS_TARGETS if (name := cell_name(beta, target)) in groups
        }
        for beta in BETAS
    }
    cells = {beta: of_beta for beta, of_beta in cells.items() if of_beta}
    lines = {beta: [one for group in of_beta.values() for one in group] for beta, of_beta in cells.items()}
    if ANNEALED in groups:
        lines[ANNEALED] = groups[ANNEALED]
    first = f"{options.title}: mean over the targets of the effective sample size"
    drawn = [draw_training({"": lines}, CURVES, first, folder / "beta_curves.png")]
    if cells:
        drawn.append(_draw_map(groups, options.title, folder / "beta_ess_grid.png"))
        drawn.append(draw_training(cells, CURVES, options.title, folder / "beta_ess_curves.png"))
    return drawn


def _mean_psnr(jobs: Sequence[Finished]) -> float:
    """Average over seeds [dB]; NaN, which stays white, without any."""
    return float(np.mean([cast("float", one.result["psnr_db"]) for one in jobs])) if jobs else math.nan


def _draw_map(groups: dict[str, list[Finished]], title: str, path: Path) -> Path:
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    values = np.array(
        [[_mean_psnr(groups.get(cell_name(beta, target), ())) for target in ESS_TARGETS] for beta in BETAS]
    )
    figure = Figure(figsize=(5.0, 4.0), dpi=figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis")
    for (row, column), value in np.ndenumerate(values):
        if math.isnan(value):
            continue
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white", fontsize=9)
    axes.set_xticks(range(len(ESS_TARGETS)), [f"{target:g} K" for target in ESS_TARGETS])
    axes.set_yticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
    axes.set_xlabel("target of the effective sample size")
    axes.set_ylabel("beta")
    axes.set_title(f"PSNR [dB], {title}", fontsize=10)
    figure.colorbar(image, ax=axes)
    return figures.save(figure, path)


BETA_ESS_GRID = experiment(
    "beta-ess-grid",
    "DAPS, figures 8 and 9: beta against the ESS target (CIFAR-10)",
    setting="cifar10",
    data="cifar10",
    rows=(
        *(
            Row(
                name=cell_name(beta, target),
                slug=f"beta{beta:g}_ess{target:g}",
                method="daps",
                changes=(f"beta_start={beta:g}", f"beta_end={beta:g}", f"ess_target={target:g}", "samples=8"),
            )
            for beta in BETAS
            for target in ESS_TARGETS
        ),
        Row(name=ANNEALED, slug="annealed", method="daps"),
    ),
    measures=(PSNR, LOG_LIKELIHOOD, KL_MEASURE, BETA_ELBO, PERPLEXITY),
    notes=(
        "The beta-ELBO is at each row's own beta: compare it within one beta only",
        "Curves: means over windows of 50 steps, averaged over seeds; the KL is the training batches' own",
        "The paper shows curves, no numbers",
    ),
    draw=_draw,
)
