"""Figures of runs as PNG files, drawn by matplotlib without a display: import this module only where one is wanted."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from motionlex.data.storage import write_bytes

DPI = 120
"""Pixels per inch of every figure."""
UNUSED_COLOUR = "#e6e6e6"
"""Cells of codes that never occur; no colour of the map is as light and as grey."""
_FIRST_CURVES = (
    "train/loss", "train/mean_squared_error", "train/beta", "train/eta", "train/effective_sample_size",
    "train/temperature",
)  # fmt: skip
_COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A logged value over the course of training."""

    steps: Int[np.ndarray, " point"]
    """Training steps."""
    values: Float[np.ndarray, " point"]
    """Values, averaged over a window by the trainer."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One measure of several groups of runs."""

    title: str
    """Name and unit."""
    means: Sequence[float | None]
    """Mean of every group; None where it has none."""
    half_widths: Sequence[float | None]
    """Half of the confidence interval; None where it is unknown."""


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read every scalar of the TensorBoard logs in a folder; nothing where there are none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        curves[tag] = Curve(
            steps=np.array([point.step for point in points]), values=np.array([float(point.value) for point in points])
        )
    return curves


def training_curves(curves: Mapping[str, Curve]) -> Figure:
    """Draw one panel per logged value: loss, error, beta, eta and ESS first, the others by name.

    Values that are positive and span more than two decades get a logarithmic axis.

    Args:
        curves: At least one, by tag.
    """
    names = [name for name in _FIRST_CURVES if name in curves]
    names += sorted(name for name in curves if name not in names)
    rows = math.ceil(len(names) / _COLUMNS)
    figure = Figure(figsize=(3.2 * min(_COLUMNS, len(names)), 2.3 * rows), dpi=DPI, layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, min(_COLUMNS, len(names)), index + 1)
        curve = curves[name]
        axes.plot(curve.steps, curve.values, color="C0", linewidth=1.2, marker="." if len(curve.steps) < 20 else None)
        positive = curve.values[np.isfinite(curve.values)]
        if len(positive) and positive.min() > 0.0 and positive.max() > 100.0 * positive.min():
            axes.set_yscale("log")
        axes.set_title(name.removeprefix("train/").replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if index + _COLUMNS >= len(names):
            axes.set_xlabel("step", fontsize=8)
    return figure


def vocabulary_grid(counts: Int[np.ndarray, " code"]) -> Float[np.ndarray, "row column"]:
    """Reshape counts to the most nearly square grid that holds them, row by row.

    Returns:
        Counts; NaN in the cells of the last row that stand for no code.
    """
    columns = math.ceil(math.sqrt(len(counts)))
    grid = np.full(math.ceil(len(counts) / columns) * columns, np.nan)
    grid[: len(counts)] = counts
    return grid.reshape(-1, columns)


def code_usage(counts: Int[np.ndarray, "token code"]) -> Figure:
    """Draw how often codes occur: over the vocabulary, reshaped to a grid, and over position and code.

    Args:
        counts: Occurrences of each code at each position.
    Source: DAPS, figures 2 and 14 (the grid); the panel by position is ours.
    """
    tokens, vocabulary = counts.shape
    figure = Figure(figsize=(10.0, 4.4), dpi=DPI, layout="constrained")
    grid_axes, position_axes = figure.subplots(1, 2, width_ratios=(1.0, 1.4))
    total = counts.sum(axis=0)
    used = int((total > 0).sum())
    grid_axes.set_title(f"{used} of {vocabulary} codes are used", fontsize=10)
    _show_counts(figure, grid_axes, vocabulary_grid(total))
    grid_axes.set_xticks([])
    grid_axes.set_yticks([])
    position_axes.set_title(f"by position ({tokens} tokens)", fontsize=10)
    _show_counts(figure, position_axes, counts.astype(np.float64), aspect="auto")
    position_axes.set_xlabel("code")
    position_axes.set_ylabel("position")
    return figure


def comparison_plot(labels: Sequence[str], panels: Sequence[Panel]) -> Figure:
    """Draw one row per group and one panel per measure: means as points, intervals as lines.

    Args:
        labels: Names of the groups, the first on top.
        panels: At least one.
    """
    height = 1.1 + 0.3 * len(labels)
    figure = Figure(figsize=(1.5 + 2.6 * len(panels), height), dpi=DPI, layout="constrained")
    places = np.arange(len(labels))
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for place, mean, half in zip(places, panel.means, panel.half_widths):
            if mean is not None:
                axes.errorbar(mean, place, xerr=half, fmt="o", color=f"C{place % 10}", capsize=3, markersize=5)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_yticks(places, labels if index == 0 else [""] * len(labels), fontsize=8)
        axes.set_title(panel.title, fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(alpha=0.3)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, atomically.

    Returns:
        The path.
    """
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_bytes(path, buffer.getvalue())
    return path


def save_picture(picture: UInt8[np.ndarray, "height width 3"], path: Path) -> Path:
    """Write a picture as PNG, atomically.

    Returns:
        The path.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    write_bytes(path, buffer.getvalue())
    return path


def _show_counts(figure: Figure, axes: Axes, counts: Float[np.ndarray, "row column"], *, aspect: str = "equal") -> None:
    """Show counts as colours from dark (rare) to bright (frequent), unused cells in grey, missing ones in white."""
    used = np.ma.masked_where(~(counts > 0), counts)
    unused = np.ma.masked_where(counts != 0, np.ones_like(counts))
    axes.imshow(unused, cmap=ListedColormap([UNUSED_COLOUR]), interpolation="nearest", aspect=aspect)
    image = axes.imshow(used, cmap="viridis", vmin=0.0, interpolation="nearest", aspect=aspect)
    figure.colorbar(image, ax=axes, shrink=0.8, label="occurrences")
