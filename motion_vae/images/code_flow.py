r"""Discrete flow matching: a label-conditioned generator of code sequences.

The path from a source z_0 (masks, or uniform codes) at t = 0 to codes z_1 of the data at t = 1 mixes token by token,

.. math:: p_t(z^i | z_0, z_1) = (1 - t)\,[z^i = z_0^i] + t\,[z^i = z_1^i].

A transformer learns p(z_1^i | z_t, t, label) by cross-entropy. The probability velocity
(p(z_1^i | z_t) - [z^i = z_t^i]) / (1 - t) makes the marginals follow the path, so that a step of size h replaces a
token by a draw of the transformer with probability h / (1 - t).

Source: Gat et al. 2024 (Discrete Flow Matching), mixture paths with a linear schedule, without corrector steps. The
DAPS paper names the method and neither source, network nor schedule: those are ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.estimators import gumbel_noise
from motionlex.motion_vae.images.progress import Progress
from motionlex.motion_vae.networks.transformer import Encoder, TransformerConfig
from motionlex.motion_vae.options import check_choice, check_positive

Source = Literal["mask", "uniform"]
SOURCES: tuple[Source, ...] = ("mask", "uniform")
Denoiser = Callable[[Int[Tensor, "batch token"], float], Float[Tensor, "batch token code"]]
"""Logits of p(z_1^i | z_t, t), from codes and t."""


@dataclass(frozen=True, kw_only=True)
class CodeFlowConfig:
    """Network and training of a flow on codes."""

    source: Source = "mask"
    """Where sequences begin: all tokens masked, or every token uniform."""
    width: int = 128
    """Features per token."""
    heads: int = 4
    """Attention heads."""
    layers: int = 3
    """Transformer blocks."""
    batch: int = 256
    """Code sequences per step."""
    steps: int = 10_000
    """Training steps."""
    learning_rate: float = 1e-3
    """At the first step; falls to nothing along a quarter of a cosine."""

    def __post_init__(self) -> None:
        check_choice("source", self.source, SOURCES)
        check_positive(learning_rate=self.learning_rate)
        if self.batch < 1 or self.steps < 1:
            raise ValueError(f"batch and steps must be at least 1, got {self.batch} and {self.steps}")
        _ = self.transformer  # checks the other fields

    @property
    def transformer(self) -> TransformerConfig:
        """Shape of the stack."""
        return TransformerConfig(width=self.width, heads=self.heads, layers=self.layers)


class CodeFlow(nn.Module):
    """Transformer over all tokens that sees the label and the time at every token.

    Args:
        config: Source and sizes.
        vocabulary: Codes that a token can take; one more stands for the mask.
        tokens: Codes per sequence.
        classes: Number of labels.
    """

    def __init__(self, config: CodeFlowConfig, *, vocabulary: int, tokens: int, classes: int) -> None:
        super().__init__()
        self.config, self.vocabulary, self.tokens = config, vocabulary, tokens
        self.codes = nn.Embedding(vocabulary + 1, config.width)
        self.label = nn.Embedding(classes, config.width)
        self.time = nn.Sequential(nn.Linear(1, config.width), nn.ReLU(), nn.Linear(config.width, config.width))
        self.transformer = Encoder(config.transformer, tokens)
        self.output = nn.Linear(config.width, vocabulary)

    @property
    def mask(self) -> int | None:
        """Code that stands for a masked token; None where sequences begin with uniform codes."""
        return self.vocabulary if self.config.source == "mask" else None

    def forward(
        self, codes: Int[Tensor, "batch token"], time: Float[Tensor, " batch"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch token code"]:
        """Logits of the data's code at every token."""
        condition = self.label(labels) + self.time(time.unsqueeze(1))
        return self.output(self.transformer(self.codes(codes) + condition.unsqueeze(1)))

    def start(self, count: int, generator: torch.Generator) -> Int[Tensor, "batch token"]:
        """Draw sequences of the source, on the generator's device."""
        shape, device = (count, self.tokens), generator.device
        if self.mask is not None:
            return torch.full(shape, self.mask, device=device)
        return torch.randint(self.vocabulary, shape, generator=generator, device=device)

    def loss(
        self, target: Int[Tensor, "batch token"], labels: Int[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Cross-entropy [nat/token] at uniform times; with masks, of the masked tokens: the others are known."""
        time = torch.rand(len(target), generator=generator, device=target.device)
        arrived = torch.rand(target.shape, generator=generator, device=target.device) < time.unsqueeze(1)
        codes = torch.where(arrived, target, self.start(len(target), generator))
        wanted: Bool[Tensor, "batch token"] = ~arrived if self.mask is not None else torch.ones_like(arrived)
        entropy = functional.cross_entropy(self(codes, time, labels).transpose(1, 2), target, reduction="none")
        return (entropy * wanted).sum() / wanted.sum().clamp_min(1)

    @torch.no_grad()
    def sample(
        self, labels: Int[Tensor, " batch"], generator: torch.Generator, *, steps: int
    ) -> Int[Tensor, "batch token"]:
        """Draw one code sequence for each label.

        Args:
            labels: On the generator's device.
            generator: Of the source and of all draws.
            steps: Steps from source to data; tokens that change in the same step are drawn independently.
        """

        def denoise(codes: Int[Tensor, "batch token"], time: float) -> Float[Tensor, "batch token code"]:
            return self(codes, torch.full((len(codes),), time, device=codes.device), labels)

        return follow_flow(denoise, self.start(len(labels), generator), generator, steps=steps, mask=self.mask)


@torch.no_grad()
def follow_flow(
    denoise: Denoiser,
    start: Int[Tensor, "batch token"],
    generator: torch.Generator,
    *,
    steps: int,
    mask: int | None = None,
) -> Int[Tensor, "batch token"]:
    """Go from a source to the data in equal steps.

    Args:
        denoise: Logits of p(z_1^i | z_t, t).
        start: Codes at t = 0.
        generator: Of all draws, on the device of ``start``.
        steps: At least 1; the marginals are right in the limit of many.
        mask: Code of masked tokens, if the source is made of them: a token without it has arrived and stays.

    Returns:
        Codes at t = 1.
    """
    codes = start
    for step in range(steps):
        logits = denoise(codes, step / steps)
        drawn = (logits + gumbel_noise(logits, generator)).argmax(dim=-1)
        # h / (1 - t) with h = 1 / steps
        changes = torch.rand(codes.shape, generator=generator, device=codes.device) * (steps - step) < 1.0
        if mask is not None:
            changes &= codes == mask
        codes = torch.where(changes, drawn, codes)
    return codes


def fit_code_flow(
    flow: CodeFlow, codes: Int[Tensor, "example token"], labels: Int[Tensor, " example"], *, seed: int
) -> None:
    """Train a flow on the codes of a data set, in place, with AdamW.

    Args:
        flow: On the device of the codes.
        codes: One sequence per example.
        labels: Class of every example.
        seed: Of the batches and all draws.
    """
    config = flow.config
    generator = torch.Generator(device=codes.device).manual_seed(seed)
    optimiser = torch.optim.AdamW(flow.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: math.cos(0.5 * math.pi * step / config.steps))
    progress = Progress("flow on codes", config.steps)
    flow.train()
    for step in range(config.steps):
        rows = torch.randint(len(codes), (config.batch,), generator=generator, device=codes.device)
        loss = flow.loss(codes[rows], labels[rows], generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimiser.step()
        decay.step()
        progress.done(step + 1, lambda loss=loss: f"{loss.item():.3f} nat/token")
    flow.eval()
