"""Convolutional networks between images and a grid of tokens.

The decoder is that of DAPS on colour images (appendix I, after van den Oord et al. 2017): convolution 3 x 3, residual
blocks, then transposed convolutions 4 x 4 of stride 2 which halve the channels, 64 -> 32 (-> 16) -> colours. Where the
paper is silent (biases everywhere; normalisation after each convolution of a residual block and after each transposed
convolution but the last) the sizes follow from its parameter counts, 257,958 on CIFAR-10 and 330,198 on ImageNet-256
with the codebook, and the order within a block from the authors' code. The encoder is its mirror image; GM-VQ uses
such a pair.

Departure: the authors normalise over the batch. In train mode that couples the returns of the K samples and of all
images of a batch, which policy search takes for independent. The default here normalises over groups of channels of
one image: as many parameters, the same function in train and eval mode, nothing shared between examples. ``batch``
is kept for comparisons.
"""

import itertools
import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from motionlex.motion_vae import domain
from motionlex.motion_vae.likelihoods import LikelihoodHead

Norm = Literal["group", "batch", "none"]
NORMS: tuple[Norm, ...] = ("group", "batch", "none")
CHANNELS_PER_GROUP = 8
"""Of the group normalisation: 8, 4 and 2 groups for the 64, 32 and 16 channels of the paper."""
KERNEL, STRIDE, PADDING = 4, 2, 1
"""Resampling convolutions; this padding makes the resolution change by exactly the stride."""


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Build one normalisation layer; both kinds have two parameters per channel."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(max(channels // CHANNELS_PER_GROUP, 1), channels), channels)
    return nn.Identity()


class ResidualBlock(nn.Module):
    """Convolutions 3 x 3 and 1 x 1 on a residual branch, each after a ReLU and before a normalisation."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            normalisation(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            normalisation(norm, channels),
        )

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel row column"]:
        """Add the branch."""
        return x + self.branch(x)


def ladder(hidden: int, factor: int) -> tuple[int, ...]:
    """Channels from the grid of tokens towards the pixels, one entry per halving of the resolution.

    Args:
        hidden: Channels at the tokens.
        factor: Pixels per token in each direction, a power of two.

    Returns:
        E.g. (64, 32, 16) for hidden 64 and factor 8.
    """
    return tuple(hidden >> step for step in range(factor.bit_length() - 1))


class ConvEncoder(domain.Encoder):
    """Strided convolutions, residual blocks, one dense layer per token.

    Args:
        grid: Height and width of the image [pixel].
        channels: Colours of a pixel.
        factor: Pixels per token in each direction, a power of two.
        hidden: Channels of the residual blocks.
        blocks: Number of residual blocks.
        norm: Normalisation.
        width: Features per token.
    Source: van den Oord et al. 2017, section 4.1; GM-VQ, section 5.1, gives no sizes.
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        channels: int,
        factor: int,
        hidden: int,
        blocks: int,
        norm: Norm,
        width: int,
    ) -> None:
        super().__init__()
        self.grid = grid
        layers: list[nn.Module] = []
        for outputs in reversed(ladder(hidden, factor)):
            convolution = nn.Conv2d(channels, outputs, KERNEL, stride=STRIDE, padding=PADDING)
            layers += [convolution, normalisation(norm, outputs), nn.ReLU()]
            channels = outputs
        layers += [nn.Conv2d(hidden, hidden, 3, padding=1), *(ResidualBlock(hidden, norm) for _ in range(blocks))]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(hidden, width, 1))

    def forward(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token width"]:
        """Encode pixels."""
        return self.layers(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)


class ResNetDecoder(domain.Decoder):
    """Convolution, residual blocks and transposed convolutions on the grid of embeddings.

    Args:
        token_grid: Rows and columns of tokens.
        factor: Pixels per token in each direction, a power of two.
        hidden: Channels of the residual blocks.
        blocks: Number of residual blocks.
        norm: Normalisation, see the module.
        width: Features per token.
        likelihood: Head on the outputs.
    Source: DAPS, appendices I.1 and I.2.
    """

    def __init__(
        self,
        *,
        token_grid: tuple[int, int],
        factor: int,
        hidden: int,
        blocks: int,
        norm: Norm,
        width: int,
        likelihood: LikelihoodHead,
    ) -> None:
        super().__init__()
        self.token_grid, self.likelihood = token_grid, likelihood
        layers: list[nn.Module] = [nn.Conv2d(width, hidden, 3, padding=1)]
        layers += [*(ResidualBlock(hidden, norm) for _ in range(blocks)), nn.ReLU()]
        channels = ladder(hidden, factor)
        for inputs, outputs in itertools.pairwise(channels):
            transposed = nn.ConvTranspose2d(inputs, outputs, KERNEL, stride=STRIDE, padding=PADDING)
            layers += [transposed, normalisation(norm, outputs), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(channels[-1], likelihood.channels, KERNEL, stride=STRIDE, padding=PADDING))
        self.layers = nn.Sequential(*layers)

    def forward(self, embeddings: Float[Tensor, "*batch token width"]) -> Distribution:
        """Decode code embeddings to a distribution over pixels."""
        leading = embeddings.shape[:-2]
        maps = embeddings.reshape(-1, *embeddings.shape[-2:]).transpose(1, 2).unflatten(2, self.token_grid)
        raw = self.layers(maps).flatten(2).transpose(1, 2)
        return self.likelihood(raw.reshape(*leading, *raw.shape[1:]))
