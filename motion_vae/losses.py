"""Likelihoods, divergences and codebook losses: pure functions."""

import math
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

Reconstruction = Literal["squared_error", "likelihood"]
RECONSTRUCTIONS: tuple[Reconstruction, ...] = ("squared_error", "likelihood")


def categorical_kl_to_uniform(logits: Float[Tensor, "*shape token code"]) -> Float[Tensor, "*shape"]:
    r"""Divergence of a chain of categoricals from the uniform prior, along the path that gave the logits.

    .. math:: \sum_t \bigl[\ln V - H(q_t)\bigr]

    Args:
        logits: Unnormalised log-probabilities of every conditional.

    Returns:
        KL [nat], at least 0 and at most token * ln V.
    """
    log_q = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    entropy = -(log_q.exp() * log_q).sum(dim=-1)
    return (math.log(logits.shape[-1]) - entropy).sum(dim=-1)


def gathered_log_prob(
    logits: Float[Tensor, "*shape token code"], indices: Int[Tensor, "*shape token"]
) -> Float[Tensor, "*shape"]:
    """Log-probability of a sequence of codes under its conditionals, in float32 (or float64).

    Args:
        logits: Unnormalised log-probabilities of every conditional.
        indices: The codes.

    Returns:
        Sum over tokens [nat].
    """
    precision = torch.promote_types(logits.dtype, torch.float32)
    # cross_entropy fuses the log-softmax, the look-up and their gradients: half the time of gather and logsumexp.
    negative = functional.cross_entropy(logits.to(precision).flatten(0, -2), indices.flatten(), reduction="none")
    return -negative.view(indices.shape).sum(dim=-1)


def commitment_loss(
    continuous: Float[Tensor, "batch token feature"], quantised: Float[Tensor, "batch token feature"]
) -> Float[Tensor, ""]:
    """Mean squared distance that pulls the encoder towards its (fixed) codes.

    Args:
        continuous: Output of the encoder; receives the gradient.
        quantised: Its nearest codes; receives none.

    Returns:
        Mean over all elements.
    Source: van den Oord et al. 2017, third term of equation 3 (mean instead of sum).
    """
    return (continuous - quantised.detach()).square().mean()


def codebook_loss(
    continuous: Float[Tensor, "batch token feature"], quantised: Float[Tensor, "batch token feature"]
) -> Float[Tensor, ""]:
    """Mean squared distance that pulls the codes towards the (fixed) encoder.

    Args:
        continuous: Output of the encoder; receives no gradient.
        quantised: Its nearest codes; receive the gradient.

    Returns:
        Mean over all elements.
    Source: van den Oord et al. 2017, second term of equation 3 (mean instead of sum).
    """
    return (continuous.detach() - quantised).square().mean()


def reconstruction_loss(
    distribution: Distribution, x: Float[Tensor, "batch item feature"], form: Reconstruction
) -> Float[Tensor, ""]:
    """Reconstruction term of methods whose objective is no ELBO, per element of the data.

    Args:
        distribution: p(x|z).
        x: Data.
        form: ``squared_error`` of the mean; ``likelihood``: negative log-likelihood [nat] per element, the one that
            also trains a learned variance and fits binary data. They agree, up to a constant, at variance 1/2.

    Returns:
        Mean over all elements.
    """
    if form == "squared_error":
        return (distribution.mean - x).square().mean()
    return -distribution.log_prob(x).mean() / (x.shape[1] * x.shape[2])


def probabilities_kl_to_uniform(probabilities: Float[Tensor, "*shape code"]) -> Float[Tensor, "*shape"]:
    r"""Divergence of distributions from the uniform one: :math:`\sum_c p_c \ln(p_c V)`.

    Args:
        probabilities: Rows that sum to one; zeros are allowed.

    Returns:
        KL [nat], between 0 and ln V.
    """
    # The clamp keeps the gradient of p ln p, which is minus infinity at 0, finite.
    smallest = torch.finfo(probabilities.dtype).tiny
    log = probabilities.clamp_min(smallest).log() + math.log(probabilities.shape[-1])
    return (probabilities * log).sum(dim=-1)
