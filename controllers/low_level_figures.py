"""Learning curves of low-level runs as PNG: import this only where it is wanted, since matplotlib is slow to import."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from motionlex.data.errors import UserError
from motionlex.motion_vae import figures
from motionlex.motion_vae.figures import Curve

LOGS = "tensorboard"
"""Folder of the logs in a run."""
_COLUMNS = 3
_MILLION = 1e-6


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """One logged quantity."""

    tag: str
    """Name in the logs."""
    title: str
    """Name and unit as drawn."""
    factor: float = 1.0
    """From the unit of the logs to the drawn one."""


PANELS = (
    CurvePanel(tag="train/mean_episode_s", title="mean episode in training [s]"),
    CurvePanel(tag="train/lost_share", title="lost episodes in training [%]", factor=100.0),
    CurvePanel(tag="train/mean_return", title="mean return in training"),
    CurvePanel(tag="evaluation/success_rate", title="success without exploration [%]", factor=100.0),
    CurvePanel(tag="evaluation/mean_survival_s", title="survival without exploration [s]"),
    CurvePanel(tag="evaluation/keypoint_error_local_mm", title="local key-point error [mm]"),
)
"""What is drawn, where a run has logged it; scores need --evaluate-every or --target-success."""


def read_run_curves(folder: Path) -> dict[str, Curve]:
    """Read what a run has logged; of stretches that were trained again after a crash only the last pass."""
    return {tag: last_pass(curve) for tag, curve in figures.read_curves(folder / LOGS).items()}


def last_pass(curve: Curve) -> Curve:
    """Drop points at or beyond the step of a later point: a run that resumed from its checkpoint did them again."""
    later = np.append(np.minimum.accumulate(curve.steps[::-1])[::-1][1:], np.iinfo(np.int64).max)
    kept = curve.steps < later
    return Curve(steps=curve.steps[kept], values=curve.values[kept])


def learning_curves(runs: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Draw one panel per quantity and one line per run over control steps.

    Args:
        runs: What each run logged, by the name that the legend gives it; at least one has one of the quantities.
    """
    panels = [panel for panel in PANELS if any(panel.tag in curves for curves in runs.values())]
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    legend = 0.25 * math.ceil(len(runs) / columns) if len(runs) > 1 else 0.0
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows + legend), dpi=figures.DPI, layout="constrained")
    lines = {}
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        for colour, (name, curves) in enumerate(runs.items()):
            if (curve := curves.get(panel.tag)) is None:
                continue
            marker = "." if len(curve.steps) < 40 else None
            steps, values = _MILLION * curve.steps, panel.factor * curve.values
            lines[name] = axes.plot(steps, values, color=f"C{colour % 10}", linewidth=1.2, marker=marker)[0]
        if panel.title.endswith("[%]"):
            axes.set_ylim(-3.0, 103.0)
        axes.set_title(panel.title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if index + columns >= len(panels):
            axes.set_xlabel("control steps [million]", fontsize=8)
    if len(runs) > 1:
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def draw_curves(folders: Sequence[Path], path: Path) -> Path | None:
    """Write the learning curves of runs as one picture.

    Args:
        folders: Runs of train_lowlevel; those without logs are left out.
        path: The PNG file.

    Returns:
        The file; None where there are no logs, as in a bundle.
    """
    names = _names(folders)
    read = {name: read_run_curves(folder) for name, folder in zip(names, folders, strict=True)}
    runs = {name: curves for name, curves in read.items() if any(panel.tag in curves for panel in PANELS)}
    return figures.save(learning_curves(runs), path) if runs else None


def _names(folders: Sequence[Path]) -> list[str]:
    """Name runs by their folder, by more of the path where two are called alike.

    Raises:
        UserError: If a run is given twice.
    """
    if len(resolved := {folder.resolve() for folder in folders}) < len(folders):
        twice = next(f for f in folders if sum(f.resolve() == other.resolve() for other in folders) > 1)
        raise UserError(f"{twice} is given twice among {len(resolved)} runs")
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]
