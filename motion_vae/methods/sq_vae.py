"""SQ-VAE: stochastic quantisation that anneals itself by a learnt variance (Takida et al. 2022, Gaussian, type I)."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.autoencoders import QuantisedAutoencoder
from motionlex.motion_vae.codebooks import KMeansStart
from motionlex.motion_vae.contract import LossTerms, Method, OptimisationConfig, ParameterGroup, Preset
from motionlex.motion_vae.distributed import synchronised_mean
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import exponential_schedule, gumbel_noise, gumbel_softmax
from motionlex.motion_vae.losses import categorical_kl_to_uniform
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.options import check_choice, check_positive, check_vocabulary
from motionlex.motion_vae.quantisation import full_precision, mixed_codes, weighted_distance_logits

LOG_VARIANCE_RANGE = (math.log(1e-3), math.log(1e4))
"""Bounds of log sigma^2: below, float32 rounding of squared distances would decide between neighbouring codes."""


@dataclass(frozen=True, kw_only=True)
class SQVAEConfig:
    """Gaussian SQ-VAE."""

    vocabulary: int = 1024
    """Number of codes."""
    networks: NetworkConfig = field(default_factory=lambda: NetworkConfig(layers=6))
    """Sizes of the networks."""
    likelihood_form: Literal["optimal_variance", "likelihood"] = "optimal_variance"
    """optimal_variance: Gaussian whose variance is the batch's mean squared error, i.e. D/2 log of the error, as the
    paper; likelihood: the domain's own, e.g. of fixed variance."""
    variance_start: float = 20.0
    """sigma^2 of the (de)quantisation at the first step, in units of the codes squared."""
    dequantisation_noise: bool = False
    """Quantise z = encoder output + sigma * noise, as derived; false quantises the output itself, as the authors'
    code does: for a long time the noise decides over the code, and learning waits."""
    temperature_start: float = 1.0
    """Temperature of the Gumbel-softmax at the first step."""
    temperature_end: float = 0.1
    """Temperature at the end of the schedule."""
    straight_through: bool = False
    """Decode the one-hot draw with the gradient of the softmax; false decodes the softmax itself, as the paper."""
    kmeans_start: bool = False
    """Start the codebook at the cluster means of the first batch."""

    def __post_init__(self) -> None:
        check_vocabulary(self.vocabulary)
        check_choice("likelihood_form", self.likelihood_form, ("optimal_variance", "likelihood"))
        check_positive(
            variance_start=self.variance_start,
            temperature_start=self.temperature_start,
            temperature_end=self.temperature_end,
        )


def optimal_variance_nll(mean_squared_error: Float[Tensor, ""], elements: int) -> Float[Tensor, ""]:
    r"""Negative log-likelihood [nat] of an example under a Gaussian whose variance is the mean squared error.

    .. math:: \frac{D}{2} \bigl(\ln(2 \pi e) + \ln \mathrm{MSE}\bigr) = \min_{\sigma^2} -\ln p(x; \sigma^2)

    Args:
        mean_squared_error: Mean over elements and examples.
        elements: D, elements of an example.

    Returns:
        Mean over examples.
    Source: Takida et al. 2022, section 4 (the constant, which they leave out, makes it a likelihood).
    """
    return 0.5 * elements * (math.log(2.0 * math.pi * math.e) + mean_squared_error.log())


def dequantisation_cost(
    z: Float[Tensor, "batch token width"],
    mean: Float[Tensor, "batch token width"],
    quantised: Float[Tensor, "batch token width"],
    variance: Float[Tensor, ""],
) -> Float[Tensor, " batch"]:
    r"""Log-ratio [nat] of the encoder's law of z to that of its code: what the continuous z costs in the ELBO.

    .. math:: \ln \frac{\mathcal{N}(z; \hat z, \sigma^2 I)}{\mathcal{N}(z; z_q, \sigma^2 I)}
              = \frac{\|z - z_q\|^2 - \|z - \hat z\|^2}{2 \sigma^2}

    Args:
        z: What was quantised.
        mean: Encoder output, the mean of z.
        quantised: Its code.
        variance: sigma^2.

    Returns:
        Sum over tokens and features.
    Source: Takida et al. 2022, Gaussian SQ-VAE; without noise (z = mean) it is their |z - z_q|^2 / (2 sigma^2).
    """
    return ((z - quantised).square() - (z - mean).square()).sum(dim=(1, 2)) / (2.0 * variance)


class SQVAE(QuantisedAutoencoder):
    """Gaussian SQ-VAE; the nearest code at evaluation."""

    def __init__(self, config: SQVAEConfig, domain: Domain) -> None:
        super().__init__(domain, config.networks, config.vocabulary)
        self.config = config
        self.encoder = domain.encoder(config.networks)
        self.log_variance = nn.Parameter(torch.tensor(math.log(config.variance_start)))
        self.kmeans = KMeansStart() if config.kmeans_start else None

    def logits(self, z: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token code"]:
        """Unnormalised log-probability of codes given z: minus squared distance over 2 sigma^2."""
        precision = torch.exp(-self.log_variance).expand_as(z)
        return weighted_distance_logits(z, precision, self.codebook)

    def code_indices(self, x: Float[Tensor, "batch item feature"]) -> Int[Tensor, "batch token"]:
        """Most probable code of every token given the encoder's output, i.e. the nearest one."""
        return self.logits(full_precision(self.encoder(x))).argmax(dim=-1)

    def code_probabilities(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token code"]:
        """P(z_q|z) of every token at the encoder's output, z without noise."""
        return torch.softmax(self.logits(full_precision(self.encoder(x))), dim=-1)

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        r"""Negative ELBO [nat] per example, with a relaxed draw of the code.

        .. math:: -\ln p(x|z_q) + \ln\frac{q(z|x)}{p(z|z_q)} + T \ln V - \sum_t H(P(z_q|z))

        Args:
            x: Data.
            generator: Source of the noise of z and of the Gumbel noise.
            progress: step / schedule_steps; sets the temperature.

        Returns:
            Reconstruction, cost of the continuous z, and KL of the code (ln V minus its entropy).
        Source: Takida et al. 2022, the ELBO of section 3 and Gaussian SQ-VAE of section 4; types II to IV (variances
            from the encoder) are not offered.
        Departure: exponential annealing over the schedule, theirs is exp(-1e-5 step); constants are kept.
        """
        config = self.config
        temperature = exponential_schedule(config.temperature_start, config.temperature_end, progress)
        mean = full_precision(self.encoder(x))
        if self.kmeans is not None and torch.is_grad_enabled():
            self.kmeans.run(self.codebook.data, mean.detach().flatten(0, 1), generator)
        z = mean
        if config.dequantisation_noise:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
            z = mean + (0.5 * self.log_variance).exp() * noise
        logits = self.logits(z)
        weights = gumbel_softmax(
            logits, gumbel_noise(logits, generator), temperature=temperature, hard=config.straight_through
        )
        quantised = mixed_codes(weights, self.codebook)
        distribution = self.decode_embeddings(quantised)
        error = (distribution.mean - x).square().mean()
        if config.likelihood_form == "optimal_variance":
            reconstruction = optimal_variance_nll(synchronised_mean(error), x.shape[1] * x.shape[2])
        else:
            reconstruction = -distribution.log_prob(x).mean()
        terms = {
            "negative_log_p_nats": reconstruction,
            "continuous_kl_nats": dequantisation_cost(z, mean, quantised, self.log_variance.exp()).mean(),
            "discrete_kl_nats": categorical_kl_to_uniform(logits).mean(),
        }
        metrics = {
            "mean_squared_error": error.detach(),
            "batch_perplexity": code_perplexity(weights.detach().argmax(dim=-1), self.vocabulary),
            "quantisation_variance": self.log_variance.detach().exp(),
            "temperature": torch.tensor(temperature),
        }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={k: v.detach() for k, v in terms.items()}, metrics=metrics)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Networks and codes; the variance without decay and clipping."""
        networks = [parameter for parameter in self.parameters() if parameter is not self.log_variance]
        variance = ParameterGroup(
            name="variance", parameters=(self.log_variance,), weight_decay=0.0, adaptive_clipping=False
        )
        return ParameterGroup(name="networks", parameters=networks), variance

    def after_update(self) -> None:
        """Keep the variance within its bounds."""
        with torch.no_grad():
            self.log_variance.clamp_(*LOG_VARIANCE_RANGE)


def paper() -> Preset[SQVAEConfig]:
    """Initial variance and temperature of the authors on the networks of the LAFAN column."""
    return Preset(method=SQVAEConfig(), optimisation=OptimisationConfig(learning_rate=1e-3))


def small() -> Preset[SQVAEConfig]:
    """Sized for two CPU cores: at most one second per step.

    The variance starts at that of the encoder's outputs and the codes among them: from 20 and random codes the
    posterior is uniform for longer than such a run lasts.
    """
    networks = NetworkConfig(width=64, layers=4)
    method = SQVAEConfig(vocabulary=256, networks=networks, variance_start=1.0, kmeans_start=True)
    return Preset(method=method, optimisation=OptimisationConfig(batch=128, steps=3000, hz=50.0, learning_rate=1e-3))


METHODS = (
    Method(
        name="sq_vae",
        summary="stochastic quantisation with a learnt variance",
        config_class=SQVAEConfig,
        build=SQVAE,
        presets={"paper": paper, "small": small},
    ),
)
