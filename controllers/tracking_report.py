"""The report of tracking as files: JSON, a Markdown table and a figure. matplotlib is loaded only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from motionlex.data.errors import UserError
from motionlex.data.storage import finite, write_bytes, write_json

Row = Mapping[str, object]
COLUMNS = (
    ("success_rate", "success [%]", 100.0, 1),
    ("success_rate_keypoint", "key-point rule [%]", 100.0, 1),
    ("success_rate_keypoint_world", "key-point rule in the world [%]", 100.0, 1),
    ("mean_survival_s", "survival [s]", 1.0, 2),
    ("mean_possible_s", "possible [s]", 1.0, 2),
    ("full_length_share", "full length [%]", 100.0, 1),
    ("keypoint_error_local_mm", "local [mm]", 1.0, 1),
    ("keypoint_error_global_mm", "global [mm]", 1.0, 1),
    ("joint_error_rad", "joints [rad]", 1.0, 3),
    ("joint_velocity_error_rad_s", "joint speeds [rad/s]", 1.0, 2),
    ("root_drift_m", "drift [m]", 1.0, 3),
    ("heading_drift_rad", "heading drift [rad]", 1.0, 3),
    ("torque_saturation", "saturated [%]", 100.0, 1),
    ("energy_j_per_s", "power [W]", 1.0, 0),
    ("cost_of_transport", "cost of transport", 1.0, 2),
    ("foot_sliding_mm_s", "sliding [mm/s]", 1.0, 0),
)
"""Key, title, factor and decimals of what the table shows."""
CURVES = "curves.png"
"""Learning curves of the run, written beside the report."""
_LABELLED = 60
"""Clips up to which each gets its name in the figure."""


def check_out(folder: Path) -> None:
    """Refuse a folder for reports that is none, before anything is computed.

    Raises:
        UserError: If it is a file, or holds something that is no report of tracking.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a folder")
    own = {"tracking.json", "tracking.md", "tracking.png", CURVES}
    if folder.is_dir() and (others := sorted({path.name for path in folder.iterdir()} - own)):
        raise UserError(f"--out {folder} holds {others[0]}; give a new folder or one of an earlier report")


def write_report(folder: Path, report: Row, *, title: str) -> list[Path]:
    """Write tracking.json, tracking.md and tracking.png.

    Args:
        folder: Where to; made if missing.
        report: What ``evaluate_tracking`` gave, with anything that was added.
        title: Heading: what was evaluated.

    Returns:
        The files.
    """
    from motionlex.motion_vae import figures

    paths = [folder / f"tracking.{ending}" for ending in ("json", "md", "png")]
    write_json(paths[0], cast(Mapping[str, object], finite(report)))
    write_bytes(paths[1], markdown(report, title=title).encode())
    figures.save(clip_figure(_rows(report, "clips")), paths[2])
    return paths


def markdown(report: Row, *, title: str) -> str:
    """Return the report as Markdown: everything, by category, by clip; 95 % intervals in brackets."""
    lines = [f"# Tracking: {title}", "", str(report["errors"]), "", str(report["lengths"]), ""]
    lines += _table("all", [{"all": "all episodes", **report}], intervals=True)
    lines += ["", "## Categories", "", *_table("category", _rows(report, "categories"), intervals=True)]
    lines += ["", "## Clips", "", *_table("clip", _rows(report, "clips"), intervals=False)]
    lines += ["", str(report["intervals"]), ""]
    return "\n".join(lines)


def clip_figure(clips: Sequence[Row]) -> object:
    """Draw success and local key-point error of every clip, the most successful on top.

    Returns:
        A matplotlib figure.
    """
    from motionlex.motion_vae.figures import DPI, Figure

    order = sorted(clips, key=lambda row: (-_number(row, "success_rate"), _number(row, "keypoint_error_local_mm")))
    height = 1.2 + 0.17 * min(len(order), 2 * _LABELLED)
    figure = Figure(figsize=(9.0, height), dpi=DPI, layout="constrained")
    places = np.arange(len(order))
    panels = (("success_rate", "success [%]", 100.0), ("keypoint_error_local_mm", "local key-point error [mm]", 1.0))
    for index, (key, name, factor) in enumerate(panels):
        axes = figure.add_subplot(1, 2, index + 1)
        values = factor * np.array([_number(row, key) for row in order])
        ends = [_interval(row, key) for row in order]
        low, high = (factor * np.array([end[side] if end else np.nan for end in ends]) for side in (0, 1))
        spread = np.nan_to_num(np.stack((np.maximum(values - low, 0.0), np.maximum(high - values, 0.0))))
        axes.barh(places, values, color=f"C{index}", alpha=0.6)
        axes.errorbar(values, places, xerr=spread, fmt="none", ecolor="0.3", elinewidth=0.8)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0.0, 100.0 if index == 0 else None)
        named = index == 0 and len(order) <= _LABELLED
        axes.set_yticks(places if len(order) <= _LABELLED else [], [str(r["clip"]) for r in order] if named else None)
        if index == 1:
            axes.tick_params(axis="y", labelleft=False)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3, axis="x")
    return figure


def _table(kind: str, rows: Sequence[Row], *, intervals: bool) -> list[str]:
    shown = [column for column in COLUMNS if any(column[0] in row for row in rows)]
    lines = ["| " + " | ".join((kind, "episodes", *(title for _, title, _, _ in shown))) + " |"]
    lines.append("|" + "---|" * (len(shown) + 2))
    for row in rows:
        cells = [_cell(row, key, factor, digits, intervals) for key, _, factor, digits in shown]
        lines.append("| " + " | ".join((str(row[kind]), str(row["episodes"]), *cells)) + " |")
    return lines


def _cell(row: Row, key: str, factor: float, digits: int, intervals: bool) -> str:
    value = _number(row, key)
    if not np.isfinite(value):
        return "–"  # noqa: RUF001 (a dash, not a hyphen)
    text = f"{factor * value:.{digits}f}"
    ends = _interval(row, key) if intervals else None
    return text if ends is None else f"{text} [{factor * ends[0]:.{digits}f}, {factor * ends[1]:.{digits}f}]"


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _interval(row: Row, key: str) -> tuple[float, float] | None:
    found = row.get("intervals_95")
    ends = found.get(key) if isinstance(found, Mapping) else None
    return (float(ends[0]), float(ends[1])) if ends is not None else None


def _rows(report: Row, key: str) -> Sequence[Row]:
    return cast(Sequence[Row], report[key])
