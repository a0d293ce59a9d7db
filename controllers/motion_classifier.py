"""Which action is this? A judge of motion that knows neither codes nor text.

It measures a window of states (speeds, height, tilt, means and spreads of joint angles) and applies a linear classifier
fitted to the labelled clips. Simulated, decoded and recorded motions are judged by the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError

WINDOW_S = 2.0
"""Length of what is judged [s]."""
NOISE = 0.2
"""Spread of the noise on standardised measurements while fitting: tracked motion is never quite the data's."""
PENALTY = 1e-3
"""Weight of the squared coefficients."""


def heading_velocity(
    qpos: Float[np.ndarray, "frame coordinate"], hz: float
) -> tuple[Float[np.ndarray, "step 2"], Float[np.ndarray, " step"]]:
    """Measure the root's horizontal velocity in its own heading frame, and its turning rate.

    Args:
        qpos: Positions.
        hz: Frames per second.

    Returns:
        Forward and leftward speed [m/s], and yaw rate [rad/s], between frames.
    """
    yaw = quaternion.yaw(qpos[:, 3:7])
    velocity = np.diff(qpos[:, :2], axis=0) * hz
    cosine, sine = np.cos(yaw[:-1]), np.sin(yaw[:-1])
    local = np.stack(
        [cosine * velocity[:, 0] + sine * velocity[:, 1], cosine * velocity[:, 1] - sine * velocity[:, 0]], axis=1
    )
    return local, np.diff(np.unwrap(yaw)) * hz


def measure(qpos: Float[np.ndarray, "frame coordinate"], hz: float) -> Float[np.ndarray, " measurement"]:
    """Measure one window of motion; nothing depends on where it happens or which way it faces.

    Args:
        qpos: Positions of at least three frames.
        hz: Frames per second.

    Returns:
        Means and spreads of speeds [m/s, rad/s], height [m], tilt, joint angles [rad] and joint speeds [rad/s].
    """
    velocity, turning = heading_velocity(qpos, hz)
    down = quaternion.rotate(quaternion.conjugate(qpos[:, 3:7]), np.broadcast_to([0.0, 0.0, -1.0], (len(qpos), 3)))
    joint_speed = np.diff(qpos[:, 7:], axis=0) * hz
    moving = np.column_stack([velocity, turning])
    posture = np.column_stack([qpos[:, 2], down[:, :2], qpos[:, 7:]])
    return np.concatenate(
        [
            moving.mean(axis=0),
            moving.std(axis=0),
            posture.mean(axis=0),
            posture.std(axis=0),
            joint_speed.std(axis=0),
            [np.ptp(qpos[:, 2]), qpos[:, 2].min()],
        ]
    )


def label_windows(
    clips: Sequence[MotionClip], stride_s: float = 0.2
) -> tuple[Float[np.ndarray, "window measurement"], list[str]]:
    """Measure every window of one label in labelled clips.

    Args:
        clips: Labelled motions.
        stride_s: Time between the starts of windows [s].

    Returns:
        Measurements and labels.
    """
    rows, labels = [], []
    for clip in clips:
        frames, stride = round(WINDOW_S * clip.hz), max(1, round(stride_s * clip.hz))
        usable = np.zeros(clip.frames, dtype=bool)
        usable[clip.valid_starts(frames)] = True
        for span in clip.labels:
            for start in range(span.start, span.stop - frames + 1, stride):
                if usable[start]:
                    rows.append(measure(clip.qpos[start : start + frames], clip.hz))
                    labels.append(span.label)
    if not rows:
        raise UserError(f"no labelled stretch of motion lasts {WINDOW_S} s: the classifier has nothing to learn from")
    return np.array(rows), labels


@dataclass(frozen=True, kw_only=True)
class MotionClassifier:
    """Linear classifier of measured windows."""

    labels: tuple[str, ...]
    """Actions it knows."""
    mean: Float[np.ndarray, " measurement"]
    """Mean of the measurements."""
    std: Float[np.ndarray, " measurement"]
    """Spread of the measurements."""
    weights: Float[np.ndarray, "label measurement"]
    """Coefficients on standardised measurements."""
    bias: Float[np.ndarray, " label"]
    """Intercepts."""

    def classify(self, qpos: Float[np.ndarray, "frame coordinate"], hz: float) -> str:
        """Name the action of one window, ``WINDOW_S`` long."""
        return self.labels[int(self.predict(measure(qpos, hz)[None])[0])]

    def predict(self, measurements: Float[np.ndarray, "window measurement"]) -> Int[np.ndarray, " window"]:
        """Return the label index of each measured window."""
        scores = _standardised(measurements, self.mean, self.std) @ self.weights.T + self.bias
        return scores.argmax(axis=1)

    def accuracy(self, measurements: Float[np.ndarray, "window measurement"], labels: Sequence[str]) -> float:
        """Share of windows that are named rightly, averaged over the labels that occur."""
        predicted = np.array(self.labels)[self.predict(measurements)]
        right = predicted == np.array(labels)
        return float(np.mean([right[np.array(labels) == label].mean() for label in sorted(set(labels))]))


def _standardised(
    measurements: Float[np.ndarray, "window measurement"],
    mean: Float[np.ndarray, " measurement"],
    std: Float[np.ndarray, " measurement"],
) -> Float[np.ndarray, "window measurement"]:
    # Clipped: a measurement far outside the data must not outvote all others.
    return np.clip((measurements - mean) / std, -6.0, 6.0)


def fit_classifier(clips: Sequence[MotionClip], *, seed: int = 0, copies: int = 3) -> MotionClassifier:
    """Fit the classifier to labelled clips, each label weighing the same.

    Args:
        clips: Labelled motions of the training split.
        seed: Seed of the noise.
        copies: Noisy copies of every window.

    Returns:
        The classifier of the labels that occur.
    """
    measurements, names = label_windows(clips)
    labels = tuple(sorted(set(names)))
    mean, std = measurements.mean(axis=0), measurements.std(axis=0) + 1e-3
    rng = np.random.default_rng(seed)
    rows = np.repeat(_standardised(measurements, mean, std), copies, axis=0)
    rows = torch.from_numpy(rows + NOISE * rng.standard_normal(rows.shape)).float()
    target = torch.tensor([labels.index(name) for name in names]).repeat_interleave(copies)
    balance = 1.0 / torch.bincount(target, minlength=len(labels)).clamp(min=1).float()
    layer = torch.nn.Linear(rows.shape[1], len(labels))
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(rows), target, weight=balance)
        loss = loss + PENALTY * layer.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return MotionClassifier(
        labels=labels,
        mean=mean,
        std=std,
        weights=layer.weight.detach().double().numpy(),
        bias=layer.bias.detach().double().numpy(),
    )


def confusion(pairs: Sequence[tuple[str, str]]) -> dict[str, Mapping[str, int]]:
    """Count (wanted, recognised) pairs."""
    table: dict[str, dict[str, int]] = {}
    for wanted, got in pairs:
        row = table.setdefault(wanted, {})
        row[got] = row.get(got, 0) + 1
    return {wanted: dict(sorted(row.items())) for wanted, row in sorted(table.items())}
