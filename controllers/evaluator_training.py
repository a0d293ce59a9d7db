"""``motionlex train-evaluator``: training clips and training captions become a motion evaluator."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.controllers.motion_evaluator import (
    HZ,
    STRIDE,
    WINDOW_FRAMES,
    EvaluatorConfig,
    MotionEvaluator,
    heading_features,
    info_nce,
    ranks,
)
from motionlex.controllers.progress import ProgressLine
from motionlex.controllers.text import TextEncoder, TextFunction
from motionlex.data.captions import held_out_captions, training_captions
from motionlex.data.clip import MotionClip
from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.motion_vae import checkpoint
from motionlex.motion_vae.registry import PlainValue

START_STRIDE = 10
"""Frames between the starts of training windows."""


@dataclass(frozen=True, kw_only=True)
class EvaluatorFlags:
    """Train the text-motion evaluator that evaluate-stack measures with."""

    data: str = "builtin"
    """Data set with action labels: builtin or lafan1."""
    data_root: Path | None = None
    """Folder of the data set; None reads the data set's environment variable."""
    steps: int = 1000
    """Training steps."""
    batch: int = 128
    """Pairs of motion and caption per step."""
    seed: int = 0
    """Seed of weights, batches and noise."""
    out: Path | None = None
    """New run folder; None makes runs/<data>_evaluator_<seed>."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of labelled clips: features of all frames, and where windows of one label begin."""

    features: Float[Tensor, "frame 46"]
    """Features of all clips, one after the other."""
    starts: Int[Tensor, " window"]
    """First frame of every window."""
    label: Int[Tensor, " window"]
    """Index of its label."""
    labels: tuple[str, ...]
    """Labels, in alphabetical order."""

    def gather(self, rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch frame 46"]:
        """Return some windows, every ``STRIDE``-th frame of them."""
        return self.features[self.starts[rows][:, None] + torch.arange(0, WINDOW_FRAMES, STRIDE)]


def collect_windows(clips: Sequence[MotionClip], labels: Sequence[str] | None = None) -> Windows:
    """Find every window of one label without a glitch.

    Args:
        clips: Labelled motions at ``HZ``.
        labels: Labels to look for; None takes all that occur.

    Raises:
        UserError: If there is none.
    """
    names = sorted({span.label for clip in clips for span in clip.labels}) if labels is None else sorted(labels)
    features, starts, indices, offset = [], [], [], 0
    for clip in clips:
        usable = set(clip.valid_starts(WINDOW_FRAMES).tolist())
        for span in clip.labels:
            if span.label in names:
                found = [s for s in range(span.start, span.stop - WINDOW_FRAMES + 1, START_STRIDE) if s in usable]
                starts += [offset + start for start in found]
                indices += [names.index(span.label)] * len(found)
        features.append(heading_features(clip))
        offset += clip.frames
    if not starts:
        raise UserError("no labelled stretch of motion lasts 2 s: the evaluator has nothing to learn from")
    present = [names[index] for index in sorted(set(indices))]
    return Windows(
        features=torch.from_numpy(np.concatenate(features)).float(),
        starts=torch.tensor(starts),
        label=torch.tensor([present.index(names[index]) for index in indices]),
        labels=tuple(present),
    )


def train_evaluator(flags: EvaluatorFlags, encode: TextFunction | None = None) -> dict[str, PlainValue]:
    """Train one evaluator, measure it on held-out clips, write its run folder.

    Args:
        flags: Data, steps, seed, folder.
        encode: Text encoder; the packaged one when None.

    Returns:
        Keys run, steps, seconds, seconds_per_step, and the metrics by name.

    Raises:
        UserError: On any mistake of the user.
    """
    check_number("--steps", flags.steps, above=0)
    check_number("--batch", flags.batch, at_least=2)
    check_seed(flags.seed)
    folder = flags.out or Path("runs") / f"{flags.data}_evaluator_{flags.seed}"
    checkpoint.check_new(folder)
    data = load_dataset(flags.data, flags.data_root, hz=HZ)
    encode = TextEncoder().encode if encode is None else encode
    windows = collect_windows(data.train)
    config = EvaluatorConfig(
        labels=windows.labels, data=flags.data, seed=flags.seed, steps=flags.steps, batch=flags.batch
    )
    began = time.monotonic()
    evaluator = fit_evaluator(config, windows, encode)
    seconds = time.monotonic() - began
    metrics: dict[str, PlainValue] = {}
    if data.validation:
        metrics = dict(measure_evaluator(evaluator, collect_windows(data.validation, windows.labels), encode))
    with checkpoint.NewRunFolder(folder) as partial:
        evaluator.save(partial)
        meta = {"steps": flags.steps, "seed": flags.seed, "seconds": seconds, "windows": len(windows.starts), **metrics}
        checkpoint.write_json(partial / checkpoint.META_FILE, {**checkpoint.provenance(), **meta})
    return {
        "run": str(folder),
        "steps": flags.steps,
        "seconds": seconds,
        "seconds_per_step": seconds / flags.steps,
        **metrics,
    }


def fit_evaluator(config: EvaluatorConfig, windows: Windows, encode: TextFunction) -> MotionEvaluator:
    """Fit an evaluator; every action is drawn equally often, with any of its windows and training captions.

    Args:
        config: Shape and recipe.
        windows: Of the training clips.
        encode: Text encoder.
    """
    captions = [encode(training_captions(label))[:, 0] for label in windows.labels]
    config = replace(config, text=captions[0].shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        evaluator = MotionEvaluator(config)
    used = windows.features[windows.starts.unique()]
    evaluator.mean.copy_(used.mean(dim=0))
    evaluator.std.copy_(used.std(dim=0) + 1e-3)
    generator = torch.Generator().manual_seed(config.seed)
    rows = [torch.nonzero(windows.label == index)[:, 0] for index in range(len(windows.labels))]
    optimiser = torch.optim.AdamW(
        evaluator.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    progress = ProgressLine(config.steps, "step")
    for step in range(config.steps):
        labels = torch.randint(len(rows), (config.batch,), generator=generator)
        x = evaluator.standardise(windows.gather(_pick(rows, labels, generator)))
        x = x + config.noise * torch.randn(x.shape, generator=generator)
        x = x + config.noise * torch.randn((len(x), 1, x.shape[2]), generator=generator)
        sentences = torch.stack([pool[_one(len(pool), generator)] for pool in (captions[label] for label in labels)])
        motion, text = evaluator.embed_features(x), evaluator.embed_text(sentences)
        loss = info_nce(motion, text, labels, config.temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        optimiser.step()
        progress.advance(f"loss {float(loss.detach()):.3f} nats")
    with torch.no_grad():
        means = torch.stack([evaluator.embed_text(rows).mean(dim=0) for rows in captions])
        evaluator.prototypes.copy_(torch.nn.functional.normalize(means, dim=1))
    return evaluator.eval().requires_grad_(False)


def _pick(rows: Sequence[Int[Tensor, " _"]], labels: Int[Tensor, " pair"], generator: torch.Generator) -> Tensor:
    """Draw one window for each label."""
    return torch.stack([rows[int(label)][_one(len(rows[int(label)]), generator)] for label in labels])


def _one(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


@torch.no_grad()
def measure_evaluator(evaluator: MotionEvaluator, windows: Windows, encode: TextFunction) -> Mapping[str, float]:
    """Measure on motions and captions that training has not seen.

    Args:
        evaluator: What is measured.
        windows: Of held-out clips, of labels that it knows.
        encode: Text encoder.

    Returns:
        ``recall_at_1/2/3`` (action of a motion, among the prototypes of all actions; mean over the actions that occur),
        ``text_recall_at_1/2/3`` (action whose held-out motions lie, on average, nearest to a held-out caption), and
        ``chance`` of the first.
    """
    every = torch.arange(len(windows.starts))
    parts = [evaluator.embed_features(evaluator.standardise(windows.gather(rows))) for rows in every.split(512)]
    embedded = torch.cat(parts).double()
    names = [windows.labels[label] for label in windows.label]
    wanted = np.array([evaluator.labels.index(name) for name in names])
    rank = ranks(evaluator.similarity(embedded.numpy()), wanted)
    centres = torch.stack([embedded[windows.label == index].mean(dim=0) for index in range(len(windows.labels))])
    texts = [(index, encode(held_out_captions(label))[:, 0]) for index, label in enumerate(windows.labels)]
    asked = np.concatenate([np.full(len(rows), index) for index, rows in texts])
    vectors = evaluator.embed_text(torch.cat([rows for _, rows in texts])).double()
    found = ranks((vectors @ torch.nn.functional.normalize(centres, dim=1).T).numpy(), asked)
    result = {"chance": 1.0 / len(evaluator.labels)}
    for k in (1, 2, 3):
        result[f"recall_at_{k}"] = float(np.mean([(rank[wanted == action] < k).mean() for action in np.unique(wanted)]))
        result[f"text_recall_at_{k}"] = float((found < k).mean())
    return result
