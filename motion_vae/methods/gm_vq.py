"""GM-VQ: Gaussian-mixture vector quantisation with the aggregated categorical posterior (ALBO)."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.autoencoders import QuantisedAutoencoder
from motionlex.motion_vae.codebooks import KMeansStart
from motionlex.motion_vae.contract import LossTerms, Method, OptimisationConfig, Preset
from motionlex.motion_vae.distributed import synchronised_mean
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import exponential_schedule, gumbel_noise, gumbel_softmax
from motionlex.motion_vae.losses import (
    RECONSTRUCTIONS,
    Reconstruction,
    probabilities_kl_to_uniform,
    reconstruction_loss,
)
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.options import check_choice, check_not_negative, check_positive, check_vocabulary
from motionlex.motion_vae.quantisation import full_precision, mixed_codes, weighted_distance_logits


@dataclass(frozen=True, kw_only=True)
class GMVQConfig:
    """Gaussian-mixture vector quantisation."""

    vocabulary: int = 1024
    """Number of codes."""
    networks: NetworkConfig = field(default_factory=lambda: NetworkConfig(layers=6))
    """Sizes of the networks."""
    reconstruction: Reconstruction = "squared_error"
    """Reconstruction term: mean squared error, or negative log-likelihood [nat] per element."""
    gamma: float = 0.01
    """Weight of the regularisation (latents and codes) against the reconstruction; the paper tunes it unnamed."""
    beta: float = 1.0
    """Weight of the KL of the aggregated posterior within it; above 1 it is the paper's entropy variant."""
    mixture_variance: float = 0.5
    """sigma^2 of p(z|c), in units of the codes squared; beta = 2 sigma^2, so 1/2 belongs to beta = 1."""
    temperature_start: float = 2.0
    """Temperature of the Gumbel-softmax at the first step."""
    temperature_end: float = 0.1
    """Temperature at the end of the schedule."""
    kmeans_start: bool = True
    """Start the codebook at the cluster means of the first batch."""

    def __post_init__(self) -> None:
        check_vocabulary(self.vocabulary)
        check_choice("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        check_not_negative(gamma=self.gamma, beta=self.beta)
        check_positive(
            mixture_variance=self.mixture_variance,
            temperature_start=self.temperature_start,
            temperature_end=self.temperature_end,
        )


def assignment_variance(
    latents: Float[Tensor, "batch token width"],
    codes: Float[Tensor, "batch token width"],
    *,
    mixture_variance: float,
) -> Float[Tensor, "batch token"]:
    r"""Variance of q(z|x, c): the farther the code, the less certain the assignment.

    .. math:: \sigma_c^2(x) = \frac{\|\hat z - \mu_c\|^2 / L}{2 \sigma^2}

    Args:
        latents: Encoder outputs z_hat.
        codes: mu_c of the chosen code of each token.
        mixture_variance: sigma^2 of the generative model.

    Returns:
        One variance per token, with gradient to both.
    Source: GM-VQ, equation 18.
    """
    return (latents - codes).square().mean(dim=-1) / (2.0 * mixture_variance)


class GMVQ(QuantisedAutoencoder):
    """Gaussian-mixture vector quantisation; the most probable code without noise at evaluation."""

    def __init__(self, config: GMVQConfig, domain: Domain) -> None:
        super().__init__(domain, config.networks, config.vocabulary)
        self.config = config
        self.encoder = domain.encoder(config.networks)
        self.output = nn.Linear(config.networks.width, 2 * config.networks.width)
        self.kmeans = KMeansStart() if config.kmeans_start else None

    def latents(
        self, x: Float[Tensor, "batch item feature"]
    ) -> tuple[Float[Tensor, "batch token width"], Float[Tensor, "batch token width"]]:
        """Proxy latents z_hat and positive weights w = softplus(r_hat), in at least float32 (equation 15)."""
        latents, raw = full_precision(self.output(self.encoder(x))).chunk(2, dim=-1)
        return latents, functional.softplus(raw)

    def code_indices(self, x: Float[Tensor, "batch item feature"]) -> Int[Tensor, "batch token"]:
        """Most probable code of every token; by the weighted distance, so not always the nearest one."""
        return weighted_distance_logits(*self.latents(x), self.codebook).argmax(dim=-1)

    def code_probabilities(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token code"]:
        """q(c|x) of every token (equations 16 and 17)."""
        return torch.softmax(weighted_distance_logits(*self.latents(x), self.codebook), dim=-1)

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        r"""Negative ALBO up to constants (no bound is claimed: its proof needs E ln q(z|x) <= 0).

        .. math:: |x - D(z)|^2 + \gamma \bigl(E|z - \mu_c|^2 + \beta KL(q(c) \| \text{uniform})\bigr), \quad
                  z = c_q^T M + \sigma_c(x) \epsilon

        Decisions where the paper is silent: in the latent term, c is the hard draw that made z (an independent c from
        q(c) would pull z to the mean of all codes), and the expectation over the noise is taken exactly,
        E|z - mu_c|^2 / L = sigma_c^2, so that it acts as a commitment |z_hat - mu_c|^2 / (2 sigma^2 L). Nothing is
        stopped: the gradients of both the latent term and the noise in z reach z_hat, mu_c (the numerator of sigma_c)
        and, through the straight-through one-hot, the logits.

        Args:
            x: Data.
            generator: Source of the k-means start, the Gumbel noise and the noise of z.
            progress: step / schedule_steps; sets the temperature.

        Source: GM-VQ, equations 12 to 18.
        Departure: means over elements of x and features of z instead of sums, and q(c) is the mean over batch and
            tokens; gamma and beta absorb the constants.
        """
        config = self.config
        temperature = exponential_schedule(config.temperature_start, config.temperature_end, progress)
        latents, weights = self.latents(x)
        if self.kmeans is not None and torch.is_grad_enabled():
            self.kmeans.run(self.codebook.data, latents.detach().flatten(0, 1), generator)
        logits = weighted_distance_logits(latents, weights, self.codebook)
        one_hot = gumbel_softmax(logits, gumbel_noise(logits, generator), temperature=temperature)
        codes = mixed_codes(one_hot, self.codebook)
        variance = assignment_variance(latents, codes, mixture_variance=config.mixture_variance)
        noise = torch.randn(codes.shape, generator=generator, device=codes.device, dtype=codes.dtype)
        # The derivative of a standard deviation at exactly 0 is infinite.
        deviation = variance.clamp_min(1e-12).sqrt().unsqueeze(-1)
        distribution = self.decode_embeddings(codes + deviation * noise)
        aggregated = synchronised_mean(torch.softmax(logits, dim=-1).mean(dim=(0, 1)))
        kl = probabilities_kl_to_uniform(aggregated)
        terms = {
            "reconstruction": reconstruction_loss(distribution, x, config.reconstruction),
            "latent": config.gamma * variance.mean(),
            "aggregated_kl": config.gamma * config.beta * kl,
        }
        metrics = {
            "mean_squared_error": (distribution.mean - x).square().mean().detach(),
            "batch_perplexity": code_perplexity(one_hot.detach().argmax(dim=-1), self.vocabulary),
            "posterior_perplexity": self.vocabulary * torch.exp(-kl.detach()),
            "noise_variance": variance.mean().detach(),
            "temperature": torch.tensor(temperature),
        }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={k: v.detach() for k, v in terms.items()}, metrics=metrics)


def paper() -> Preset[GMVQConfig]:
    """Settings of the GM-VQ paper (100 epochs: 10 of warm-up, then cosine) on the networks of the LAFAN column.

    Departure: the learning rate is the column's 3e-4; the paper has 1e-2 and 1e-4 for its convolutional networks.
    """
    optimisation = OptimisationConfig(
        learning_rate=3e-4, learning_rate_end=1e-6, learning_rate_decay="cosine", warm_up=0.1
    )
    return Preset(method=GMVQConfig(), optimisation=optimisation)


def small() -> Preset[GMVQConfig]:
    """Sized for two CPU cores: at most one second per step."""
    method = GMVQConfig(vocabulary=256, networks=NetworkConfig(width=64, layers=4))
    optimisation = OptimisationConfig(
        batch=128,
        steps=3000,
        hz=50.0,
        learning_rate=1e-3,
        learning_rate_end=1e-5,
        learning_rate_decay="cosine",
        warm_up=0.1,
    )
    return Preset(method=method, optimisation=optimisation)


METHODS = (
    Method(
        name="gm_vq",
        summary="Gaussian mixture quantiser with the KL of the aggregated posterior",
        config_class=GMVQConfig,
        build=GMVQ,
        presets={"paper": paper, "small": small},
    ),
)
