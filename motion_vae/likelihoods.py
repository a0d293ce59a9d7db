"""Distributions over data given the outputs of a generative network, and the heads that make them.

A head turns raw network outputs (..., item, channel) into a distribution whose ``log_prob`` sums over items and
features and whose leading axes broadcast against the data, so that K reconstructions of one x are scored at once.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal, constraints

Family = Literal["gaussian", "learned_gaussian", "predicted_gaussian", "bernoulli", "discretised_logistic"]
FAMILIES: tuple[Family, ...] = (
    "gaussian",
    "learned_gaussian",
    "predicted_gaussian",
    "bernoulli",
    "discretised_logistic",
)


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    """Which distribution the generative network parameterises."""

    family: Family = "gaussian"
    """gaussian: fixed variance; learned_gaussian: one learned variance per feature; predicted_gaussian: a variance per
    item and feature from the network; bernoulli; discretised_logistic: 256 levels in [0, 1], one learned scale."""
    variance: float = 0.25
    """Variance of the Gaussian (fixed, or at the start), in the data's units squared."""
    smallest_variance: float = 0.01
    """Lower bound of a learned or predicted variance."""
    largest_variance: float = 1.0
    """Upper bound of a learned or predicted variance."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}")
        if not 0.0 < self.smallest_variance < self.largest_variance:
            raise ValueError(
                f"wanted 0 < smallest_variance < largest_variance, got {self.smallest_variance} and "
                f"{self.largest_variance}"
            )
        if not 0.0 < self.variance < math.inf:
            raise ValueError(f"variance must be positive and finite, got {self.variance}")


class LikelihoodHead(nn.Module):
    """Raw outputs of the generative network -> distribution over data.

    Args:
        config: Family and variances.
        features: Features of an item of the data.
    """

    def __init__(self, config: LikelihoodConfig, features: int) -> None:
        super().__init__()
        self.config, self.features = config, features
        if config.family == "learned_gaussian":
            start = min(max(config.variance, config.smallest_variance), config.largest_variance)
            self.log_variance = nn.Parameter(torch.full((features,), math.log(start)))
        if config.family == "discretised_logistic":
            self.log_scale = nn.Parameter(torch.tensor(math.log(0.1)))

    @property
    def channels(self) -> int:
        """Raw outputs that the network must give per item."""
        return self.features * (2 if self.config.family == "predicted_gaussian" else 1)

    def forward(self, raw: Float[Tensor, "*shape item channel"]) -> Distribution:
        """Build the distribution in float32 (or float64), whatever the precision of the network."""
        config = self.config
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        if config.family == "bernoulli":
            return Independent(Bernoulli(logits=raw, validate_args=False), 2, validate_args=False)
        if config.family == "discretised_logistic":
            return Independent(DiscretisedLogistic(raw, self.log_scale), 2, validate_args=False)
        if config.family == "predicted_gaussian":
            raw, log_variance = raw.chunk(2, dim=-1)
            scale = _bounded_variance(log_variance, config).sqrt()
        elif config.family == "learned_gaussian":
            scale = _bounded_variance(self.log_variance, config).sqrt()
        else:
            scale = config.variance**0.5
        return Independent(Normal(raw, scale, validate_args=False), 2, validate_args=False)


def _bounded_variance(log_variance: Float[Tensor, "*shape"], config: LikelihoodConfig) -> Float[Tensor, "*shape"]:
    """Clip a variance to its bounds (DAPS: learned variance in [0.01, 1])."""
    return log_variance.clamp(math.log(config.smallest_variance), math.log(config.largest_variance)).exp()


def bits_per_dimension(log_prob: Float[Tensor, "*shape"], values: int) -> Float[Tensor, "*shape"]:
    r"""Turn a log-probability, or a bound of it, of discrete data into the usual unit of image models.

    .. math:: -\frac{\ln p(x)}{D \ln 2}

    Args:
        log_prob: ln p(x) [nat] of whole examples.
        values: D, values of an example (pixels times colours).

    Returns:
        Bits per value; 8 for uniform bytes.
    """
    return -log_prob / (values * math.log(2.0))


class DiscretisedLogistic(Distribution):
    r"""Logistic distribution integrated over the bins of ``levels`` equally spaced values in [0, 1].

    .. math:: p(x) = \sigma\Bigl(\frac{x + h - \mu}{s}\Bigr) - \sigma\Bigl(\frac{x - h - \mu}{s}\Bigr), \quad
              h = \frac{1}{2 (levels - 1)}

    where the lowest and highest bins reach to minus and plus infinity, so that the probabilities sum to one.

    Args:
        mean: mu, any shape.
        log_scale: ln s, broadcast against ``mean``.
        levels: Number of values.
    Source: Kingma et al. 2016 (IAF), appendix; edge bins as in Salimans et al. 2017.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.unit_interval

    def __init__(self, mean: Float[Tensor, "*shape"], log_scale: Tensor, levels: int = 256) -> None:
        self.location, self.log_scale, self.levels = mean, log_scale, levels
        super().__init__(mean.shape, validate_args=False)

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        """Location of the logistic distribution, which is what is shown as the reconstruction."""
        return self.location

    def log_prob(self, value: Float[Tensor, "*#value"]) -> Float[Tensor, "*shape"]:
        """Log-probability [nat] of the bin of each value."""
        half, inverse = 0.5 / (self.levels - 1), torch.exp(-self.log_scale)
        upper = (value + half - self.location) * inverse
        lower = (value - half - self.location) * inverse
        # log(sigma(u) - sigma(l)) = -softplus(-u) - softplus(l) + log(1 - exp(l - u)): no cancellation in the tails.
        width = 2.0 * half * inverse
        inside = -functional.softplus(-upper) - functional.softplus(lower) + torch.log(-torch.expm1(-width))
        log_prob = torch.where(value < half, functional.logsigmoid(upper), inside)
        return torch.where(value > 1.0 - half, -functional.softplus(lower), log_prob)
