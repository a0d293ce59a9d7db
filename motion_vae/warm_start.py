"""A quick start for policy search: quantise first, imitate the quantiser, then search.

Policy search from noise needs 10^5 steps before the codes of a long sequence mean something. On a laptop the first
part of a run therefore trains DAPS's own networks in cheaper ways: (1) encoder and generator as an ordinary
autoencoder, for a moment, so that the codebook can start from vectors that mean something; (2) both with the nearest
code and the straight-through gradient, as a VQ-VAE, while the autoregressive decoder of q follows by maximum
likelihood; (3) that decoder alone, with encoder and generator at rest. From then on nothing but the DAPS objective
trains them.

Departure: the DAPS paper has no such start; presets named ``paper`` do without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.motion_vae import codebooks
from motionlex.motion_vae.estimators import nearest_code, straight_through
from motionlex.motion_vae.losses import commitment_loss

Phase = Literal["continuous", "quantise", "imitate", "search"]


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Shares of the schedule spent before policy search; all zero means none."""

    continuous: float = 0.0
    """Share of the schedule that trains encoder and generator without codes; the codebook starts from its result."""
    quantise: float = 0.0
    """Share that trains encoder and generator as a VQ-VAE."""
    imitate: float = 0.0
    """Share that fits the autoregressive q to the nearest codes of networks at rest."""
    commitment: float = 0.25
    """Weight of the commitment loss while quantising."""
    decay: float = 0.98
    """Share of the old moving average of a code kept at each step."""
    replace_every: int = 10
    """Steps between replacements of codes that are hardly used."""

    def __post_init__(self) -> None:
        if min(self.continuous, self.quantise, self.imitate) < 0.0 or self.share >= 1.0:
            raise ValueError(
                "warm_start: continuous, quantise and imitate must be >= 0 and leave a share for the search, "
                f"got {self.continuous}, {self.quantise} and {self.imitate}"
            )
        if self.share > 0.0 and self.quantise == 0.0:
            raise ValueError("warm_start: continuous and imitate need a share of quantise, got 0")
        if not 0.0 < self.decay < 1.0 or self.replace_every < 1 or self.commitment < 0.0:
            raise ValueError(
                f"warm_start: wanted 0 < decay < 1, replace_every >= 1 and commitment >= 0, got {self.decay}, "
                f"{self.replace_every} and {self.commitment}"
            )

    @property
    def share(self) -> float:
        """Share of the schedule before policy search begins."""
        return self.continuous + self.quantise + self.imitate

    def phase(self, progress: float) -> tuple[Phase, float]:
        """Return the phase at step / schedule_steps, and the progress of the search itself in [0, 1]."""
        if progress < self.continuous:
            return "continuous", 0.0
        if progress < self.continuous + self.quantise:
            return "quantise", 0.0
        if progress < self.share:
            return "imitate", 0.0
        return "search", (progress - self.share) / (1.0 - self.share)


class MovingCodebook(codebooks.MovingCodebook):
    """Running means of the codes while quantising, with replacement of rare ones.

    Args:
        config: Decay and replacement.
        vocabulary: Number of codes.
        width: Features of a code.
    """

    def __init__(self, config: WarmStartConfig, vocabulary: int, width: int) -> None:
        replacement = codebooks.Replacement(every=config.replace_every)
        super().__init__(vocabulary, width, decay=config.decay, replacement=replacement)
        self.config = config


def quantised(
    continuous: Float[Tensor, "batch token width"],
    codebook: Float[Tensor, "code width"],
    moving: MovingCodebook,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch token width"], Float[Tensor, ""], Int[Tensor, "batch token"]]:
    """Quantise with the straight-through gradient; the caller lets the codebook follow after the update.

    Args:
        continuous: Encoder outputs.
        codebook: Codes; filled from the first batch.
        moving: Its running means.
        generator: Draws the vectors of the first codebook.

    Returns:
        Codes with the gradient of ``continuous``, the commitment loss, and the indices.
    """
    vectors = continuous.detach().flatten(0, 1)
    moving.start(codebook, vectors, generator)
    indices = nearest_code(continuous.detach(), codebook)
    codes = codebook.detach()[indices]
    commitment = moving.config.commitment * commitment_loss(continuous, codes)
    return straight_through(continuous, codes), commitment, indices
