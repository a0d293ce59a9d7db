"""A motion of one robot: positions over time, with labels and a mask of frames that can be trusted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.interpolate import CubicSpline

from motionlex.data import quaternion
from motionlex.data.errors import UserError

LARGEST = 1e4
"""Largest coordinate of a clip [m or rad]; more is a unit or a column gone wrong, and physics would overflow."""


@dataclass(frozen=True, kw_only=True)
class LabelSpan:
    """One action label over the frames [start, stop)."""

    start: int
    """First frame."""
    stop: int
    """Frame after the last."""
    label: str
    """Action label, a key of ``data/captions.py``."""


@dataclass(frozen=True, kw_only=True)
class MotionClip:
    """A clip; arrays are validated once and then read-only.

    Raises:
        UserError: On a wrong shape, fewer than two frames, NaN, a coordinate beyond 1e4, a rate that is not positive
            or a quaternion whose norm is off by more than 1e-3; the message names the clip and the frame.
    """

    name: str
    """Name without folder or ending."""
    qpos: Float[np.ndarray, "frame coordinate"]
    """Root position [m], root quaternion (w, x, y, z), hinge angles [rad]."""
    hz: float
    """Frames per second."""
    labels: tuple[LabelSpan, ...] = ()
    """What is done when; spans neither overlap nor leave the clip."""
    valid: Bool[np.ndarray, " frame"] | None = field(default=None)
    """False where a frame must not be used (recording glitches); None means that all are good."""
    source: str = ""
    """Where the motion comes from."""
    licence: str = ""
    """Licence of the motion."""
    robot: str = "h1"
    """Name of the robot."""

    def __post_init__(self) -> None:
        qpos = np.array(self.qpos, dtype=np.float64)
        _validate(self.name, qpos, self.hz)
        qpos[:, 3:7] = quaternion.make_continuous(quaternion.normalise(qpos[:, 3:7]))
        valid = np.ones(len(qpos), dtype=bool) if self.valid is None else np.array(self.valid, dtype=bool)
        if valid.shape != (len(qpos),):
            raise UserError(f"clip {self.name!r}: the mask has shape {valid.shape}, wanted ({len(qpos)},)")
        for span in self.labels:
            if not 0 <= span.start < span.stop <= len(qpos):
                raise UserError(f"clip {self.name!r}: label span {span} leaves the {len(qpos)} frames")
        qpos.flags.writeable = False
        valid.flags.writeable = False
        object.__setattr__(self, "qpos", qpos)
        object.__setattr__(self, "valid", valid)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.qpos)

    @property
    def duration_s(self) -> float:
        """Time between the first and the last frame [s]."""
        return (self.frames - 1) / self.hz

    @property
    def category(self) -> str:
        """What the name begins with, see :func:`category_of`."""
        return category_of(self.name)

    def label_at(self, frame: int) -> str | None:
        """Return the label at a frame, or None where nothing is said."""
        return next((s.label for s in self.labels if s.start <= frame < s.stop), None)

    def qvel(self) -> Float[np.ndarray, "frame velocity"]:
        """Return velocities by central differences, one-sided at the ends.

        Returns:
            Root linear velocity in the world frame [m/s], root angular velocity in the base frame [rad/s],
            hinge velocities [rad/s]: MuJoCo's qvel.
        """
        edge = 1  # numpy's one-sided difference at both ends
        linear = np.gradient(self.qpos[:, :3], 1.0 / self.hz, axis=0, edge_order=edge)
        hinges = np.gradient(self.qpos[:, 7:], 1.0 / self.hz, axis=0, edge_order=edge)
        angular = quaternion.angular_velocity(self.qpos[:, 3:7], 1.0 / self.hz)
        return np.concatenate((linear, angular, hinges), axis=1)

    def slice(self, start: int, stop: int) -> MotionClip:
        """Return frames [start, stop) as a clip named ``name:start-stop`` with its labels and mask."""
        if not 0 <= start < stop <= self.frames:
            raise UserError(f"clip {self.name!r}: cannot slice [{start}, {stop}) of {self.frames} frames")
        spans = tuple(
            LabelSpan(start=max(s.start, start) - start, stop=min(s.stop, stop) - start, label=s.label)
            for s in self.labels
            if s.start < stop and s.stop > start
        )
        assert self.valid is not None
        return replace(
            self,
            name=f"{self.name}:{start}-{stop}",
            qpos=self.qpos[start:stop],
            valid=self.valid[start:stop],
            labels=spans,
        )

    def resample(self, hz: float) -> MotionClip:
        """Return the clip at another rate: cubic splines for positions and hinges, SLERP for the root.

        A new frame is valid only if both old frames around it are.
        """
        if not (np.isfinite(hz) and hz > 0):
            raise UserError(f"clip {self.name!r}: the rate must be positive, got {hz} Hz")
        if hz == self.hz:
            return self
        assert self.valid is not None
        count = int(np.floor(self.duration_s * hz + 1e-9)) + 1
        if count < 2:
            raise UserError(f"clip {self.name!r} lasts {self.duration_s:.3f} s: too short for {hz} Hz")
        position = np.minimum(np.arange(count) / hz * self.hz, self.frames - 1)
        before = np.minimum(np.floor(position).astype(int), self.frames - 2)
        fraction = position - before
        smooth = CubicSpline(np.arange(self.frames), np.delete(self.qpos, np.s_[3:7], axis=1))(position)
        root = quaternion.slerp(self.qpos[before, 3:7], self.qpos[before + 1, 3:7], fraction)
        factor = hz / self.hz
        spans = tuple(_rescale(s, factor, count) for s in self.labels)
        return replace(
            self,
            qpos=np.concatenate((smooth[:, :3], root, smooth[:, 3:]), axis=1),
            hz=hz,
            valid=self.valid[before] & self.valid[before + (fraction > 0)],
            labels=tuple(s for s in spans if s.stop > s.start),
        )

    def valid_starts(self, length: int) -> Int[np.ndarray, " start"]:
        """Return every frame from which ``length`` frames are valid and inside the clip."""
        if length > self.frames:
            return np.zeros(0, dtype=np.int64)
        bad = np.concatenate(([0], np.cumsum(~np.asarray(self.valid))))
        return np.flatnonzero(bad[length:] == bad[:-length]).astype(np.int64)


def category_of(name: str) -> str:
    """Return what a clip's name begins with, up to its numbers: ``walk1_subject5`` and ``walk_2`` are of ``walk``."""
    found = re.match(r"[A-Za-z]+(_[A-Za-z]+)*", name)
    return found.group() if found else "other"


def _rescale(span: LabelSpan, factor: float, count: int) -> LabelSpan:
    start, stop = (min(round(edge * factor), count) for edge in (span.start, span.stop))
    return LabelSpan(start=start, stop=stop, label=span.label)


def _validate(name: str, qpos: Float[np.ndarray, "*shape"], hz: float) -> None:
    if qpos.ndim != 2 or qpos.shape[1] < 8:
        raise UserError(f"clip {name!r}: wanted (frame, 7 + joints) numbers, got shape {qpos.shape}")
    if len(qpos) < 2:
        raise UserError(f"clip {name!r} has {len(qpos)} frame; at least 2 are needed")
    if not (np.isfinite(hz) and hz > 0):
        raise UserError(f"clip {name!r}: the rate must be positive, got {hz} Hz")
    if not np.isfinite(qpos).all():
        frame, column = np.argwhere(~np.isfinite(qpos))[0]
        raise UserError(f"clip {name!r}: frame {frame}, column {column} is not a finite number")
    if (far := np.abs(qpos) > LARGEST).any():
        frame, column = np.argwhere(far)[0]
        value = qpos[frame, column]
        raise UserError(
            f"clip {name!r}: frame {frame}, column {column} is {value:g}, wanted metres and radians below {LARGEST:g}"
        )
    norms = np.linalg.norm(qpos[:, 3:7], axis=1)
    if (bad := np.abs(norms - 1.0) > 1e-3).any():
        frame = int(np.argmax(bad))
        raise UserError(f"clip {name!r}: the quaternion of frame {frame} has norm {norms[frame]:.4f}, wanted 1")
