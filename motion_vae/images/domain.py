"""Images (batch, pixel, colour), pixels in row-major order, with the networks of the papers.

Parameters of the paper's networks, recognition / generator (codebook included), as tested in tests/test_vae_images.py:

============  =====================  ===================
data set      authors                ours
============  =====================  ===================
MNIST         156,480 / 267,344      156,544 / 267,344
CIFAR-10      1,060,992 / 257,958    1,061,120 / 257,958
ImageNet-256  1,211,008 / 330,198    1,211,136 / 330,198
============  =====================  ===================

Departure: the autoregressive decoder has a begin symbol of its own, one more row of 64 or 128 embeddings.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from motionlex.motion_vae import domain
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.images.mlp import MLPDecoder, MLPEncoder
from motionlex.motion_vae.images.resnet import NORMS, ConvEncoder, Norm, ResNetDecoder
from motionlex.motion_vae.images.vit import VisionEncoder
from motionlex.motion_vae.likelihoods import LikelihoodConfig, LikelihoodHead
from motionlex.motion_vae.options import check_choice


@dataclass(frozen=True, kw_only=True)
class ImageDomain(domain.Domain):
    """Images of one size, with one token per patch."""

    kind: ClassVar[str] = "image"

    height: int = 32
    """Rows of pixels."""
    width: int = 32
    """Columns of pixels."""
    channels: int = 3
    """Colours of a pixel."""
    patch: tuple[int, int] = (4, 4)
    """Rows and columns of pixels per token; an MLP sees all pixels, and there it only sets the number of tokens."""
    padding: tuple[int, int] = (0, 0)
    """Rows of zeros above and below, columns of zeros left and right of what a vit cuts into patches; the DAPS authors
    (code) widen MNIST to 28 x 32 pixels for 2 x 4 patches of 14 x 8."""
    recognition: Literal["vit", "mlp", "conv"] = "vit"
    """Network from pixels to tokens."""
    generator: Literal["mlp", "resnet"] = "resnet"
    """Network from tokens to pixels; resnet is also the convolutional partner of conv."""
    mlp_encoder: tuple[int, ...] = (512, 256)
    """Hidden layers of the MLP from pixels to tokens."""
    mlp_decoder: tuple[int, ...] = (64, 256)
    """Hidden layers of the MLP from tokens to pixels."""
    hidden: int = 64
    """Channels of the convolutional networks at the grid of tokens."""
    residual_blocks: int = 2
    """Residual blocks of the convolutional networks."""
    norm: Norm = "group"
    """Normalisation of the convolutional networks: group (per image), batch (as in the paper: couples the examples of a
    batch in train mode) or none."""
    likelihood_config: LikelihoodConfig = field(default_factory=lambda: LikelihoodConfig(family="predicted_gaussian"))
    """Distribution of an image given its codes."""

    def __post_init__(self) -> None:
        for name in ("height", "width", "channels", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.residual_blocks < 0:
            raise ValueError(f"residual_blocks must be >= 0, got {self.residual_blocks}")
        for name in ("mlp_encoder", "mlp_decoder"):
            if any(size < 1 for size in getattr(self, name)):
                raise ValueError(f"{name}: every hidden layer needs at least 1 unit, got {getattr(self, name)}")
        check_choice("recognition", self.recognition, ("vit", "mlp", "conv"))
        check_choice("generator", self.generator, ("mlp", "resnet"))
        check_choice("norm", self.norm, NORMS)
        self._check_patches()

    def _check_patches(self) -> None:
        if len(self.patch) != 2 or len(self.padding) != 2:
            raise ValueError(f"patch and padding want (rows, columns), got {self.patch} and {self.padding}")
        if min(self.padding) < 0:
            raise ValueError(f"padding must be >= 0, got {self.padding}")
        if any(self.padding) and (self.recognition, self.generator) != ("vit", "mlp"):
            raise ValueError(
                f"padding needs recognition=vit and generator=mlp, got {self.padding} with {self.recognition} and "
                f"{self.generator}"
            )
        for name, pixels, zeros, side in zip(("height", "width"), self.grid, self.padding, self.patch):
            if side < 1 or (pixels + 2 * zeros) % side:
                total = pixels + 2 * zeros
                fitting = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
                raise ValueError(
                    f"patch {self.patch} must divide the padded image: {name} {total} fits {fitting}, got {side}"
                )
        if self.recognition == "conv" or self.generator == "resnet":
            self._check_factor()

    def _check_factor(self) -> None:
        rows, columns = self.patch
        if rows != columns or rows < 2 or rows & (rows - 1):
            raise ValueError(
                f"patch must be square with a side of 2, 4, 8, ... for convolutional networks, got {self.patch}"
            )
        if self.hidden % (rows // 2):
            raise ValueError(
                f"hidden must be divisible by {rows // 2}: patches of {rows} x {rows} pixels halve the channels "
                f"{(rows // 2).bit_length() - 1} times, got {self.hidden}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.height, self.width)

    @property
    def features(self) -> int:
        """Colours of a pixel."""
        return self.channels

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = (size + 2 * zeros for size, zeros in zip(self.grid, self.padding))
        return (rows // self.patch[0], columns // self.patch[1])

    @property
    def tokens(self) -> int:
        """Codes per image."""
        return self.token_grid[0] * self.token_grid[1]

    def encoder(self, config: NetworkConfig) -> domain.Encoder:
        """Vision transformer, MLP or convolutions."""
        if self.recognition == "vit":
            return VisionEncoder(
                config.recognition,
                grid=self.grid,
                channels=self.channels,
                patch=self.patch,
                padding=self.padding,
            )
        if self.recognition == "mlp":
            values = self.height * self.width * self.channels
            return MLPEncoder(self.mlp_encoder, values=values, tokens=self.tokens, width=config.width)
        return ConvEncoder(
            grid=self.grid,
            channels=self.channels,
            factor=self.patch[0],
            hidden=self.hidden,
            blocks=self.residual_blocks,
            norm=self.norm,
            width=config.width,
        )

    def decoder(self, config: NetworkConfig) -> domain.Decoder:
        """MLP or residual network, with the likelihood."""
        if self.generator == "mlp":
            return MLPDecoder(
                self.mlp_decoder,
                pixels=self.height * self.width,
                tokens=self.tokens,
                width=config.width,
                likelihood=self.likelihood(),
            )
        return ResNetDecoder(
            token_grid=self.token_grid,
            factor=self.patch[0],
            hidden=self.hidden,
            blocks=self.residual_blocks,
            norm=self.norm,
            width=config.width,
            likelihood=self.likelihood(),
        )

    def likelihood(self) -> LikelihoodHead:
        """Head of the configured family."""
        return LikelihoodHead(self.likelihood_config, self.features)


DOMAIN = ImageDomain
