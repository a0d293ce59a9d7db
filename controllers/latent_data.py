"""Training examples of the latent policy: conditions from motion clips, codes from the autoencoder.

Everything costly is computed once: world features, centre of mass, codes of every segment, and the reconstructions that
stand in for the history in half of the examples, because at run time the history is the policy's own output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from motionlex.controllers.conditions import WINDOW, Conditions, path_features, to_local
from motionlex.controllers.similar_moments import draw_similar, nearest_by_label, usual_change
from motionlex.data import quaternion
from motionlex.data.captions import WALKS
from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.features import FeatureStatistics, rotate_features, to_heading
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.segments import clip_features
from motionlex.motion_vae.checkpoint import TrainedAutoencoder

REPLAN_FRAMES = 16
"""Frames of a segment that are executed before the next segment is chosen."""
LABEL_FRAMES = 24
"""A start is used when its label holds for this many frames: the executed half and what the tracker looks ahead."""
SIMILAR_FRAMES = 4
"""Moments are similar when they differ no more than motion usually does within so many frames."""
TRANSITION_FRAMES = 48
"""A start this soon after a change of label counts as a transition."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Clips laid end to end."""

    features: Float[np.ndarray, "frame feature"]
    """World-frame features, float32."""
    com: Float[np.ndarray, "frame 2"]
    """Centre of mass [m]."""
    yaw: Float[np.ndarray, " frame"]
    """Heading of the root [rad]."""
    run_start: Int[np.ndarray, " frame"]
    """First frame of the unbroken run (one clip, no glitch) that a frame belongs to."""
    run_stop: Int[np.ndarray, " frame"]
    """Frame after the last of that run."""
    label: Int[np.ndarray, " frame"]
    """Index into ``labels``, -1 where nothing is said."""
    labels: tuple[str, ...]
    """Action labels, in alphabetical order."""


def lay_out(clips: Sequence[MotionClip], kinematics: ForwardKinematics) -> Timeline:
    """Compute features and labels of clips, one after the other.

    Args:
        clips: Motions at one rate.
        kinematics: Forward kinematics of their robot.

    Returns:
        The timeline; frames of a glitch form runs of their own without label.
    """
    labels = tuple(sorted({span.label for clip in clips for span in clip.labels}))
    parts: list[tuple[np.ndarray, ...]] = []
    offset = 0
    for clip in clips:
        features = clip_features(clip, kinematics)
        states = kinematics(clip.qpos)
        label = np.full(clip.frames, -1, dtype=np.int64)
        for span in clip.labels:
            label[span.start : span.stop] = labels.index(span.label)
        valid = np.ones(clip.frames, dtype=bool) if clip.valid is None else clip.valid
        label[~valid] = -1
        edges = np.flatnonzero(np.diff(valid.astype(np.int8))) + 1
        bounds = np.concatenate([[0], edges, [clip.frames]]) + offset
        lengths = np.diff(bounds)
        parts.append(
            (
                features,
                states.com[:, :2],
                quaternion.yaw(clip.qpos[:, 3:7]),
                np.repeat(bounds[:-1], lengths),
                np.repeat(bounds[1:], lengths),
                label,
                valid,
            )
        )
        offset += clip.frames
    features, com, yaw, run_start, run_stop, label, valid = (np.concatenate(column) for column in zip(*parts))
    run_stop = np.where(valid, run_stop, run_start)  # a glitch has no room for a segment
    return Timeline(
        features=features, com=com, yaw=yaw, run_start=run_start, run_stop=run_stop, label=label, labels=labels
    )


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """How training conditions are made worse than data, so that the policy bears its own output."""

    text_dropout: float = 0.1
    """Share of the examples without a path that have no text either."""
    text_dropout_on_path: float = 0.3
    """Share of the examples with a path that have no text."""
    walk_exchange: float = 0.5
    """Share of the walks with a path whose caption is that of any walk: the path alone then says how fast and where."""
    path_dropout: float = 0.5
    """Share of examples without a centre-of-mass path."""
    yaw_dropout: float = 0.5
    """Share of the paths without headings."""
    reconstruction_share: float = 0.5
    """Share of examples whose history comes from the autoencoder instead of the data."""
    history_exchange: float = 0.5
    """Share of examples that are given the past of a similar moment of another motion (``similar_moments.py``)."""
    history_noise: float = 0.05
    """Standard deviation of the noise on the history, in standardised units."""
    path_noise: float = 0.02
    """Standard deviation of the shift of the centre-of-mass paths [m]."""
    text_noise: float = 0.02
    """Standard deviation of the noise on the numbers of the unit vectors of a text, renormalised afterwards."""


NO_CORRUPTION = Corruption(
    text_dropout=0.0,
    text_dropout_on_path=0.0,
    walk_exchange=0.0,
    path_dropout=1.0,
    reconstruction_share=0.0,
    history_exchange=0.0,
    history_noise=0.0,
    path_noise=0.0,
    text_noise=0.0,
)


class DistillationSet:
    """Starts, their codes and everything needed to build the conditions of a batch."""

    def __init__(
        self,
        timeline: Timeline,
        autoencoder: TrainedAutoencoder,
        *,
        samples: int,
        max_segments: int,
        generator: torch.Generator,
    ) -> None:
        """Encode the segments of a timeline.

        Args:
            timeline: Clips laid end to end.
            autoencoder: Gives codes and reconstructions; its statistics standardise the histories.
            samples: Code samples per segment.
            max_segments: The grid of starts is thinned (to every 2nd, 4th, … 16th frame) to stay below this number.
            generator: Source of the code samples.

        Raises:
            UserError: If no segment carries a label.
        """
        self.timeline = timeline
        self.statistics: FeatureStatistics = autoencoder.statistics
        if self.statistics.frame != "heading0":
            raise UserError("the latent policy needs an autoencoder of heading0 segments, this one has world segments")
        frames = np.arange(len(timeline.yaw))
        fits = frames + WINDOW <= timeline.run_stop
        stride = 1
        while stride < REPLAN_FRAMES and fits.sum() / stride > max_segments:
            stride *= 2
        self.stride = stride
        self.encoded = np.flatnonzero(fits & ((frames - timeline.run_start) % stride == 0))
        if not len(self.encoded):
            raise UserError(f"the data holds no {WINDOW} frames in a row")
        self._row = np.full(len(frames), -1, dtype=np.int64)
        self._row[self.encoded] = np.arange(len(self.encoded))
        self.codes, self._reconstruction = self._encode(autoencoder, samples, generator)
        window = timeline.label[self.encoded[:, None] + np.arange(LABEL_FRAMES)]
        self.starts = self.encoded[(window[:, 0] >= 0) & (window == window[:, :1]).all(axis=1)]
        if not len(self.starts):
            raise UserError("the data carries no action labels: the latent policy needs labelled clips")
        self.weights = self._start_weights()
        self._similar: Int[np.ndarray, "start label"] | None = None

    @property
    def similar(self) -> Int[np.ndarray, "start label"]:
        """For every start the most similar start of each label, by index; -1 where it would take a leap."""
        if self._similar is None:
            timeline = self.timeline
            now, later = (self._still(self.starts + shift) for shift in (0, SIMILAR_FRAMES))
            self._similar = nearest_by_label(
                now,
                timeline.label[self.starts],
                self.starts,
                len(timeline.labels),
                limit=usual_change(now, later),
                apart=2 * WINDOW,
            )
        return self._similar

    def _still(self, frames: Int[np.ndarray, " frame"]) -> Float[np.ndarray, "frame feature"]:
        """Standardised features of single frames, each in its own heading frame."""
        local, _ = to_heading(self.timeline.features[frames][:, None])
        return self.statistics.standardise(local)[:, 0]

    def _start_weights(self) -> Float[np.ndarray, " start"]:
        """Rare labels and transitions are drawn more often than their share of time."""
        timeline = self.timeline
        label = timeline.label[self.starts]
        counts = np.bincount(label, minlength=len(timeline.labels))
        before = np.maximum(self.starts - TRANSITION_FRAMES, timeline.run_start[self.starts])
        weights = counts[label] ** -0.5 * np.where(timeline.label[before] != label, 3.0, 1.0)
        return weights / weights.sum()

    @torch.no_grad()
    def _encode(
        self, autoencoder: TrainedAutoencoder, samples: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "segment sample token"], Float[np.ndarray, "segment frame feature"]]:
        """Sample codes of every encoded segment; decode the first sample to world-frame features."""
        codes, reconstructions = [], []
        for first in range(0, len(self.encoded), 512):
            starts = self.encoded[first : first + 512]
            local, _ = to_heading(self.timeline.features[starts[:, None] + np.arange(WINDOW)])
            x = torch.from_numpy(self.statistics.standardise(local)).float()
            drawn = torch.stack([autoencoder.encode_features(x, generator) for _ in range(samples)], dim=1)
            decoded = autoencoder.decode_features(drawn[:, 0])[:, : REPLAN_FRAMES + 1]
            codes.append(drawn.to(torch.int16))
            reconstructions.append(rotate_features(decoded, self.timeline.yaw[starts]).astype(np.float32))
        return torch.cat(codes), np.concatenate(reconstructions)

    def history(
        self, starts: Int[np.ndarray, " batch"], reconstructed: Bool[np.ndarray, " batch"]
    ) -> Float[np.ndarray, "batch frame feature"]:
        """Collect the frames up to and including each start, in its heading frame, standardised.

        The reconstructed history is what the running stack would hold: the first half of the segment 32 frames ago,
        then the first half and one frame of the segment 16 frames ago. Frames before a clip repeat its first frame.
        """
        timeline = self.timeline
        frames = np.maximum(starts[:, None] + np.arange(1 - WINDOW, 1), timeline.run_start[starts][:, None])
        world = timeline.features[frames]
        older, newer = slice(0, REPLAN_FRAMES - 1), slice(REPLAN_FRAMES - 1, None)
        for age, rows, part in (
            (2 * REPLAN_FRAMES, older, slice(1, REPLAN_FRAMES)),
            (REPLAN_FRAMES, newer, slice(0, REPLAN_FRAMES + 1)),
        ):
            source = starts - age
            usable = reconstructed & (source >= timeline.run_start[starts])
            usable &= self._row[np.maximum(source, 0)] >= 0
            world[usable, rows] = self._reconstruction[self._row[source[usable]], part]
        local, _ = to_heading(world, reference_frame=WINDOW - 1)
        return self.statistics.standardise(local)

    def conditions(
        self,
        starts: Int[np.ndarray, " batch"],
        text: Float[Tensor, "batch piece width"],
        corruption: Corruption,
        rng: np.random.Generator,
        has_path: Bool[np.ndarray, " batch"] | None = None,
        before: Int[np.ndarray, " batch"] | None = None,
    ) -> Conditions:
        """Build the inputs of the policy for some starts.

        Args:
            starts: Frames of the timeline.
            text: Embeddings, one per start.
            corruption: What to withhold and to disturb.
            rng: Source of the corruption.
            has_path: Which starts are shown their path; None draws them.
            before: Frames whose past is shown; None takes that of the starts themselves.
        """
        timeline, count = self.timeline, len(starts)
        before = starts if before is None else before
        history = self.history(before, rng.random(count) < corruption.reconstruction_share)
        history = history + corruption.history_noise * rng.standard_normal(history.shape)
        past = np.maximum(before[:, None] + np.arange(1 - WINDOW, 1), timeline.run_start[before][:, None])
        future = np.minimum(starts[:, None] + np.arange(1, WINDOW + 1), timeline.run_stop[starts][:, None] - 1)
        origin, yaw = timeline.com[starts], timeline.yaw[starts]
        path = path_features(
            timeline.com[future], timeline.yaw[future], rng.random(count) >= corruption.yaw_dropout, origin, yaw
        )
        path[..., :2] += corruption.path_noise * rng.standard_normal((count, 1, 2))
        if has_path is None:
            has_path = rng.random(count) >= corruption.path_dropout
        text_dropout = np.where(has_path, corruption.text_dropout_on_path, corruption.text_dropout)
        blur = torch.from_numpy(corruption.text_noise * rng.standard_normal(tuple(text.shape))).float()
        blur = blur * text.any(dim=-1, keepdim=True)  # padding stays padding
        return Conditions(
            history=torch.from_numpy(history).float(),
            text=torch.nn.functional.normalize(text + blur, dim=-1),
            com_past=torch.from_numpy(to_local(timeline.com[past], timeline.com[before], timeline.yaw[before])).float(),
            path=torch.from_numpy(path).float(),
            has_text=torch.from_numpy(rng.random(count) >= text_dropout),
            has_path=torch.from_numpy(has_path),
        )

    def batch(
        self, size: int, captions: Captions, corruption: Corruption, rng: np.random.Generator
    ) -> tuple[Conditions, Int[Tensor, "batch token"]]:
        """Draw a training batch.

        Args:
            size: Examples.
            captions: Embedded captions by label index.
            corruption: What to withhold and to disturb.
            rng: Source of all draws.

        Returns:
            Conditions and the codes to imitate.
        """
        chosen = rng.choice(len(self.starts), size=size, p=self.weights)
        starts, before = self.starts[chosen], None
        sample = rng.integers(self.codes.shape[1], size=size)
        codes = self.codes[torch.from_numpy(self._row[starts]), torch.from_numpy(sample)].long()
        has_path = rng.random(size) >= corruption.path_dropout
        labels = self.timeline.label[starts]
        walks = np.array([index for index, label in enumerate(self.timeline.labels) if label in WALKS], dtype=np.int64)
        if len(walks):
            any_walk = has_path & np.isin(labels, walks) & (rng.random(size) < corruption.walk_exchange)
            labels = np.where(any_walk, rng.choice(walks, size=size), labels)
        text = captions.draw(labels, rng)
        if corruption.history_exchange > 0.0:
            exchanged = rng.random(size) < corruption.history_exchange
            before = self.starts[np.where(exchanged, draw_similar(self.similar, chosen, rng), chosen)]
        return self.conditions(starts, text, corruption, rng, has_path, before), codes


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Embedded captions, by label index."""

    embeddings: tuple[Float[Tensor, "_ piece width"], ...]
    """Captions of each label: the sentence, then its word pieces."""

    def draw(self, labels: Int[np.ndarray, " batch"], rng: np.random.Generator) -> Float[Tensor, "batch piece width"]:
        """Pick one caption per label at random."""
        chosen = [self.embeddings[label] for label in labels]
        return torch.stack([rows[int(rng.integers(len(rows)))] for rows in chosen])
