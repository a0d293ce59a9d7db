"""Measures of reconstructed images, on the unit interval: pure functions.

Bits per dimension are in ``likelihoods``, PSNR from an error, usage and perplexity of codes in ``metrics`` of the core.
"""

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from motionlex.data.errors import UserError

WINDOW, WINDOW_DEVIATION = 11, 1.5
"""Side and standard deviation of SSIM's Gaussian window [pixel]."""
STABILISERS = (0.01**2, 0.03**2)
"""C_1 and C_2 of SSIM for a range of 1."""


def squared_error(
    reconstruction: Float[Tensor, "batch pixel colour"], truth: Float[Tensor, "batch pixel colour"]
) -> Float[Tensor, " batch"]:
    """Mean squared error of each image.

    ``metrics.psnr_db`` of it, averaged over images, is the PSNR per image; its mean times 1,000 is GM-VQ's MSE.

    Args:
        reconstruction: Values in [0, 1] (others are clipped).
        truth: The original in [0, 1].

    Returns:
        Mean over pixels and colours.
    """
    return (reconstruction.clamp(0.0, 1.0) - truth).square().mean(dim=(1, 2))


def structural_similarity(
    reconstruction: Float[Tensor, "batch pixel colour"],
    truth: Float[Tensor, "batch pixel colour"],
    grid: tuple[int, int],
) -> Float[Tensor, " batch"]:
    r"""SSIM of each image: local means, variances and covariance under a Gaussian window.

    .. math::

        \frac{(2 \mu_x \mu_y + C_1) (2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1) (\sigma_x^2 + \sigma_y^2 + C_2)}

    averaged over the places where the whole window is inside the image, and over colours.

    Args:
        reconstruction: Values in [0, 1] (others are clipped).
        truth: The original in [0, 1].
        grid: Rows and columns.

    Returns:
        At most 1, which equal images have.

    Raises:
        UserError: If the images are smaller than the window.
    Source: Wang et al. 2004, equation (13), window 11 x 11 with standard deviation 1.5, K = (0.01, 0.03).
    Departure: they take grey images; colours are averaged here.
    """
    if min(grid) < WINDOW:
        raise UserError(f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels, got {grid[0]} x {grid[1]}")
    x, y = (image.transpose(1, 2).unflatten(2, grid) for image in (reconstruction.clamp(0.0, 1.0), truth))
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x.square(), _windowed(y * y) - mean_y.square()
    covariance = _windowed(x * y) - mean_x * mean_y
    first, second = STABILISERS
    above = (2.0 * mean_x * mean_y + first) * (2.0 * covariance + second)
    below = (mean_x.square() + mean_y.square() + first) * (variance_x + variance_y + second)
    return (above / below).mean(dim=(1, 2, 3))


def _windowed(x: Float[Tensor, "batch colour height width"]) -> Float[Tensor, "batch colour row column"]:
    """Average under the window at every place where it is inside."""
    offset = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - (WINDOW - 1) / 2.0
    weights = torch.exp(-0.5 * (offset / WINDOW_DEVIATION).square())
    weights = weights / weights.sum()
    flat = x.flatten(0, 1).unsqueeze(1)
    rows = functional.conv2d(flat, weights.view(1, 1, -1, 1))
    return functional.conv2d(rows, weights.view(1, 1, 1, -1)).squeeze(1).unflatten(0, x.shape[:2])
