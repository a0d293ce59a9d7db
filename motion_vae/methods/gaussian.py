"""Gaussian VAE with the transformers of the discrete methods: what continuous latents reach (DAPS, section 5)."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from motionlex.motion_vae.contract import (
    Codes,
    DiscreteAutoencoder,
    LossTerms,
    Method,
    OptimisationConfig,
    ParameterGroup,
    Preset,
)
from motionlex.motion_vae.diagonal_gaussians import (
    Parameters,
    gaussian_kl,
    gaussian_log_density,
    gaussian_parameters,
    gaussian_sample,
    standard_normal,
)
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import exponential_schedule
from motionlex.motion_vae.options import check_positive


@dataclass(frozen=True, kw_only=True)
class GaussianConfig:
    """Variational autoencoder with Gaussian latents."""

    networks: NetworkConfig = field(default_factory=lambda: NetworkConfig(layers=6))
    """Sizes of the networks."""
    latent_width: int = 8
    """Values of the latent of a token."""
    beta_start: float = 2.0
    """Weight of the KL at the first step."""
    beta_end: float = 0.01
    """Weight of the KL at the end of the schedule, and in the reported beta-ELBO."""

    def __post_init__(self) -> None:
        check_positive(beta_start=self.beta_start, beta_end=self.beta_end)
        if self.latent_width < 1:
            raise ValueError(f"latent_width must be at least 1, got {self.latent_width}")


class GaussianVAE(DiscreteAutoencoder):
    """q(z|x) and p(z) are Gaussians with diagonal covariances, p(z) the standard normal."""

    discrete = False

    def __init__(self, config: GaussianConfig, domain: Domain) -> None:
        super().__init__()
        self.config, self.domain, self.vocabulary, self.tokens = config, domain, 0, domain.tokens
        self.encoder = domain.encoder(config.networks)
        self.to_latent = nn.Linear(config.networks.width, 2 * config.latent_width)
        self.from_latent = nn.Linear(config.latent_width, config.networks.width)
        self.decoder = domain.decoder(config.networks)

    def posterior(self, x: Float[Tensor, "batch item feature"]) -> Parameters:
        """Means and log-variances (batch, token, latent) of q(z|x)."""
        return gaussian_parameters(self.to_latent(self.encoder(x)))

    def encode(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> Codes:
        """Draw one latent per token."""
        q = self.posterior(x)
        latents = gaussian_sample(q, generator)
        log_prior = gaussian_log_density(latents, standard_normal(q))
        return Codes(indices=None, embeddings=latents, log_prob=gaussian_log_density(latents, q), log_prior=log_prior)

    def decode_embeddings(self, embeddings: Float[Tensor, "*batch token latent"]) -> Distribution:
        """p(x|z) from latents."""
        return self.decoder(self.from_latent(embeddings))

    def embed(self, indices: Int[Tensor, "*batch token"]) -> Float[Tensor, "*batch token latent"]:
        """Refuse: there are no codes.

        Raises:
            TypeError: Always.
        """
        raise TypeError("gaussian has continuous latents and no codes to look up")

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        r"""Negative beta-ELBO of one draw per example, :math:`-\ln p(x|z) + \beta KL(q(z|x) \| N(0, I))`.

        Args:
            x: Data.
            generator: Source of the draws.
            progress: step / schedule_steps; sets beta.

        Returns:
            Reconstruction and weighted KL, with diagnostics.
        Source: Kingma and Welling 2014, equation 7; the weight of the KL is that of DAPS, equation 1.
        """
        beta = exponential_schedule(self.config.beta_start, self.config.beta_end, progress)
        q = self.posterior(x)
        reconstruction = self.decode_embeddings(gaussian_sample(q, generator))
        log_p = reconstruction.log_prob(x).mean()
        kl = gaussian_kl(q, standard_normal(q)).mean()
        terms = {"negative_log_p_nats": -log_p, "weighted_kl_nats": beta * kl}
        metrics = {
            "mean_squared_error": (reconstruction.mean - x).detach().square().mean(),
            "log_p_nats": log_p.detach(),
            "kl_nats": kl.detach(),
            "beta": torch.tensor(beta),
        }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={name: term.detach() for name, term in terms.items()}, metrics=metrics)

    def kl_to_prior(self, x: Float[Tensor, "batch item feature"], codes: Codes) -> Float[Tensor, " batch"]:
        """KL [nat] in closed form; it does not depend on the draw."""
        q = self.posterior(x)
        return gaussian_kl(q, standard_normal(q))

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """One group of everything."""
        return (ParameterGroup(name="networks", parameters=list(self.parameters())),)

    @property
    def final_beta(self) -> float | None:
        """Weight of the KL at the end of the schedule."""
        return self.config.beta_end


def paper() -> Preset[GaussianConfig]:
    """LAFAN's networks of the factorised methods with one value per token.

    The paper has this baseline on images only, with the capacity of the codes (as many bits, stored as floats); on
    motion that would be 20 values for 64 tokens.
    """
    return Preset(method=GaussianConfig(latent_width=1), optimisation=OptimisationConfig())


def small() -> Preset[GaussianConfig]:
    """Sized for two CPU cores: at most one second per step."""
    method = GaussianConfig(networks=NetworkConfig(width=64, layers=4), beta_start=0.1)
    optimisation = OptimisationConfig(batch=64, steps=5500, hz=50.0, learning_rate=1e-3, learning_rate_end=5e-5)
    return Preset(method=method, optimisation=optimisation)


METHODS = (
    Method(
        name="gaussian",
        summary="Gaussian latents with the transformers of the discrete methods (continuous)",
        config_class=GaussianConfig,
        build=GaussianVAE,
        presets={"paper": paper, "small": small},
    ),
)
