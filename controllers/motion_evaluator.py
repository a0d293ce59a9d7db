r"""The motion evaluator: motions and sentences become unit vectors of one space, close where they mean the same.

Two encoders, one of motion windows and one of frozen sentence vectors, are trained contrastively on training clips and
training captions alone (``evaluator_training.py``). Recall, Frechet distance and diversity are measured in their space.

Source: Guo et al. 2022, *Generating Diverse and Natural 3D Human Motions from Text* (the evaluator), Petrovich et al.
2023, *TMR* (InfoNCE, negatives that mean the same left out).
Departure: actions are few, so the gallery of retrieval is one prototype per action instead of 32 captions at random, in
which the right answer may occur twice; the text enters as the frozen sentence vector of MiniLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from motionlex.controllers.text import TEXT_SIZE
from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.storage import write_bytes, write_json
from motionlex.motion_vae.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_config, read_json
from motionlex.motion_vae.registry import to_plain

HZ = 50.0
"""Rate of the evaluator's motion [Hz]; clips of another rate are resampled."""
WINDOW_FRAMES = 100
"""Frames of one window: 2 s."""
STRIDE = 2
"""Every second frame of a window enters the network."""
FEATURES = 46
"""Numbers per frame, see :func:`heading_features`."""
LIMIT = 5.0
"""Standardised features are clipped here, so that one mad measurement cannot outvote all others."""


@dataclass(frozen=True, kw_only=True)
class EvaluatorConfig:
    """Shape of an evaluator, what it was trained on and how; contents of config.json."""

    labels: tuple[str, ...]
    """Actions that it knows, in alphabetical order."""
    data: str = "builtin"
    """Data set whose training clips it has seen."""
    seed: int = 0
    """Seed of weights, batches and noise."""
    channels: int = 64
    """Channels of the motion encoder."""
    dimensions: int = 32
    """Size of the common space."""
    hidden: int = 128
    """Hidden layer of the text encoder."""
    text: int = TEXT_SIZE
    """Size of a sentence vector."""
    temperature: float = 0.1
    """Of the contrastive loss."""
    steps: int = 1000
    """Training steps."""
    batch: int = 128
    """Pairs per step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; cosine to zero."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    noise: float = 0.2
    """Spread of the noise on standardised features while training, per frame and again per window: simulated motion
    is never quite the data's."""


def heading_features(clip: MotionClip) -> Float[np.ndarray, "frame 46"]:
    """Describe every frame of a clip without its place and heading.

    Args:
        clip: Motion at ``HZ``.

    Returns:
        Root velocity in the heading frame [m/s] (3), yaw rate [rad/s], root height [m], direction of gravity in the
        base frame (3), joint angles [rad] (19), joint speeds [rad/s] (19).
    """
    qpos, qvel = clip.qpos, clip.qvel()
    root = qpos[:, 3:7]
    back = quaternion.from_yaw(-quaternion.yaw(root))
    velocity = quaternion.rotate(back, qvel[:, :3])
    turning = quaternion.rotate(root, qvel[:, 3:6])[:, 2]
    gravity = quaternion.rotate(quaternion.conjugate(root), np.broadcast_to([0.0, 0.0, -1.0], (len(qpos), 3)))
    return np.column_stack([velocity, turning, qpos[:, 2], gravity, qpos[:, 7:], qvel[:, 6:]])


def info_nce(
    motion: Float[Tensor, "pair dimension"],
    text: Float[Tensor, "pair dimension"],
    labels: Int[Tensor, " pair"],
    temperature: float,
) -> Float[Tensor, ""]:
    r"""Tell each motion's own text from those of other actions, and each text's own motion.

    .. math:: L = -\frac1{2N} \sum_i \Bigl(\log \frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j: a_j \ne a_i} e^{s_{ij}}}
        + \log \frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j: a_j \ne a_i} e^{s_{ji}}}\Bigr),
        \quad s_{ij} = m_i^T t_j / \tau

    Args:
        motion: Unit vectors of motions.
        text: Unit vectors of their texts.
        labels: Action a of each pair; pairs of the same action are no negatives of each other.
        temperature: tau.
    Source: TMR, Petrovich et al. 2023, section 3.3: texts that mean the same are left out of the negatives.
    Departure: the same means the same action label, not similar sentence vectors.
    """
    same = (labels[:, None] == labels[None]) & ~torch.eye(len(labels), dtype=torch.bool)
    logits = (motion @ text.T / temperature).masked_fill(same, float("-inf"))
    own = torch.arange(len(labels))
    entropy = nn.functional.cross_entropy
    return 0.5 * (entropy(logits, own) + entropy(logits.T, own))


def ranks(
    similarity: Float[np.ndarray, "item candidate"], wanted: Int[np.ndarray, " item"]
) -> Int[np.ndarray, " item"]:
    """Return how many candidates are at least as similar as the wanted one, itself not counted: ties are lost."""
    right = np.take_along_axis(similarity, wanted[:, None], axis=1)
    return (similarity >= right).sum(axis=1) - 1


class MotionEvaluator(nn.Module):
    """Two encoders into one space, and the place of every action in it."""

    def __init__(self, config: EvaluatorConfig) -> None:
        """Make an untrained evaluator.

        Args:
            config: Shape and labels.
        """
        super().__init__()
        self.config = config
        width = config.channels
        layers: list[nn.Module] = []
        for inputs in (FEATURES, width, width):
            layers += [nn.Conv1d(inputs, width, 5, stride=2, padding=2), nn.GELU()]
        self.frames = nn.Sequential(*layers)
        self.motion_head = nn.Linear(2 * width, config.dimensions)
        self.text_head = nn.Sequential(
            nn.Linear(config.text, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.dimensions)
        )
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))
        self.register_buffer("prototypes", torch.zeros(len(config.labels), config.dimensions))

    @property
    def labels(self) -> tuple[str, ...]:
        """Actions that it knows."""
        return self.config.labels

    def embed_features(self, features: Float[Tensor, "window frame 46"]) -> Float[Tensor, "window dimension"]:
        """Embed windows of standardised features (every ``STRIDE``-th frame): mean and maximum over time decide."""
        hidden = self.frames(features.clamp(-LIMIT, LIMIT).transpose(1, 2))
        pooled = torch.cat([hidden.mean(dim=2), hidden.amax(dim=2)], dim=1)
        return nn.functional.normalize(self.motion_head(pooled), dim=1)

    def embed_text(self, sentences: Float[Tensor, "text width"]) -> Float[Tensor, "text dimension"]:
        """Embed frozen sentence vectors."""
        return nn.functional.normalize(self.text_head(sentences), dim=1)

    def standardise(self, features: Float[Tensor, "*batch 46"]) -> Float[Tensor, "*batch 46"]:
        """Return (x - mean) / std of the training clips."""
        return (features - self.mean) / self.std

    @torch.no_grad()
    def embed_windows(self, clip: MotionClip, starts: Sequence[float]) -> Float[np.ndarray, "window dimension"]:
        """Embed windows of a clip.

        Args:
            clip: Motion of any rate, at least 2 s long.
            starts: Where windows begin [s]; those that would leave the clip are moved back into it.
        """
        resampled = clip.resample(HZ)
        features = torch.from_numpy(heading_features(resampled)).float()
        last = resampled.frames - WINDOW_FRAMES
        assert last >= 0, f"{clip.name} lasts {clip.duration_s} s, shorter than a window"
        first = torch.tensor([min(round(start * HZ), last) for start in starts])
        rows = self.standardise(features)[first[:, None] + torch.arange(0, WINDOW_FRAMES, STRIDE)]
        return self.embed_features(rows).double().numpy()

    def similarity(self, embedded: Float[np.ndarray, "window dimension"]) -> Float[np.ndarray, "window action"]:
        """Cosines between embedded windows and the prototypes of all actions, each of which occurs once."""
        return embedded @ self.prototypes.double().numpy().T

    def save(self, folder: Path) -> None:
        """Write config.json and weights.safetensors."""
        tensors = {name: value.detach().contiguous() for name, value in self.state_dict().items()}
        write_bytes(folder / WEIGHTS_FILE, save(tensors, metadata={"format": "motionlex-evaluator-1"}))
        write_json(folder / CONFIG_FILE, to_plain(self.config))

    @classmethod
    def load(cls, folder: Path) -> MotionEvaluator:
        """Read what ``save`` wrote.

        Raises:
            UserError: If there is no evaluator, or it is damaged.
        """
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"no motion evaluator at {folder}: give a folder made by `motionlex train-evaluator`")
        values = read_json(folder / CONFIG_FILE)
        evaluator = cls(read_config(EvaluatorConfig, values, folder, "motionlex train-evaluator"))
        try:
            evaluator.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (RuntimeError, OSError, SafetensorError) as error:
            raise UserError(f"{folder / WEIGHTS_FILE} holds no readable evaluator: {error}") from error
        return evaluator.eval().requires_grad_(False)


def shipped_evaluators(data: str) -> tuple[Path, ...]:
    """Return the folders of the evaluators that come with the package for a data set, one per seed; maybe none."""
    folder = Path(str(files("motionlex.controllers.evaluators").joinpath(data)))
    return tuple(sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}")))


def load_evaluators(folders: Sequence[Path], labels: Sequence[str]) -> tuple[MotionEvaluator, ...]:
    """Load evaluators that know all of some actions.

    Raises:
        UserError: If one is missing, damaged, or does not know an action.
    """
    loaded = tuple(MotionEvaluator.load(folder) for folder in folders)
    for folder, evaluator in zip(folders, loaded, strict=True):
        if missing := sorted(set(labels) - set(evaluator.labels)):
            raise UserError(
                f"the motion evaluator {folder} (of data {evaluator.config.data!r}) does not know "
                f"{', '.join(missing)}: train one on the same data, `motionlex train-evaluator --data NAME`"
            )
    return loaded
