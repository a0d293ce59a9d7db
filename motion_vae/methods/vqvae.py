"""VQ-VAE: nearest-code quantisation with a straight-through gradient (van den Oord et al. 2017)."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Independent

from motionlex.motion_vae.contract import (
    Codes,
    DiscreteAutoencoder,
    LossTerms,
    Method,
    OptimisationConfig,
    ParameterGroup,
    Preset,
    fixed_variance_normal,
)
from motionlex.motion_vae.estimators import moving_code_sums, nearest_code, straight_through
from motionlex.motion_vae.losses import codebook_loss, commitment_loss
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.networks.trajectory import (
    SegmentShape,
    TrajectoryConfig,
    TrajectoryDecoder,
    TrajectoryEncoder,
)
from motionlex.motion_vae.networks.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig:
    """Vector-quantised autoencoder."""

    networks: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    """Vocabulary and transformers."""
    encoder_layers: int = 6
    """Encoder blocks: more than DAPS, whose decoder half of q(z|x) is missing here (same parameter budget)."""
    commitment: float = 0.5
    """Weight of the commitment loss."""
    codebook_update: Literal["gradient", "ema"] = "ema"
    """Train the codebook by its loss, or as a moving average of the vectors assigned to each code."""
    ema_decay: float = 0.99
    """Share of the old average kept at each step."""
    variance: float = 0.25
    """Variance of the Gaussian that turns squared errors into the reported log-likelihood."""

    def __post_init__(self) -> None:
        if self.encoder_layers < 1:
            raise ValueError(f"encoder_layers must be at least 1, got {self.encoder_layers}")
        if not self.commitment >= 0.0 or not self.variance > 0.0:
            raise ValueError(f"commitment must be >= 0 and variance > 0, got {self.commitment} and {self.variance}")
        if self.codebook_update not in ("gradient", "ema"):
            raise ValueError(f"codebook_update must be 'gradient' or 'ema', got {self.codebook_update!r}")
        if not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in (0, 1), got {self.ema_decay}")


class VQVAE(DiscreteAutoencoder):
    """Vector-quantised autoencoder with a deterministic encoder."""

    def __init__(self, config: VQVAEConfig, shape: SegmentShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.vocabulary, self.tokens = config.networks.vocabulary, shape.tokens
        transformer = config.networks.transformer
        self.encoder = TrajectoryEncoder(shape, replace(transformer, layers=config.encoder_layers))
        self.embedding = nn.Embedding(self.vocabulary, transformer.width)
        self.decoder = TrajectoryDecoder(shape, transformer)
        if config.codebook_update == "ema":
            self.embedding.weight.requires_grad_(False)
            self.register_buffer("ema_count", torch.ones(self.vocabulary))
            self.register_buffer("ema_sum", self.embedding.weight.detach().clone())
        self._assigned: tuple[Tensor, Tensor] | None = None

    def encode(self, x: Float[Tensor, "batch frame feature"], generator: torch.Generator) -> Codes:
        """Find the nearest code of every token; ``generator`` is not used."""
        indices = nearest_code(self.encoder(x), self.codebook)
        return Codes(indices=indices, log_prob=None, embeddings=self.embed(indices))

    def decode(self, indices: Int[Tensor, "batch token"]) -> Independent:
        """Gaussian of fixed variance around the decoded mean."""
        return fixed_variance_normal(self.decoder(self.embed(indices)), self.config.variance)

    def embed(self, indices: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token feature"]:
        """Look codes up in the codebook."""
        return self.embedding(indices)

    @property
    def codebook(self) -> Float[Tensor, "code feature"]:
        """One vector per code."""
        return self.embedding.weight

    @property
    def final_beta(self) -> float | None:
        """None: the objective is not an ELBO."""
        return None

    def kl_to_prior(
        self, x: Float[Tensor, "batch frame feature"], indices: Int[Tensor, "batch token"]
    ) -> Float[Tensor, " batch"]:
        """Token * ln V [nat]: a deterministic code carries all its bits."""
        return torch.full((x.shape[0],), indices.shape[1] * math.log(self.vocabulary), device=x.device)

    def loss(
        self, x: Float[Tensor, "batch frame feature"], generator: torch.Generator, *, progress: float
    ) -> LossTerms:
        """Mean squared error + commitment (+ codebook loss, unless the codebook is a moving average).

        Source: van den Oord et al. 2017, equation 3; means over elements instead of sums.
        """
        continuous = self.encoder(x)
        indices = nearest_code(continuous.detach(), self.codebook)
        quantised = self.embedding(indices)
        error = (self.decoder(straight_through(continuous, quantised)) - x).square().mean()
        terms = {"reconstruction": error, "commitment": self.config.commitment * commitment_loss(continuous, quantised)}
        if self.config.codebook_update == "gradient":
            terms["codebook"] = codebook_loss(continuous, quantised)
        else:
            self._assigned = (continuous.detach().flatten(0, 1), indices.flatten())
        metrics = {
            "mean_squared_error": error.detach(),
            "batch_perplexity": code_perplexity(indices, self.vocabulary),
        }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={k: v.detach() for k, v in terms.items()}, metrics=metrics)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """One group; a moving-average codebook has no gradient and is in none."""
        return (ParameterGroup(name="networks", parameters=[p for p in self.parameters() if p.requires_grad]),)

    def after_update(self) -> None:
        """Move the codebook towards the vectors of the last batch (van den Oord et al. 2017, appendix A.1)."""
        if self._assigned is None:
            return
        vectors, indices = self._assigned
        self._assigned = None
        with torch.no_grad():
            self.ema_count, self.ema_sum = moving_code_sums(
                self.ema_count, self.ema_sum, vectors, indices, decay=self.config.ema_decay
            )
            smallest = 1e-5
            self.embedding.weight.copy_(self.ema_sum / self.ema_count.clamp_min(smallest).unsqueeze(-1))


def paper() -> Preset[VQVAEConfig]:
    """LAFAN column of the paper: 64 tokens of 1024 codes, commitment 0.5, 100 Hz."""
    return Preset(method=VQVAEConfig(codebook_update="gradient"), optimisation=OptimisationConfig())


def small() -> Preset[VQVAEConfig]:
    """Sized for two CPU cores: at most one second per step."""
    transformer = TransformerConfig(width=64, heads=4, layers=2, mlp_ratio=4)
    method = VQVAEConfig(networks=TrajectoryConfig(vocabulary=256, transformer=transformer), encoder_layers=4)
    return Preset(method=method, optimisation=OptimisationConfig(batch=128, steps=3000, hz=50.0, learning_rate=1e-3))


METHODS = (
    Method(
        name="vqvae",
        summary="nearest code, straight-through gradient",
        config_class=VQVAEConfig,
        build=VQVAE,
        presets={"paper": paper, "small": small},
    ),
)
