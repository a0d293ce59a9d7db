"""Gaussians with diagonal covariances as latents: pure functions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LOG_VARIANCE_RANGE = (-12.0, 12.0)
"""Bounds of what a network gives as log-variances: beyond them float32 divergences overflow or lose their gradient."""

Parameters = tuple[Float[Tensor, "*shape token latent"], Float[Tensor, "*shape token latent"]]
"""Means and log-variances."""


def gaussian_parameters(raw: Float[Tensor, "*shape token double"]) -> Parameters:
    """Split outputs of a network into means and bounded log-variances, in float32 (or float64)."""
    mean, log_variance = raw.to(torch.promote_types(raw.dtype, torch.float32)).chunk(2, dim=-1)
    return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


def standard_normal(like: Parameters) -> Parameters:
    """Mean 0 and variance 1 in the shape of other parameters."""
    return torch.zeros_like(like[0]), torch.zeros_like(like[1])


def gaussian_sample(parameters: Parameters, generator: torch.Generator) -> Float[Tensor, "*shape token latent"]:
    """Draw with a gradient for the parameters: mean + standard deviation * noise (Kingma and Welling 2014)."""
    mean, log_variance = parameters
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + torch.exp(0.5 * log_variance) * noise


def gaussian_log_density(
    value: Float[Tensor, "*shape token latent"], parameters: Parameters
) -> Float[Tensor, "*shape"]:
    """Log-density [nat], summed over tokens and their latents."""
    mean, log_variance = parameters
    squared = (value - mean).square() * torch.exp(-log_variance)
    return -0.5 * (squared + log_variance + math.log(2.0 * math.pi)).sum(dim=(-1, -2))


def gaussian_kl(posterior: Parameters, prior: Parameters) -> Float[Tensor, "*shape"]:
    r"""Divergence of one diagonal Gaussian from another, summed over tokens and their latents.

    .. math:: \frac{1}{2} \sum_i \Bigl[\frac{s_i + (\mu_i - m_i)^2}{v_i} - 1 + \ln v_i - \ln s_i\Bigr]

    Args:
        posterior: mu and ln s.
        prior: m and ln v.

    Returns:
        KL [nat].
    """
    (mean, log_variance), (prior_mean, prior_log_variance) = posterior, prior
    ratio = torch.exp(log_variance - prior_log_variance)
    squared = (mean - prior_mean).square() * torch.exp(-prior_log_variance)
    return 0.5 * (ratio + squared - 1.0 + prior_log_variance - log_variance).sum(dim=(-1, -2))
