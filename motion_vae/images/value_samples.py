"""DAPS by the number of code sequences per image that its baseline averages over (DAPS, figure 10)."""

from collections.abc import Sequence
from pathlib import Path

from motionlex.motion_vae.images.jobs import Finished, Options
from motionlex.motion_vae.images.model_experiments import Row, experiment
from motionlex.motion_vae.images.tables import BETA_ELBO, KL, LOG_LIKELIHOOD, PERPLEXITY, PSNR, by_row

SAMPLES = (2, 4, 8, 16, 32)
"""K."""
ESS_TARGET = 0.6
"""Above 1/K for every K here; the paper's 0.33 would have no meaning at K = 2."""
CURVES = {
    "train/log_p_nats": "log-likelihood in training [nat]",
    "train/log_p_spread_nats": "its spread over the samples [nat]",
    "train/eta": "temperature eta",
}


def _name(samples: int) -> str:
    return f"K = {samples}"


def _draw(options: Options, finished: Sequence[Finished], folder: Path) -> list[Path]:
    """Draw how training went with every number of samples, the first seed of each."""
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    figure = Figure(figsize=(11.0, 3.4), dpi=figures.DPI, layout="constrained")
    panels = figure.subplots(1, len(CURVES))
    for name, group in by_row(finished).items():
        found = figures.read_curves(group[0].folder / "tensorboard")
        for axes, tag in zip(panels, CURVES):
            if tag in found:
                axes.plot(found[tag].steps, found[tag].values, linewidth=1.0, label=name)
    for axes, title in zip(panels, CURVES.values()):
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    figure.suptitle(options.title, fontsize=10)
    return [figures.save(figure, folder / "value_samples.png")]


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
