"""Desired paths of the centre of mass: points from a CSV file, or a velocity."""

from __future__ import annotations

import csv
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from motionlex.controllers.placement import Placement
from motionlex.data.errors import UserError
from motionlex.data.features import ANGULAR_VELOCITY, LINEAR_VELOCITY, FeatureStatistics

logger = logging.getLogger(__name__)
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

    @property
    def has_yaw(self) -> bool:
        """Whether headings are given."""
        return self.yaw is not None

    def at(self, time: Float[np.ndarray, " frame"]) -> tuple[Float[np.ndarray, "frame 2"], Float[np.ndarray, " frame"]]:
        """Interpolate positions [m] and headings [rad] (zeros where none are given)."""
        xy = np.stack([np.interp(time, self.time, self.xy[:, axis]) for axis in range(2)], axis=-1)
        yaw = np.zeros(len(time)) if self.yaw is None else np.interp(time, self.time, self.yaw)
        return xy, yaw

    def begun(self, start_s: float, start_xy: Float[np.ndarray, " 2"], start_yaw: float) -> ComPath:
        """Return the path as one that begins at another time [s], place [m] and heading [rad] than at zero."""
        xy = Placement(xy=start_xy, yaw=start_yaw).points(self.xy)
        yaw = None if self.yaw is None else self.yaw + start_yaw
        return ComPath(time=self.time + start_s, xy=xy, yaw=yaw)

    def limited(self, statistics: FeatureStatistics) -> ComPath:
        """Return the path through the same points, later where it is faster than the statistics' motions ever are.

        With headings, speeds forward, backward and to either side have limits of their own; without, the robot may turn
        to where it goes, and the largest of them counts.
        """
        lowest, highest = velocity_limits(statistics)
        steps, shortest = np.diff(self.time), self._shortest(lowest, highest)
        if np.all(shortest <= steps * (1 + 1e-9)):
            return self
        time = self.time[0] + np.concatenate(([0.0], np.cumsum(np.maximum(steps, shortest))))
        logger.warning(
            "the path asks for more than the motions have (%.2f m/s backward, %.2f forward, %.2f right, %.2f left, "
            "%.2f rad/s right, %.2f left): it takes %.1f s instead of %.1f s",
            *np.abs(np.stack((lowest, highest), axis=1)).ravel(),
            time[-1] - time[0],
            self.time[-1] - self.time[0],
        )
        return replace(self, time=time)

    def _shortest(
        self, lowest: Float[np.ndarray, " 3"], highest: Float[np.ndarray, " 3"]
    ) -> Float[np.ndarray, " piece"]:
        """Return the least time that each piece between two points takes within limits of velocity [s]."""
        moved, fastest = np.diff(self.xy, axis=0), float(np.maximum(-lowest, highest)[:2].max())
        if self.yaw is None:
            return _least_time(np.linalg.norm(moved, axis=1), -fastest, fastest, fastest)
        turned = np.diff(self.yaw)
        shortest = _least_time(turned, lowest[2], highest[2], max(-lowest[2], highest[2]))
        for share in (0.0, 0.5, 1.0):  # the heading changes along a piece
            angle = self.yaw[:-1] + share * turned
            cosine, sine = np.cos(angle), np.sin(angle)
            forward, left = cosine * moved[:, 0] + sine * moved[:, 1], cosine * moved[:, 1] - sine * moved[:, 0]
            for axis, distance in enumerate((forward, left)):
                shortest = np.maximum(shortest, _least_time(distance, lowest[axis], highest[axis], fastest))
        return shortest


def _least_time(
    distance: Float[np.ndarray, " piece"], lowest: float, highest: float, otherwise: float
) -> Float[np.ndarray, " piece"]:
    """Return the time that distances take at their limits; ``otherwise`` is that of a way the motions never go."""
    limit = np.where(distance < 0, -lowest, highest)
    limit = np.where(limit > 0, limit, otherwise)
    return np.divide(np.abs(distance), limit, out=np.zeros(len(distance)), where=limit > 0)


@dataclass(frozen=True, kw_only=True)
class VelocityCommand:
    """A constant velocity in a frame that turns at a constant rate, from a moment on: a path without an end."""

    velocity: Float[np.ndarray, " 2"]
    """Speed forward and to the left [m/s]."""
    turn: float
    """Rate of turning to the left [rad/s]."""
    start_s: float
    """When it begins [s since the start]."""
    start_xy: Float[np.ndarray, " 2"]
    """Centre of mass at that moment [m] relative to where it started."""
    start_yaw: float
    """Heading at that moment [rad] relative to the starting one."""

    def __post_init__(self) -> None:
        numbers = (*self.velocity, self.turn, self.start_s, *self.start_xy, self.start_yaw)
        if not all(map(math.isfinite, numbers)):
            raise UserError(f"a velocity command must be made of finite numbers, got {numbers}")

    @property
    def has_yaw(self) -> bool:
        """Whether headings are given: they are."""
        return True

    @property
    def numbers(self) -> tuple[float, float, float]:
        """Speed forward and to the left [m/s] and turn rate [rad/s]."""
        forward, left = self.velocity.tolist()
        return forward, left, self.turn

    def at(self, time: Float[np.ndarray, " frame"]) -> tuple[Float[np.ndarray, "frame 2"], Float[np.ndarray, " frame"]]:
        """Return positions [m] and headings [rad]; before the beginning those of the beginning."""
        since = np.maximum(time - self.start_s, 0.0)
        angle = self.turn * since
        along = since * np.sinc(angle / np.pi)  # sin(wt) / w, also for w = 0
        across = since * np.sin(angle / 2) * np.sinc(angle / (2 * np.pi))  # (1 - cos(wt)) / w
        forward, left = self.velocity
        x, y = forward * along - left * across, forward * across + left * along
        cosine, sine = math.cos(self.start_yaw), math.sin(self.start_yaw)
        xy = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)
        return self.start_xy + xy, self.start_yaw + angle

    def limited(self, statistics: FeatureStatistics) -> VelocityCommand:
        """Return the command with speeds and turning limited to the range that the statistics' motions have."""
        lowest, highest = velocity_limits(statistics)
        wanted = np.append(self.velocity, self.turn)
        allowed = np.clip(wanted, lowest, highest)
        if np.any(allowed != wanted):
            logger.warning(
                "velocity (%.2f, %.2f) m/s, %.2f rad/s is more than the motions have; it becomes (%.2f, %.2f), %.2f",
                *wanted,
                *allowed,
            )
        return replace(self, velocity=allowed[:2], turn=float(allowed[2]))


def velocity_limits(statistics: FeatureStatistics) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Return the lowest and highest forward and leftward speed [m/s] and turn rate [rad/s] of the training motions.

    Zero is always inside; what never varies has no range but zero.
    """
    columns = [LINEAR_VELOCITY.start, LINEAR_VELOCITY.start + 1, ANGULAR_VELOCITY.start + 2]
    bounds = np.zeros((2, 3))
    for place, column in enumerate(columns):
        found = np.flatnonzero(statistics.kept == column)
        if len(found):
            bounds[:, place] = min(statistics.minimum[found[0]], 0.0), max(statistics.maximum[found[0]], 0.0)
    return bounds[0], bounds[1]


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
