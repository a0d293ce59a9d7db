"""Categorical distributions given by the responsibilities of a Gaussian mixture: pure functions."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.precision import exact_products


def responsibility_logits(
    embeddings: Float[Tensor, "*shape width"],
    means: Float[Tensor, "code width"],
    log_variances: Float[Tensor, "code width"] | None = None,
) -> Float[Tensor, "*shape code"]:
    r"""Unnormalised log-responsibilities of the codes for an embedding.

    .. math:: \ell_k = -\frac{1}{2} \sum_i \Bigl[\frac{(e_i - \mu_{ki})^2}{s_{ki}} + \ln s_{ki}\Bigr]

    Their softmax is the posterior of the component of a mixture of equally probable Gaussians that gave e.

    Args:
        embeddings: e, from a network.
        means: mu, one row per code.
        log_variances: ln s of the diagonal covariances; None is a variance of one everywhere, as in rVQ-VAE.

    Returns:
        Logits in float32 (or float64), whatever the precision of the body.
    Source: RRVQ, equations 2, 6 and 7.
    Departure: the printed normaliser, sqrt((2 pi)^d E), is that of a scalar E while the text has diagonal covariances;
    this is the density of a Gaussian with a diagonal covariance, without the common factor (2 pi)^(-d/2).
    """
    precision = torch.promote_types(torch.promote_types(embeddings.dtype, means.dtype), torch.float32)
    with exact_products(embeddings.device):
        means = means.to(precision)
        # (e - mu)^2 is expanded into matrix products; the common shift keeps their terms, and so their rounding, small.
        centre = means.detach().mean(dim=0)
        embeddings, means = embeddings.to(precision) - centre, means - centre
        if log_variances is None:
            constant = -0.5 * means.square().sum(dim=-1)
            return embeddings @ means.T + constant - 0.5 * embeddings.square().sum(dim=-1, keepdim=True)
        log_variances = log_variances.to(precision)
        inverse = torch.exp(-log_variances)
        constant = -0.5 * (means.square() * inverse + log_variances).sum(dim=-1)
        return embeddings @ (means * inverse).T - 0.5 * embeddings.square() @ inverse.T + constant


def categorical_kl(
    posterior: Float[Tensor, "*shape token code"], prior: Float[Tensor, "*shape token code"] | None
) -> Float[Tensor, "*shape"]:
    r"""Divergence of independent categoricals from others, in closed form.

    .. math:: \sum_t \sum_k q_{tk} (\ln q_{tk} - \ln p_{tk})

    Args:
        posterior: Logits of q.
        prior: Logits of p; None is the uniform distribution.

    Returns:
        KL [nat] in float32 (or float64), summed over tokens.
    """
    log_q = torch.log_softmax(posterior.to(torch.promote_types(posterior.dtype, torch.float32)), dim=-1)
    if prior is None:
        return (math.log(posterior.shape[-1]) + (log_q.exp() * log_q).sum(dim=-1)).sum(dim=-1)
    log_p = torch.log_softmax(prior.to(torch.promote_types(prior.dtype, torch.float32)), dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum(dim=(-1, -2))


def lowest_entropy(vocabulary: int, gap: float) -> float:
    r"""First-order entropy of the least uncertain categorical whose logits differ by at most ``gap``.

    .. math:: H = (K - 1) (1 + g) e^{-g} + O(e^{-2g})

    For a softmax of logits, g is their largest difference. For responsibilities of unit variance, with one code at a
    distance d and all others at d + delta on the same line, :math:`g = \delta^2 / 2 + \delta d`.

    Args:
        vocabulary: K.
        gap: g [nat].

    Returns:
        Entropy [nat].
    Source: RRVQ, theorems 1 and 2.
    Departure: the exact remainder is O(g e^{-2g}), see tests: the paper drops its factor g.
    """
    return (vocabulary - 1) * (1.0 + gap) * math.exp(-gap)


def code_bits(tokens: Sequence[int], vocabularies: Sequence[int]) -> float:
    """Bits that the codes of a hierarchy can carry.

    Args:
        tokens: Tokens of every layer.
        vocabularies: Codes of every layer.

    Returns:
        Sum over layers of tokens * log2(codes).
    Source: RRVQ, appendix F (2,275 bits).
    """
    return sum(count * math.log2(codes) for count, codes in zip(tokens, vocabularies, strict=True))
