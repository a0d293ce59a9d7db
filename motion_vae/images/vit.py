"""Vision transformer: patches -> one vector per token (DAPS, appendix I)."""

import math

import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from motionlex.motion_vae import domain
from motionlex.motion_vae.networks.transformer import Encoder, TransformerConfig


def split_patches(
    x: Float[Tensor, "batch item feature"],
    *,
    grid: tuple[int, int],
    patch: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
) -> Float[Tensor, "batch token value"]:
    """Cut images into patches.

    Args:
        x: Pixels in row-major order, with their colours.
        grid: Height and width of the image [pixel].
        patch: Height and width of a patch [pixel]; must divide the image.
        padding: Rows of zeros below, and columns of zeros to the right of, every patch.

    Returns:
        Patches in row-major order; the values of a patch are its pixels in row-major order, colours last.
    """
    rows, columns = grid[0] // patch[0], grid[1] // patch[1]
    cut = x.reshape(-1, rows, patch[0], columns, patch[1], x.shape[-1]).transpose(2, 3)
    padded = functional.pad(cut, (0, 0, 0, padding[1], 0, padding[0]))
    return padded.flatten(3).flatten(1, 2)


class VisionEncoder(domain.Encoder):
    """Patch -> dense layer -> positions -> encoder blocks, one token per patch.

    Args:
        config: Shape of the stack.
        grid: Height and width of the image [pixel].
        channels: Colours of a pixel.
        patch: Height and width of a patch [pixel].
        padding: Zeros appended to every patch. DAPS pads the 14 x 7 patches of MNIST to 14 x 8 (code of the authors):
            without effect on what can be learnt, but part of their parameter count.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        grid: tuple[int, int],
        channels: int,
        patch: tuple[int, int],
        padding: tuple[int, int],
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.padding = grid, patch, padding
        values = (patch[0] + padding[0]) * (patch[1] + padding[1]) * channels
        self.input = nn.Linear(values, config.width)
        self.transformer = Encoder(config, math.prod(grid) // math.prod(patch))

    def forward(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token width"]:
        """Encode pixels."""
        return self.transformer(self.input(split_patches(x, grid=self.grid, patch=self.patch, padding=self.padding)))
