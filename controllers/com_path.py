"""Desired path of the centre of mass, read from a CSV file."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from motionlex.data.errors import UserError

LARGEST = 1e5
"""Largest number in a path: a day of seconds and 100 km."""
HEADERS = (("t_s", "x_m", "y_m"), ("t_s", "x_m", "y_m", "yaw_rad"))


@dataclass(frozen=True, kw_only=True)
class ComPath:
    """A path in the starting heading frame, linear between its points, resting at both ends."""

    time: Float[np.ndarray, " point"]
    """Times since the start [s], increasing."""
    xy: Float[np.ndarray, "point 2"]
    """Centre of mass [m] relative to where it starts, x forward, y to the left."""
    yaw: Float[np.ndarray, " point"] | None
    """Headings relative to the starting one [rad], unwrapped; None leaves them free."""

    def at(self, time: Float[np.ndarray, " frame"]) -> tuple[Float[np.ndarray, "frame 2"], Float[np.ndarray, " frame"]]:
        """Interpolate positions [m] and headings [rad] (zeros where none are given)."""
        xy = np.stack([np.interp(time, self.time, self.xy[:, axis]) for axis in range(2)], axis=-1)
        yaw = np.zeros(len(time)) if self.yaw is None else np.interp(time, self.time, self.yaw)
        return xy, yaw


def read_com_path(path: Path) -> ComPath:
    """Read a path from a CSV with the header ``t_s,x_m,y_m`` or ``t_s,x_m,y_m,yaw_rad``.

    Raises:
        UserError: On a missing file, another header, rows of another length, text that is no finite number, fewer than
            two points or times that do not increase.
    """
    if not path.is_file():
        raise UserError(f"--com-path: no file {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--com-path: {path} is not a text file of comma-separated values: {error}") from error
    if not rows or tuple(rows[0]) not in HEADERS:
        got = ",".join(rows[0]) if rows else "nothing"
        raise UserError(f"--com-path: {path} begins with {got[:80]!r}, wanted the header t_s,x_m,y_m[,yaw_rad]")
    values = np.array([_numbers(row, len(rows[0]), number, path) for number, row in enumerate(rows[1:], start=2)])
    if len(values) < 2:
        raise UserError(f"--com-path: {path} has {len(values)} points, wanted at least 2")
    if (bad := np.flatnonzero(np.diff(values[:, 0]) <= 0)).size:
        raise UserError(f"--com-path: {path}: times must increase, they do not after {values[bad[0], 0]} s")
    yaw = np.unwrap(values[:, 3]) if values.shape[1] == 4 else None
    return ComPath(time=values[:, 0], xy=values[:, 1:3], yaw=yaw)


def _numbers(row: list[str], columns: int, number: int, path: Path) -> list[float]:
    """Parse one row."""
    if len(row) != columns:
        raise UserError(f"--com-path: {path}, row {number} has {len(row)} values, wanted {columns}")
    try:
        values = [float(cell) for cell in row]
    except ValueError as error:
        raise UserError(f"--com-path: {path}, row {number}: {error}") from error
    if not all(map(math.isfinite, values)):
        raise UserError(f"--com-path: {path}, row {number} holds a number that is not finite")
    if max(map(abs, values)) > LARGEST:
        raise UserError(f"--com-path: {path}, row {number}: wanted seconds, metres and radians below {LARGEST:g}")
    if values[0] < 0:
        raise UserError(f"--com-path: {path}, row {number}: times count from the start, got {values[0]:g} s")
    return values
