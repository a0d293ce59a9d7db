"""Spatial-VAE: Gaussian latents on grids, with the networks of RRVQ-VAE (its appendix B and table 1)."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.motion_vae.contract import Codes, Method, OptimisationConfig, Preset
from motionlex.motion_vae.diagonal_gaussians import (
    Parameters,
    gaussian_kl,
    gaussian_log_density,
    gaussian_parameters,
    gaussian_sample,
    standard_normal,
)
from motionlex.motion_vae.domain import Domain
from motionlex.motion_vae.hierarchy import HierarchicalAutoencoder, HierarchyConfig
from motionlex.motion_vae.networks.ladder import LadderConfig


@dataclass(frozen=True, kw_only=True)
class SpatialVAEConfig(HierarchyConfig):
    """Gaussian latents on grids."""

    grid_tokens: tuple[int, ...] = (8,)
    """Tokens of every layer, finest first, see RRVQ; the default is a quarter of 32 frames."""
    ladder: LadderConfig = field(default_factory=lambda: LadderConfig(width=32, blocks=2))
    """Sizes of the networks."""
    latent_width: int = 16
    """Values of the latent of a token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent_width < 1:
            raise ValueError(f"latent_width must be at least 1, got {self.latent_width}")


class SpatialVAE(HierarchicalAutoencoder):
    """Continuous relative of RRVQ-VAE: a Gaussian per token where that has a categorical."""

    discrete = False
    config: SpatialVAEConfig

    def __init__(self, config: SpatialVAEConfig, domain: Domain) -> None:
        width = config.latent_width
        super().__init__(config, domain, vocabulary=0, latent=width, posterior=2 * width, prior=2 * width)

    def divergence(self, layer: int, posterior: Tensor, prior: Tensor | None) -> Float[Tensor, " batch"]:
        """KL [nat] of the Gaussians of one layer, in closed form."""
        return gaussian_kl(*_both(posterior, prior))

    def relaxed(
        self, layer: int, posterior: Tensor, prior: Tensor | None, generator: torch.Generator, *, progress: float
    ) -> tuple[Float[Tensor, "batch token latent"], Float[Tensor, " batch"]]:
        """Draw by reparameterisation."""
        q, p = _both(posterior, prior)
        return gaussian_sample(q, generator), gaussian_kl(q, p)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> Codes:
        """Draw latents layer by layer, each given those above it."""
        latents, log_prob, log_prior = [], [], []

        def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
            assert posterior is not None
            q, p = _both(posterior, prior)
            latents.append(gaussian_sample(q, generator))
            log_prob.append(gaussian_log_density(latents[-1], q))
            log_prior.append(gaussian_log_density(latents[-1], p))
            return latents[-1]

        self.walk(self.ladder.bottom_up(x), len(x), choose)
        return Codes(
            indices=None,
            embeddings=torch.cat(latents, dim=1),
            log_prob=torch.stack(log_prob).sum(dim=0),
            log_prior=torch.stack(log_prior).sum(dim=0),
        )

    def embed(self, indices: Int[Tensor, "*batch token"]) -> Float[Tensor, "*batch token latent"]:
        """Refuse: there are no codes.

        Raises:
            TypeError: Always.
        """
        raise TypeError("spatial_vae has continuous latents and no codes to look up")

    def kl_to_prior(self, x: Float[Tensor, "batch item feature"], codes: Codes) -> Float[Tensor, " batch"]:
        """KL [nat] of every layer in closed form, given the latents above it."""
        parts = self.by_layer(codes.embeddings)
        divergences = []

        def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
            assert posterior is not None
            divergences.append(self.divergence(layer, posterior, prior))
            return parts[layer]

        self.walk(self.ladder.bottom_up(x), len(x), choose)
        return torch.stack(divergences).sum(dim=0)

    @torch.no_grad()
    def sample_prior(self, count: int, generator: torch.Generator) -> Codes:
        """Draw latents from p by one pass down the ladder (ancestral sampling)."""
        weight = next(self.parameters())
        latents, log_prior = [], []

        def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
            if prior is None:
                prior = weight.new_zeros(count, self.config.grid_tokens[layer], 2 * self.config.latent_width)
            p = gaussian_parameters(prior)
            latents.append(gaussian_sample(p, generator))
            log_prior.append(gaussian_log_density(latents[-1], p))
            return latents[-1]

        self.ancestors(count, choose)
        return Codes(indices=None, embeddings=torch.cat(latents, dim=1), log_prior=torch.stack(log_prior).sum(dim=0))


def _both(posterior: Tensor, prior: Tensor | None) -> tuple[Parameters, Parameters]:
    """Parameters of q and p; the fixed p of the top is a standard normal."""
    q = gaussian_parameters(posterior)
    return q, standard_normal(q) if prior is None else gaussian_parameters(prior)


def paper() -> Preset[SpatialVAEConfig]:
    """Appendix B carried over to motion: a quarter as many tokens as frames, 2 residual blocks of 32 channels."""
    method = SpatialVAEConfig(beta_start=2.0, beta_end=0.01)
    optimisation = OptimisationConfig(
        batch=64, optimiser="adamax", learning_rate=8e-4, weight_decay=0.0, adaptive_clipping=None
    )
    return Preset(method=method, optimisation=optimisation)


def small() -> Preset[SpatialVAEConfig]:
    """Sized for two CPU cores: at most one second per step; as many tokens as the discrete methods have on motion."""
    method = SpatialVAEConfig(grid_tokens=(64,), ladder=LadderConfig(width=64, blocks=2), beta_start=0.1, beta_end=0.01)
    optimisation = OptimisationConfig(
        batch=64,
        steps=5500,
        hz=50.0,
        optimiser="adam",
        learning_rate=5e-3,
        learning_rate_end=1e-4,
        weight_decay=0.0,
    )
    return Preset(method=method, optimisation=optimisation)


METHODS = (
    Method(
        name="spatial_vae",
        summary="Gaussian latents on grids, one layer or a hierarchy (continuous)",
        config_class=SpatialVAEConfig,
        build=SpatialVAE,
        presets={"paper": paper, "small": small},
    ),
)
