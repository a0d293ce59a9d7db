"""Figures of the stack's report: import this only where they are wanted, since matplotlib is slow to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from motionlex.controllers.evaluation_files import STAGES, Row, section
from motionlex.motion_vae import figures

SERIES = (("judge_accuracy", "linear judge"), ("recall_at_1", "R@1"), ("recall_at_2", "R@2"), ("recall_at_3", "R@3"))
"""What the figure of the stages shows."""
OUTCOMES = (("#d9d9d9", "not tried"), ("#b2182b", "fell"), ("#fddb8b", "another action"), ("#4d9a5b", "right action"))
"""Colour and meaning of a switch."""


def draw_stack_report(folder: Path, report: Row) -> list[Path]:
    """Write the figures that a report has something for.

    Args:
        folder: Where to.
        report: One object per stage.

    Returns:
        The files.
    """
    simulated = section(report, "simulated")
    drawn = [figures.save(stage_figure(report), folder / "recall.png")]
    if table := section(simulated, "action_confusion"):
        drawn.append(
            figures.save(confusion_figure(cast(Mapping[str, Mapping[str, int]], table)), folder / "confusion.png")
        )
    if pairs := section(simulated, "switches").get("pairs"):
        drawn.append(figures.save(switch_figure(cast(Sequence[Row], pairs)), folder / "switches.png"))
    return drawn


def stage_figure(report: Row) -> Figure:
    """Draw recognition at every stage with its 95 % interval, and the chance of guessing right."""
    figure = Figure(figsize=(7.5, 3.6), dpi=figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    scores = [section(section(report, stage), "scores") for stage in STAGES]
    for index, (key, title) in enumerate(SERIES):
        rows = [(place, section(score, key)) for place, score in enumerate(scores) if section(score, key)]
        if not rows:
            continue
        places = np.array([place for place, _ in rows]) + 0.16 * (index - 0.5 * (len(SERIES) - 1))
        means = np.array([100.0 * float(cast(float, row["mean"])) for _, row in rows])
        ends = 100.0 * np.array([cast(Sequence[float], row["interval_95"]) for _, row in rows])
        spread = np.maximum(np.stack((means - ends[:, 0], ends[:, 1] - means)), 0.0)
        axes.errorbar(places, means, yerr=spread, fmt="o", color=f"C{index}", capsize=3, markersize=5, label=title)
    chance = section(report, "simulated").get("chance")
    if isinstance(chance, (int, float)):
        axes.axhline(100.0 * chance, color="0.5", linestyle=":", linewidth=1.0)
        axes.text(-0.45, 100.0 * chance + 1.5, "chance", fontsize=7, color="0.4")
    axes.set_xticks(range(len(STAGES)), STAGES, fontsize=9)
    axes.set_xlim(-0.5, len(STAGES) - 0.5)
    axes.set_ylim(0.0, 103.0)
    axes.set_ylabel("takes whose action is recognised [%]", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def confusion_matrix(
    table: Mapping[str, Mapping[str, int]],
) -> tuple[list[str], list[str], Float[np.ndarray, "wanted got"]]:
    """Return wanted actions, recognised ones (the wanted first, in the same order), and the share of each row."""
    wanted = sorted(table)
    got = [*wanted, *sorted({name for row in table.values() for name in row} - set(wanted))]
    counts = np.array([[table[name].get(other, 0) for other in got] for name in wanted], dtype=np.float64)
    return wanted, got, counts / counts.sum(axis=1, keepdims=True)


def confusion_figure(table: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw which action is recognised in simulation where which was commanded."""
    wanted, got, shares = confusion_matrix(table)
    side = 2.2 + 0.26 * max(len(wanted), len(got))
    figure = Figure(figsize=(side, side), dpi=figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in zip(*np.nonzero(shares), strict=True):
        dark = shares[row, column] > 0.5
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    _name(axes, wanted, got, "commanded", "recognised in simulation [% of the row]")
    return figure


def switch_outcomes(pairs: Sequence[Row]) -> tuple[list[str], Float[np.ndarray, "before after"]]:
    """Return the actions, and an index into ``OUTCOMES`` for each ordered pair."""
    names = sorted({str(pair[side]) for pair in pairs for side in ("before", "after")})
    grid = np.zeros((len(names), len(names)))
    for pair in pairs:
        right = pair["recognised"] == pair["after"]
        place = names.index(str(pair["before"])), names.index(str(pair["after"]))
        grid[place] = 1.0 if not pair["survived"] else 3.0 if right else 2.0
    return names, grid


def switch_figure(pairs: Sequence[Row]) -> Figure:
    """Draw what became of every ordered pair of actions."""
    names, grid = switch_outcomes(pairs)
    side = 2.4 + 0.26 * len(names)
    figure = Figure(figsize=(side, side + 0.3), dpi=figures.DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grid, cmap=ListedColormap([colour for colour, _ in OUTCOMES]), vmin=-0.5, vmax=3.5)
    _name(axes, names, names, "from", "to")
    handles = [Patch(color=colour, label=label) for colour, label in OUTCOMES]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(OUTCOMES), fontsize=7)
    return figure


def _name(axes: Axes, rows: Sequence[str], columns: Sequence[str], side: str, below: str) -> None:
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_ylabel(side, fontsize=8)
    axes.set_xlabel(below, fontsize=8)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
