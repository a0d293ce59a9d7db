"""Bytes -> what a likelihood is defined on, and back: unit interval, black and white, or standardised colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from motionlex.data.images.collection import Images

Form = Literal["unit", "threshold", "bernoulli", "standardise"]
FORMS: tuple[Form, ...] = ("unit", "threshold", "bernoulli", "standardise")
THRESHOLD = 127
"""Largest byte that becomes black."""
LARGEST = 255.0
_FITTED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to the bytes of an image before a model sees them."""

    form: Form = "unit"
    """unit: v / 255, for the discretised logistic; threshold: 1 above 127, else 0 (DAPS on MNIST); bernoulli: 1 with
    probability v / 255, drawn anew at every reading (tutorial); standardise: v / 255, less the mean and by the standard
    deviation of every colour on the training split (DAPS on colours)."""
    mean: tuple[float, ...] = ()
    """Of every colour, on the unit interval; standardise only."""
    deviation: tuple[float, ...] = ()
    """Of every colour, on the unit interval; standardise only."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if (self.form == "standardise") != bool(self.mean) or len(self.mean) != len(self.deviation):
            raise ValueError(
                f"standardise, and no other form, wants a mean and a deviation per colour; got {self.form} with "
                f"{self.mean} and {self.deviation}"
            )
        if any(not (math.isfinite(value) and value > 0.0) for value in self.deviation):
            raise ValueError(f"deviation must be positive and finite, got {self.deviation}")

    def apply(
        self, pixels: UInt8[np.ndarray, "batch height width colour"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch pixel colour"]:
        """Prepare images for a model.

        Args:
            pixels: Bytes.
            generator: Source of the draws of ``bernoulli``, on the CPU.

        Returns:
            Pixels in row-major order, float32.
        """
        flat = torch.from_numpy(np.ascontiguousarray(pixels)).flatten(1, 2)
        if self.form == "threshold":
            return (flat > THRESHOLD).float()
        unit = flat.float() / LARGEST
        if self.form == "bernoulli":
            assert generator is not None, "drawing pixels needs a source of randomness"
            return torch.bernoulli(unit, generator=generator)
        if self.form == "standardise":
            return (unit - torch.tensor(self.mean)) / torch.tensor(self.deviation)
        return unit

    def to_unit(self, x: Float[Tensor, "*batch pixel colour"]) -> Float[Tensor, "*batch pixel colour"]:
        """Undo the standardisation and clip to [0, 1]: what PSNR, SSIM and figures are defined on."""
        if self.form == "standardise":
            x = x * x.new_tensor(self.deviation) + x.new_tensor(self.mean)
        return x.clamp(0.0, 1.0)

    def log_volume_nats(self, pixels: int) -> float:
        r"""Return :math:`\sum \ln s` over all values of an image [nat].

        With it a density of standardised values x becomes one of values v in [0, 1],
        :math:`\ln p(v) = \ln p(x) - \sum \ln s`. Papers report :math:`\ln p(x)`.

        Args:
            pixels: Pixels of an image.
        """
        return pixels * sum(math.log(value) for value in self.deviation)


def fit_standardisation(images: Images, *, limit: int = 20_000, seed: int = 0) -> Preprocessing:
    """Measure mean and standard deviation of every colour on a training split, in float64.

    Args:
        images: Training images, read without augmentation.
        limit: A larger split is measured on so many of its images, drawn at random.
        seed: Of that draw.

    Returns:
        The pre-processing; a colour that never varies gets deviation 1.
    """
    rows = np.arange(len(images))
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    colours = images.shape[2]
    histogram = np.zeros((colours, 256), np.int64)
    for first in range(0, len(rows), _FITTED_AT_ONCE):
        pixels = images.read(rows[first : first + _FITTED_AT_ONCE])
        for colour in range(colours):
            histogram[colour] += np.bincount(pixels[..., colour].ravel(), minlength=256)
    values = np.arange(256) / LARGEST
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    deviation = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return Preprocessing(
        form="standardise",
        mean=tuple(mean.tolist()),
        deviation=tuple(np.where(deviation > 0.0, deviation, 1.0).tolist()),
    )
