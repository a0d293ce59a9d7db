"""Segments of clips as standardised features: what autoencoders train on and are measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.features import (
    SCHEMA_VERSION,
    FeatureFrame,
    FeatureStatistics,
    compute_features,
    fit_statistics,
    to_heading,
)
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.storage import cached_arrays, content_key

_CACHED_FROM_FRAMES = 1000  # shorter clips are computed faster than they are read
_BLOCK = 1024


def clip_features(clip: MotionClip, kinematics: ForwardKinematics) -> Float[np.ndarray, "frame 127"]:
    """Return a clip's features in the world frame as float32, from the cache where it is long."""

    def compute() -> dict[str, np.ndarray]:
        return {"features": compute_features(clip.qpos, clip.qvel(), kinematics).astype(np.float32)}

    if clip.frames < _CACHED_FROM_FRAMES:
        return compute()["features"]
    key = content_key(SCHEMA_VERSION, float(clip.hz), clip.qpos, kinematics.robot.xml())
    return cached_arrays(f"features-{key}", compute)["features"]


class SegmentSource:
    """All segments of a list of clips.

    Args:
        clips: Clips of one rate.
        statistics: Statistics of the training split; None for the training split itself (see ``fit``).
        kinematics: Forward kinematics of the robot.
        frames: Frames per segment.

    Raises:
        UserError: If the rates of clips and statistics differ or no clip holds one whole valid segment.
    """

    def __init__(
        self,
        clips: Sequence[MotionClip],
        statistics: FeatureStatistics | None = None,
        *,
        kinematics: ForwardKinematics,
        frames: int = 32,
    ) -> None:
        if not clips:
            raise UserError("no clips: there is nothing to take segments from")
        self.clips = tuple(clips)
        self.frames = frames
        self.hz = float(clips[0].hz)
        self.statistics = statistics
        rates = {float(clip.hz) for clip in clips} | ({statistics.hz} if statistics else set())
        if len(rates) > 1:
            raise UserError(f"clips and statistics must share one rate, got {sorted(rates)} Hz")
        self.starts: Int[np.ndarray, "start 2"] = np.concatenate([_starts(i, c, frames) for i, c in enumerate(clips)])
        """Clip index and first frame of every segment, one row per valid start."""
        if not len(self.starts):
            raise UserError(f"no clip holds {frames} valid frames in a row at {self.hz:g} Hz")
        self._features = np.concatenate([clip_features(clip, kinematics) for clip in clips])
        self._offsets = np.concatenate(([0], np.cumsum([clip.frames for clip in clips])))
        self._rows = self._offsets[self.starts[:, 0]] + self.starts[:, 1]

    def __len__(self) -> int:
        """Return the number of valid starts."""
        return len(self.starts)

    def world_features(self, clip: int) -> Float[np.ndarray, "frame 127"]:
        """Return all features of one clip in the world frame, float32."""
        return self._features[self._offsets[clip] : self._offsets[clip + 1]]

    def fit(
        self, *, stride: int | None = None, frame: FeatureFrame = "heading0", threshold: float = 1e-5
    ) -> FeatureStatistics:
        """Fit statistics to these clips (which must be the training split) and use them from now on.

        Args:
            stride: Frames between the starts that are used; default half a segment, so that every frame counts
                about twice.
            frame: Frame of the features.
            threshold: Least variance of a kept feature.

        Returns:
            The statistics, also kept as ``self.statistics``.
        """
        rows = self._rows[self._strided(stride or max(1, self.frames // 2))]
        blocks = (self._raw(block, frame) for block in _blocks(rows))
        self.statistics = fit_statistics(blocks, hz=self.hz, frame=frame, threshold=threshold)
        return self.statistics

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch frame kept"]:
        """Draw segments uniformly over all valid starts, hence clips by their length.

        Args:
            batch: Number of segments.
            generator: Source of randomness, on the CPU.

        Returns:
            Standardised features, float32.
        """
        return self.sample_with_clips(batch, generator)[0]

    def sample_with_clips(
        self, batch: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch frame kept"], Int[np.ndarray, " batch"]]:
        """Draw the segments of :meth:`sample`, and tell which clip each is from (an index into ``clips``)."""
        drawn = torch.randint(len(self._rows), (batch,), generator=generator).numpy()
        return self._standardised(self._rows[drawn]), self.starts[drawn, 0]

    def all_segments(self, stride: int) -> Float[Tensor, "segment frame kept"]:
        """Return every segment whose start is a multiple of ``stride`` frames in its clip, standardised."""
        rows = self._rows[self._strided(stride)]
        return torch.cat([self._standardised(block) for block in _blocks(rows)])

    def segment(self, clip: int, frame: int) -> Float[Tensor, "frame kept"]:
        """Return the standardised segment that starts at a frame of a clip.

        Raises:
            UserError: If it leaves the clip or touches a masked frame.
        """
        if not ((self.starts[:, 0] == clip) & (self.starts[:, 1] == frame)).any():
            raise UserError(f"clip {clip} has no {self.frames} valid frames from frame {frame}")
        return self._standardised(self._offsets[clip : clip + 1] + frame)[0]

    def _strided(self, stride: int) -> Int[np.ndarray, " segment"]:
        """Pick starts on a grid; a stride that finds none (odd masks) falls back to every valid start."""
        picked = np.flatnonzero(self.starts[:, 1] % stride == 0)
        return picked if len(picked) else np.arange(len(self.starts))

    def _raw(self, rows: Int[np.ndarray, " batch"], frame: FeatureFrame) -> Float[np.ndarray, "batch frame 127"]:
        segments = self._features[rows[:, None] + np.arange(self.frames)]
        return to_heading(segments)[0] if frame == "heading0" else segments

    def _standardised(self, rows: Int[np.ndarray, " batch"]) -> Float[Tensor, "batch frame kept"]:
        assert self.statistics is not None, "fit() the training split first, or give its statistics"
        return torch.from_numpy(self.statistics.standardise(self._raw(rows, self.statistics.frame)))


def _starts(index: int, clip: MotionClip, frames: int) -> Int[np.ndarray, "start 2"]:
    starts = clip.valid_starts(frames)
    return np.stack((np.full_like(starts, index), starts), axis=1)


def _blocks(rows: Int[np.ndarray, " row"]) -> Iterator[Int[np.ndarray, " block"]]:
    for first in range(0, len(rows), _BLOCK):
        yield rows[first : first + _BLOCK]
