"""Training curves of finished jobs, averaged over runs, side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from motionlex.motion_vae.images.jobs import Finished

if TYPE_CHECKING:
    from motionlex.motion_vae.figures import Curve

LOG_P, SPREAD, KL, ETA = "train/log_p_nats", "train/log_p_spread_nats", "train/kl_nats", "train/eta"
"""Names of curves: those of the logs, and the KL, which is worked out."""
LOG_Q = "train/log_q_nats"
TITLES = {
    LOG_P: "log-likelihood in training [nat]",
    SPREAD: "its spread over the samples [nat]",
    KL: "KL to the prior [nat]",
    ETA: "temperature eta",
}
DECADES = 100.0
"""Positive values that span more than this ratio get a logarithmic axis."""


def training_curves(one: Finished) -> dict[str, "Curve"]:
    """Read what a job logged, with the KL to the uniform prior of its B codes of V, B ln V + E log q."""
    from motionlex.motion_vae import figures  # matplotlib is slow to import and wanted only here

    curves = figures.read_curves(one.folder / "tensorboard")
    if LOG_Q in curves:
        log_q = curves[LOG_Q]
        offset = cast("float", one.result["bits_per_segment"]) * math.log(2.0)
        curves[KL] = figures.Curve(steps=log_q.steps, values=log_q.values + offset)
    return curves


def mean_curve(curves: Sequence["Curve"]) -> "Curve":
    """Average curves at the steps that all of them have.

    Args:
        curves: At least one; the steps of each rise.
    """
    from motionlex.motion_vae.figures import Curve

    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    values = [curve.values[np.isin(curve.steps, steps)] for curve in curves]
    return Curve(steps=steps, values=np.mean(values, axis=0))


def draw_training(
    rows: Mapping[str, Mapping[str, Sequence[Finished]]], names: Sequence[str], title: str, path: Path
) -> Path:
    """Draw one line of panels per row, one panel per name, one curve per label: the mean of its jobs.

    Args:
        rows: Jobs by label, by what stands before the line of panels (nothing where it is empty).
        names: Of the curves, keys of ``TITLES``.
        title: Of the figure.
        path: The file.
    """
    from matplotlib.figure import Figure  # slow to import and wanted only here

    from motionlex.motion_vae import figures

    figure = Figure(figsize=(3.7 * len(names), 0.4 + 3.0 * len(rows)), dpi=figures.DPI, layout="constrained")
    panels = np.array(figure.subplots(len(rows), len(names), squeeze=False))
    for line, (row, groups) in zip(panels, rows.items()):
        read = {label: [training_curves(one) for one in group] for label, group in groups.items()}
        for axes, name in zip(line, names):
            drawn = {
                label: mean_curve([curves[name] for curves in found])
                for label, found in read.items()
                if all(name in curves for curves in found)
            }
            for label, curve in drawn.items():
                axes.plot(curve.steps, curve.values, linewidth=1.0, label=label)
            values = np.concatenate([curve.values for curve in drawn.values()] or [np.zeros(0)])
            if len(values) and values.min() > 0.0 and values.max() > DECADES * values.min():
                axes.set_yscale("log")
            axes.set_title(f"{row}: {TITLES[name]}" if row else TITLES[name], fontsize=9)
            axes.set_xlabel("step", fontsize=8)
            axes.grid(alpha=0.3)
            if drawn:
                axes.legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figures.save(figure, path)
