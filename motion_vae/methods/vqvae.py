"""VQ-VAE: nearest-code quantisation with a straight-through gradient (van den Oord et al. 2017)."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.autoencoders import CodebookAutoencoder
from motionlex.motion_vae.contract import Codes, LossTerms, Method, OptimisationConfig, Preset
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import moving_code_sums, nearest_code, straight_through
from motionlex.motion_vae.losses import codebook_loss, commitment_loss
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.options import check_choice, check_vocabulary


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig:
    """Vector-quantised autoencoder."""

    vocabulary: int = 1024
    """Number of codes."""
    networks: NetworkConfig = field(default_factory=lambda: NetworkConfig(layers=6))
    """Sizes of the networks."""
    commitment: float = 0.5
    """Weight of the commitment loss."""
    codebook_update: Literal["gradient", "ema"] = "ema"
    """Train the codebook by its loss, or as a moving average of the vectors assigned to each code."""
    ema_decay: float = 0.99
    """Share of the old average kept at each step."""

    def __post_init__(self) -> None:
        check_vocabulary(self.vocabulary)
        if not self.commitment >= 0.0:
            raise ValueError(f"commitment must be >= 0, got {self.commitment}")
        check_choice("codebook_update", self.codebook_update, ("gradient", "ema"))
        if not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in (0, 1), got {self.ema_decay}")


class VQVAE(CodebookAutoencoder):
    """Vector-quantised autoencoder with a deterministic encoder."""

    def __init__(self, config: VQVAEConfig, domain: Domain) -> None:
        super().__init__(domain, config.networks, config.vocabulary)
        self.config = config
        self.encoder = domain.encoder(config.networks)
        if config.codebook_update == "ema":
            self.codebook.requires_grad_(False)
            self.register_buffer("ema_count", torch.ones(self.vocabulary))
            self.register_buffer("ema_sum", self.codebook.detach().clone())
        self._assigned: tuple[Tensor, Tensor] | None = None

    def encode(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> Codes:
        """Find the nearest code of every token; ``generator`` is not used."""
        indices = nearest_code(self.encoder(x), self.codebook)
        return Codes(indices=indices, embeddings=self.embed(indices))

    @property
    def final_beta(self) -> float | None:
        """None: the objective is not an ELBO."""
        return None

    def kl_to_prior(self, x: Float[Tensor, "batch item feature"], codes: Codes) -> Float[Tensor, " batch"]:
        """Token * ln V [nat]: a deterministic code carries all its bits."""
        return self.deterministic_kl(x)

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        """Mean squared error + commitment (+ codebook loss, unless the codebook is a moving average).

        Source: van den Oord et al. 2017, equation 3; means over elements instead of sums.
        """
        continuous = self.encoder(x)
        indices = nearest_code(continuous.detach(), self.codebook)
        quantised = self.embed(indices)
        reconstruction = self.decode_embeddings(straight_through(continuous, quantised)).mean
        error = (reconstruction - x).square().mean()
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
            self.codebook.copy_(self.ema_sum / self.ema_count.clamp_min(smallest).unsqueeze(-1))


def paper() -> Preset[VQVAEConfig]:
    """LAFAN column of the paper: 64 tokens of 1024 codes, commitment 0.5, 100 Hz."""
    return Preset(method=VQVAEConfig(codebook_update="gradient"), optimisation=OptimisationConfig())


def small() -> Preset[VQVAEConfig]:
    """Sized for two CPU cores: at most one second per step."""
    method = VQVAEConfig(vocabulary=256, networks=NetworkConfig(width=64, layers=4))
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
