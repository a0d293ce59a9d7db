"""Distil the autoencoder's codes into the latent policy: configuration, loop, checkpoint and exact resume."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.controllers.condition_encoder import LatentPolicyConfig
from motionlex.controllers.conditions import Conditions
from motionlex.controllers.latent_data import NO_CORRUPTION, Captions, Corruption, DistillationSet, lay_out
from motionlex.controllers.latent_policy import LatentPolicy
from motionlex.controllers.text import TextEncoder, TextFunction, bert_width
from motionlex.data.captions import held_out_captions, training_captions
from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.motion_vae.checkpoint import TrainedAutoencoder, load_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How the latent policy is fitted."""

    batch: int = 64
    """Segments per step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, after the warm-up."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    final_share: float = 0.05
    """Learning rate at the end of the schedule, as a share of the peak (cosine)."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    average_decay: float = 0.998
    """Decay of the running average of the weights, which is what is saved and used."""


@dataclass(frozen=True, kw_only=True)
class LatentTask:
    """Everything that is fixed when a run is created."""

    vae: str
    """Run folder of the autoencoder."""
    data: str
    """Data set."""
    data_root: str | None
    """Folder of the data set."""
    schedule_steps: int
    """Steps after which the learning rate has reached its final value."""
    seed: int
    """Seed of weights, codes, batches and corruption."""
    samples: int = 4
    """Code samples per segment."""
    max_segments: int = 20000
    """Segments that are encoded at most; the grid of starts is thinned to stay below."""
    width: int = 128
    """Width of the policy."""
    layers: int = 3
    """Blocks of the policy."""
    heads: int = 4
    """Attention heads."""
    words: int = 0
    """Tokens of the policy's memory that are drawn from the word pieces."""
    text_encoder: str | None = None
    """Text encoder; None is the packaged one."""

    def __post_init__(self) -> None:
        if min(self.schedule_steps, self.samples, self.max_segments) < 1:
            raise UserError("schedule-steps, samples and max-segments must be positive")


def learning_rate(step: int, schedule_steps: int, config: OptimiserConfig) -> float:
    """Linear warm-up, then a cosine to ``final_share`` of the peak, constant after the schedule."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    progress = min(1.0, step / schedule_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * warm * (config.final_share + (1 - config.final_share) * cosine)


def code_loss(policy: LatentPolicy, conditions: Conditions, codes: Int[Tensor, "batch token"]) -> Float[Tensor, ""]:
    """Cross-entropy of the data's codes [nats per token]."""
    return -policy.log_prob(conditions, codes).mean() / codes.shape[1]


class LatentTrainer:
    """State of one training run; every step is determined by the state, so that a resumed run is the same run."""

    def __init__(
        self,
        policy: LatentPolicy,
        data: DistillationSet,
        captions: Captions,
        *,
        schedule_steps: int,
        seed: int,
        optimiser: OptimiserConfig,
        corruption: Corruption,
    ) -> None:
        """Begin at step 0.

        Args:
            policy: Untrained policy.
            data: Training examples.
            captions: Embedded training captions by label index.
            schedule_steps: Length of the learning-rate schedule.
            seed: Seed of batches and corruption.
            optimiser: How to fit.
            corruption: How conditions are withheld and disturbed.
        """
        self.policy, self.data, self.captions = policy, data, captions
        self.schedule_steps, self.config, self.corruption = schedule_steps, optimiser, corruption
        self.rng = np.random.default_rng(seed)
        self.step = 0
        self.average = {name: value.detach().clone() for name, value in policy.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            policy.parameters(), lr=optimiser.learning_rate, weight_decay=optimiser.weight_decay, betas=(0.9, 0.98)
        )

    def advance(self) -> float:
        """Take one step and return the loss [nats per token]."""
        conditions, codes = self.data.batch(self.config.batch, self.captions, self.corruption, self.rng)
        loss = code_loss(self.policy, conditions, codes)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.gradient_clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.schedule_steps, self.config)
        self.optimiser.step()
        self.step += 1
        # A young average would remember the initial weights: its horizon grows with the run.
        decay = min(self.config.average_decay, self.step / (self.step + 10.0))
        with torch.no_grad():
            for name, value in self.policy.state_dict().items():
                self.average[name].lerp_(value, 1.0 - decay)
        return float(loss.detach())

    def averaged_policy(self) -> LatentPolicy:
        """Return a policy with the averaged weights, in evaluation mode."""
        policy = LatentPolicy(self.policy.config)
        policy.load_state_dict(self.average)
        return policy.eval()

    def state(self) -> dict[str, object]:
        """Everything that ``restore`` needs."""
        return {
            "step": self.step,
            "policy": self.policy.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),
        }

    def restore(self, state: dict[str, object]) -> None:
        """Continue from what ``state`` returned."""
        assert isinstance(state["step"], int) and isinstance(state["rng"], str)
        self.step = state["step"]
        self.policy.load_state_dict(state["policy"])  # type: ignore[arg-type]
        self.optimiser.load_state_dict(state["optimiser"])  # type: ignore[arg-type]
        average = state["average"]
        assert isinstance(average, dict)
        self.average = {name: value.clone() for name, value in average.items()}
        self.rng.bit_generator.state = json.loads(state["rng"])


@torch.no_grad()
def evaluate_policy(
    policy: LatentPolicy, data: DistillationSet, captions: Captions, *, seed: int, segments: int = 512
) -> dict[str, float]:
    """Measure the policy on clean conditions.

    Args:
        policy: Trained policy.
        data: Held-out segments.
        captions: Captions that were not trained on.
        seed: Seed of the choice of segments and captions.
        segments: How many segments to use.

    Returns:
        Nats per token with the right text, with the text of another label, without text, and with the path that was
        really taken (beside the text, and alone); share of codes whose most likely value is right, from text.
    """
    rng, with_paths = np.random.default_rng(seed), replace(NO_CORRUPTION, path_dropout=0.0)
    totals: dict[str, list[float]] = {}
    for _ in range(max(1, segments // 128)):
        led, codes = data.batch(128, captions, with_paths, rng)
        conditions = led.without_path()
        logits = policy.logits(conditions, codes)
        rolled = Conditions(**{**vars(conditions), "text": conditions.text.roll(1, 0)})
        values = {
            "nats_per_token": float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten())),
            "code_accuracy": float((logits.argmax(-1) == codes).float().mean()),
            "nats_per_token_shuffled_text": float(code_loss(policy, rolled, codes)),
            "nats_per_token_without_text": float(code_loss(policy, conditions.without_text(), codes)),
            "nats_per_token_with_path": float(code_loss(policy, led, codes)),
            "nats_per_token_path_alone": float(code_loss(policy, led.without_text(), codes)),
        }
        for name, value in values.items():
            totals.setdefault(name, []).append(value)
    return {name: float(np.mean(column)) for name, column in totals.items()}


@dataclass(frozen=True, kw_only=True)
class LatentExamples:
    """Training and held-out examples with their captions."""

    train: DistillationSet
    """Segments of the training clips."""
    validation: DistillationSet | None
    """Segments of the held-out clips; None when they carry no labels."""
    train_captions: Captions
    """Training captions."""
    validation_captions: Captions
    """Held-out captions by label index of the validation segments."""
    text_sha256: str
    """Digest of the text encoder's weights."""


def embed_captions(encode: TextFunction, labels: tuple[str, ...], *, held_out: bool) -> Captions:
    """Embed the training or the held-out captions of some labels."""
    choose = held_out_captions if held_out else training_captions
    return Captions(embeddings=tuple(encode(choose(label)) for label in labels))


def prepare_examples(task: LatentTask, autoencoder: TrainedAutoencoder) -> LatentExamples:
    """Load the data of a task and encode it.

    Raises:
        UserError: On an unknown or unlabelled data set.
    """
    hz = float(autoencoder.statistics.hz)
    data = load_dataset(task.data, None if task.data_root is None else Path(task.data_root), hz=hz)
    kinematics = ForwardKinematics(get_robot("h1"))
    generator = torch.Generator().manual_seed(task.seed)
    began = time.perf_counter()
    train = DistillationSet(
        lay_out(data.train, kinematics),
        autoencoder,
        samples=task.samples,
        max_segments=task.max_segments,
        generator=generator,
    )
    logger.info(
        "encoded %d segments (every %d. frame, %d samples each) in %.0f s; %d starts carry a label",
        len(train.encoded),
        train.stride,
        task.samples,
        time.perf_counter() - began,
        len(train.starts),
    )
    validation = None
    if data.validation:
        timeline = lay_out(data.validation, kinematics)
        if timeline.labels:
            validation = DistillationSet(timeline, autoencoder, samples=1, max_segments=2000, generator=generator)
    encoder = TextEncoder(task.text_encoder)
    encode = encoder.encode
    return LatentExamples(
        train=train,
        validation=validation,
        train_captions=embed_captions(encode, train.timeline.labels, held_out=False),
        validation_captions=embed_captions(
            encode, () if validation is None else validation.timeline.labels, held_out=True
        ),
        text_sha256=encoder.digest,
    )


def load_autoencoder(path: Path) -> TrainedAutoencoder:
    """Load the autoencoder of a run."""
    return load_run(path, "cpu")


def build_policy(task: LatentTask, autoencoder: TrainedAutoencoder) -> LatentPolicy:
    """Create the untrained policy of a task; the same seed gives the same weights.

    Raises:
        UserError: If the autoencoder has no codes.
    """
    autoencoder.require_codes()
    config = LatentPolicyConfig(
        vocabulary=autoencoder.model.vocabulary,
        tokens=autoencoder.model.tokens,
        features=autoencoder.statistics.size,
        width=task.width,
        layers=task.layers,
        heads=task.heads,
        words=task.words,
        text=bert_width(task.text_encoder),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        return LatentPolicy(config)
