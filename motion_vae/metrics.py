"""Measures of codes and reconstructions: pure functions."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from scipy import special
from torch import Tensor


def mean_squared_error(
    reconstruction: Float[Tensor, "batch frame feature"],
    truth: Float[Tensor, "batch frame feature"],
    minimum: Float[Tensor, " feature"],
    maximum: Float[Tensor, " feature"],
) -> Float[Tensor, " batch"]:
    """Mean squared error of each segment after scaling every feature to [0, 1] by its range on the training split.

    Args:
        reconstruction: Features in their own units (de-standardised).
        truth: The same for the original.
        minimum: Smallest value of each feature on the training split.
        maximum: Largest value.

    Returns:
        Mean over frames and features of the clipped, scaled difference.
    Source: evaluation code of the DAPS authors (peak 1, clipped to [0, 1]).
    """
    span = (maximum - minimum).clamp_min(torch.finfo(maximum.dtype).tiny)
    scaled = [((x - minimum) / span).clamp(0.0, 1.0) for x in (reconstruction, truth)]
    return (scaled[0] - scaled[1]).square().mean(dim=(1, 2))


def psnr_db(error: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Peak signal-to-noise ratio [dB] for a peak of 1: :math:`-10 \log_{10} \mathrm{MSE}`.

    Args:
        error: Mean squared errors; zero gives infinity.

    Returns:
        One value per error.
    """
    return -10.0 * torch.log10(error)


def code_counts(indices: Int[Tensor, "*shape"], vocabulary: int) -> Int[Tensor, " code"]:
    """How often each code occurs."""
    return torch.bincount(indices.flatten(), minlength=vocabulary)


def usage(counts: Int[Tensor, " code"]) -> float:
    """Share of the vocabulary that occurs at all, in [0, 1]."""
    return (counts > 0).double().mean().item()


def perplexity(counts: Int[Tensor, " code"] | Float[Tensor, " code"]) -> float:
    r"""Effective number of codes, :math:`\exp H(p)` of the empirical distribution, or of summed probabilities."""
    share = counts.double() / counts.sum()
    return torch.exp(-torch.special.xlogy(share, share).sum()).item()


def code_perplexity(indices: Int[Tensor, "*shape"], vocabulary: int) -> Float[Tensor, ""]:
    """:func:`perplexity` of a batch of codes, on their device and without waiting for it."""
    codes = indices.flatten().long()
    counts = codes.new_zeros(vocabulary).scatter_add_(0, codes, torch.ones_like(codes))
    share = counts.double() / len(codes)
    return torch.special.entr(share).sum().exp().float()


def joint_error_rad(
    joints: Float[Tensor, "segment frame joint"], truth: Float[Tensor, "segment frame joint"]
) -> Float[Tensor, " segment"]:
    """Mean absolute difference of joint angles [rad] of each segment."""
    return (joints - truth).abs().mean(dim=(1, 2))


def keypoint_error_mm(
    points: Float[Tensor, "segment frame site xyz"], truth: Float[Tensor, "segment frame site xyz"]
) -> Float[Tensor, " segment"]:
    """Mean Euclidean distance of key points [mm] of each segment, from positions in metres."""
    return 1e3 * (points - truth).norm(dim=-1).mean(dim=(1, 2))


def position_counts(indices: Int[Tensor, "batch token"], vocabulary: int) -> Int[Tensor, "token code"]:
    """How often each code occurs at each position."""
    tokens = indices.shape[1]
    offsets = torch.arange(tokens, device=indices.device) * vocabulary
    return code_counts(indices + offsets, tokens * vocabulary).view(tokens, vocabulary)


def bits_per_segment(tokens: int, vocabulary: int) -> float:
    """Bits that the codes of one example take [bit]: tokens * log2 vocabulary."""
    return tokens * math.log2(vocabulary)


def importance_weighted_bound(log_weights: Float[Tensor, "batch sample"]) -> Float[Tensor, " batch"]:
    r"""Lower bound [nat] on log p(x) from K samples of q.

    .. math:: L_K = \ln \frac{1}{K} \sum_k \frac{p(x|z_k)\, p(z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x)

    Its expectation is the ELBO at K = 1, never falls with K, and tends to log p(x).

    Args:
        log_weights: ln p(x|z_k) + ln p(z_k) - ln q(z_k|x) [nat].
    Source: Burda, Grosse and Salakhutdinov 2016, equation (8).
    """
    return torch.logsumexp(log_weights.double(), dim=1) - math.log(log_weights.shape[1])


def normal_interval(values: Float[Tensor, " example"], confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a mean over many independent examples, by the normal approximation.

    Args:
        values: One value per example, at least two.
        confidence: Probability that the interval covers the mean.

    Returns:
        Lower and upper end.
    """
    half = float(special.ndtri(0.5 + 0.5 * confidence)) * (values.double().std() / len(values) ** 0.5).item()
    mean = values.double().mean().item()
    return mean - half, mean + half


def student_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    """Mean over a few independent runs and the half width of its confidence interval, by Student's t.

    Args:
        values: One value per run, at least one.
        confidence: Probability that the interval covers the mean.

    Returns:
        Mean, and half the width of the interval; None for a single run, whose spread is unknown.
    """
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    freedom = len(values) - 1
    variance = math.fsum((value - mean) ** 2 for value in values) / freedom
    return mean, float(special.stdtrit(freedom, 0.5 + 0.5 * confidence)) * math.sqrt(variance / len(values))
