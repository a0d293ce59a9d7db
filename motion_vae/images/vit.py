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
        patch: Height and width of a patch [pixel]; must divide the padded image.
        padding: Rows of zeros above and below, and columns of zeros left and right of the image.

    Returns:
        Patches in row-major order; the values of a patch are its pixels in row-major order, colours last.
    """
    rows, columns = padding
    padded = functional.pad(x.unflatten(1, grid), (0, 0, columns, columns, rows, rows))
    cut = padded.unflatten(2, (-1, patch[1])).unflatten(1, (-1, patch[0]))
    return cut.transpose(2, 3).flatten(3).flatten(1, 2)


class VisionEncoder(domain.Encoder):
    """Patch -> dense layer -> positions -> encoder blocks, one token per patch.

    Args:
        config: Shape of the stack.
        grid: Height and width of the image [pixel].
        channels: Colours of a pixel.
        patch: Height and width of a patch [pixel].
        padding: Zeros around the image, see :func:`split_patches`.
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
        tokens = math.prod((size + 2 * zeros) // side for size, zeros, side in zip(grid, padding, patch))
        self.input = nn.Linear(math.prod(patch) * channels, config.width)
        self.transformer = Encoder(config, tokens)

    def forward(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token width"]:
        """Encode pixels."""
        return self.transformer(self.input(split_patches(x, grid=self.grid, patch=self.patch, padding=self.padding)))
