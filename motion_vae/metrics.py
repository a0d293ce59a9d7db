"""Measures of codes and reconstructions: pure functions."""

import torch
from jaxtyping import Float, Int
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


def perplexity(counts: Int[Tensor, " code"]) -> float:
    r"""Effective number of codes, :math:`\exp H(p)` of the empirical distribution."""
    share = counts.double() / counts.sum()
    return torch.exp(-torch.special.xlogy(share, share).sum()).item()


def code_perplexity(indices: Int[Tensor, "*shape"], vocabulary: int) -> Float[Tensor, ""]:
    """:func:`perplexity` of a batch of codes as a tensor."""
    return torch.tensor(perplexity(code_counts(indices, vocabulary)))


def joint_error_rad(joints: Float[Tensor, "*shape joint"], truth: Float[Tensor, "*shape joint"]) -> float:
    """Mean absolute difference of joint angles [rad]."""
    return (joints - truth).abs().mean().item()


def keypoint_error_mm(points: Float[Tensor, "*shape site xyz"], truth: Float[Tensor, "*shape site xyz"]) -> float:
    """Mean Euclidean distance of key points [mm] that are given in metres."""
    return 1e3 * (points - truth).norm(dim=-1).mean().item()
