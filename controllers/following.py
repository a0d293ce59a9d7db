"""How well a simulated robot followed where its centre of mass was to be: measured after physics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from motionlex.controllers.episode import LONGEST_S
from motionlex.controllers.rows import Rows
from motionlex.data import quaternion

if TYPE_CHECKING:
    from motionlex.controllers.stack import Stack

SPEED_WINDOW_S = 1.0
"""Time over which speeds are taken [s]: about a stride, so that the sway of single steps does not count."""


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Consecutive control steps under one desired path, in the world."""

    measured_xy: Float[np.ndarray, "frame 2"]
    """Centre of mass of the simulated robot [m]."""
    measured_yaw: Float[np.ndarray, " frame"]
    """Its heading [rad]."""
    wanted_xy: Float[np.ndarray, "frame 2"]
    """Where the centre of mass was to be at that time [m]."""
    wanted_yaw: Float[np.ndarray, " frame"] | None
    """Heading that was wanted [rad]; None where it was free."""


@dataclass(frozen=True, kw_only=True)
class PathErrors:
    """Distances between measured and desired motion; None where nothing was desired."""

    path_error_m: float | None = None
    """Mean distance of the centre of mass from where it was to be at that time [m]."""
    heading_error_deg: float | None = None
    """Mean size of the angle between measured and desired heading [degrees]."""
    speed_error_mps: float | None = None
    """Mean difference between measured and desired speed of the centre of mass, over windows of 1 s [m/s]."""


class PathWatch:
    """Compares a stack with what it is to follow, control step by control step, over the last hour at least."""

    def __init__(self, stack: Stack) -> None:
        """Begin with what the stack follows now."""
        self._rows = Rows(7, longest=round(LONGEST_S * stack.hz))
        self._part, self._path = 0, stack.path

    def interrupt(self) -> None:
        """Let a new part begin: the robot is somewhere else."""
        self._part += 1

    def add(self, stack: Stack) -> None:
        """Take the control step that was just made; nothing happens where no path is followed."""
        path = stack.path
        if path is not self._path:
            self._part, self._path = self._part + 1, path
        if path is None:
            return
        xy, yaw = path.at(np.array([stack.time]))
        heading = yaw[0] if path.has_yaw else np.nan
        self._rows.append(float(self._part), stack.com, stack.heading, xy[0] + stack.start_com, heading)

    def errors(self, hz: float) -> PathErrors:
        """Measure what was followed.

        Args:
            hz: Rate of the control steps [Hz].
        """
        rows = self._rows.array()
        starts = np.flatnonzero(np.diff(rows[:, 0], prepend=-1.0))
        parts = []
        for part in np.split(rows, starts[1:]) if len(rows) else []:
            free = bool(np.isnan(part[:, 6]).any())
            parts.append(
                Followed(
                    measured_xy=part[:, 1:3],
                    measured_yaw=part[:, 3],
                    wanted_xy=part[:, 4:6],
                    wanted_yaw=None if free else part[:, 6],
                )
            )
        return path_errors(parts, hz)


def path_errors(parts: Sequence[Followed], hz: float) -> PathErrors:
    r"""Measure how far a robot was from its desired path.

    .. math:: e = \frac1N \sum_t \lVert c_t - \hat c_t \rVert, \quad
        s = \frac1M \sum_t \Bigl\lvert \lVert c_{t+w} - c_t \rVert - \lVert \hat c_{t+w} - \hat c_t \rVert \Bigr\rvert
        \Big/ T

    with windows of T = 1 s that do not reach beyond their part.

    Args:
        parts: What was followed, one part per desired path.
        hz: Rate of the frames [Hz].
    """
    distances, angles, speeds = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    window = max(1, round(SPEED_WINDOW_S * hz))
    for part in parts:
        distances.append(np.linalg.norm(part.measured_xy - part.wanted_xy, axis=1))
        if part.wanted_yaw is not None:
            angles.append(np.abs(quaternion.wrap_angle(part.measured_yaw - part.wanted_yaw)))
        moved, wanted = (_lengths(xy, window) for xy in (part.measured_xy, part.wanted_xy))
        speeds.append(np.abs(moved - wanted) * hz / window)
    heading = _mean(np.concatenate(angles))
    return PathErrors(
        path_error_m=_mean(np.concatenate(distances)),
        heading_error_deg=None if heading is None else float(np.rad2deg(heading)),
        speed_error_mps=_mean(np.concatenate(speeds)),
    )


def _lengths(xy: Float[np.ndarray, "frame 2"], window: int) -> Float[np.ndarray, " window"]:
    """Return the distances covered within windows [m]."""
    return np.linalg.norm(xy[window:] - xy[:-window], axis=1)


def _mean(values: Float[np.ndarray, " value"]) -> float | None:
    return float(np.mean(values)) if len(values) else None
