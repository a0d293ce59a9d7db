"""Convolutional ladder: a bottom-up chain of features of the data and a top-down chain that the latents are added to.

Layers are numbered from the finest (0) to the coarsest. Sequences use 1-D convolutions, images 2-D ones: the dimension
is that of the grids. Convolutions carry weight normalisation and activations are ELU, as in Kingma et al. 2016.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from motionlex.data.errors import UserError

Grid = tuple[int, ...]
RESIDUAL_SCALE = 0.1
"""Weight of the residual branches, as in the code of Kingma et al. 2016: deep ladders start near the identity."""


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """Sizes of the ladder."""

    width: int = 128
    """Channels of both backbones."""
    blocks: int = 4
    """Residual blocks per layer and backbone."""
    ladder_blocks: int = 0
    """Residual blocks in every network between backbones and latents, besides its one convolution."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.blocks < 1 or self.ladder_blocks < 0:
            raise ValueError(
                "wanted width >= 1, blocks >= 1 and ladder_blocks >= 0, "
                f"got {self.width}, {self.blocks} and {self.ladder_blocks}"
            )


def layer_grids(items: Grid, tokens: Sequence[int]) -> tuple[Grid, ...]:
    """Lay the tokens of every layer out on a grid of the shape of the data's.

    Args:
        items: Side lengths of the data's grid, (frames,) or (height, width).
        tokens: Tokens of every layer, finest first.

    Returns:
        Side lengths of every layer's grid: the data's, all divided or multiplied by one whole number.

    Raises:
        UserError: If a layer cannot be laid out, or a layer's sides do not divide those of the finer one below it.
    """
    grids: list[Grid] = []
    for layer, count in enumerate(tokens):
        scale = (count / math.prod(items)) ** (1.0 / len(items))
        grid = tuple(round(side * scale) for side in items)
        whole = all(max(a, b) % min(a, b) == 0 for a, b in zip(grid, items)) if min(grid) > 0 else False
        if math.prod(grid) != count or not whole:
            raise UserError(
                f"grid_tokens: layer {layer + 1} of {len(tokens)} wants {count} tokens, which is no grid over data of "
                f"{' x '.join(map(str, items))} items; possible: {', '.join(map(str, _possible(items)))}"
            )
        if grids and any(fine % coarse for fine, coarse in zip(grids[-1], grid)):
            raise UserError(
                f"grid_tokens: sides {grid} of layer {layer + 1} do not divide those of the finer layer, {grids[-1]}"
            )
        grids.append(grid)
    return tuple(grids)


def _possible(items: Grid) -> list[int]:
    """Numbers of tokens that :func:`layer_grids` accepts, up to twice the side lengths."""
    common = math.gcd(*items)
    divisors = [n for n in range(1, common + 1) if common % n == 0]
    return sorted([math.prod(side // n for side in items) for n in divisors] + [math.prod(2 * n for n in items)])


def resampling(inputs: int, outputs: int, before: Grid, after: Grid) -> nn.Module:
    """Convolution from one grid to another, strided towards the coarser one, transposed towards the finer one.

    The kernel is stride + 2 with one item of padding, which reaches beyond every stride and meets the sizes exactly.
    """
    down, transposed = before[0] // after[0], before[0] < after[0]
    stride = after[0] // before[0] if transposed else down
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d) if transposed else (nn.Conv1d, nn.Conv2d)
    layer = kinds[len(before) - 1](inputs, outputs, stride + 2, stride=stride, padding=1)
    # The norm is per output channel, which is the second axis of a transposed kernel.
    return weight_norm(layer, dim=1 if transposed else 0)


class ResidualBlock(nn.Module):
    """ELU, convolution, ELU, convolution; where the grid changes, the identity path is pooled or repeated."""

    def __init__(self, width: int, before: Grid, after: Grid) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.first = resampling(width, width, before, after)
        self.second = resampling(width, width, after, after)

    def forward(self, x: Float[Tensor, "batch channel *grid"]) -> Float[Tensor, "batch channel *other"]:
        """Transform features of one grid to those of the other."""
        residual = self.second(functional.elu(self.first(functional.elu(x))))
        if self.before[0] > self.after[0]:
            pool = functional.avg_pool1d if len(self.before) == 1 else functional.avg_pool2d
            x = pool(x, self.before[0] // self.after[0])
        elif self.before[0] < self.after[0]:
            x = functional.interpolate(x, size=self.after, mode="nearest")
        return x + RESIDUAL_SCALE * residual


def _blocks(width: int, grid: Grid, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width, grid, grid) for _ in range(count)))


def _readout(config: LadderConfig, outputs: int, before: Grid, after: Grid) -> nn.Sequential:
    """From the backbone's features to the numbers that define a layer's distribution."""
    convolution = resampling(config.width, outputs, before, after)
    return nn.Sequential(_blocks(config.width, before, config.ladder_blocks), nn.ELU(), convolution)


@dataclass(frozen=True, kw_only=True)
class LadderShape:
    """What the ladder connects; all sizes are those of one example."""

    items: Grid
    """Side lengths of the data's grid."""
    features: int
    """Values per item."""
    channels: int
    """Raw outputs per item, see LikelihoodHead."""
    grids: tuple[Grid, ...]
    """Side lengths of every layer, finest first."""
    latent: int
    """Values of a latent that is added to the top-down chain."""
    posterior: int
    """Numbers that define q of one token."""
    prior: int
    """Numbers that define p of one token."""
    learned_top: bool
    """Whether the top-down chain starts from a learned map, so that the topmost p is learned too."""


class Ladder(nn.Module):
    """All networks of the hierarchy; it knows nothing of the distributions, which its methods only give numbers for.

    Names follow the paper: ``enc`` and ``dec`` are the backbones, ``qladder`` and ``qstrap`` lead to q from below and
    from above, ``pstrap`` leads to p, ``pladder`` leads a latent back into the top-down chain.

    Source: RRVQ, appendix C.
    Departure: a layer's latents enter after the block that changes the grid and before the other blocks of ``dec``, so
    that the finest latents also pass blocks (with one layer the decoder would be linear otherwise).
    """

    def __init__(self, config: LadderConfig, shape: LadderShape) -> None:
        super().__init__()
        self.shape = shape
        width, grids, finest = config.width, shape.grids, shape.grids[0]
        top = len(grids) - 1
        pairs = list(itertools.pairwise(grids))
        self.enc_first = resampling(shape.features, width, shape.items, finest)
        self.dec_last = nn.Sequential(nn.ELU(), resampling(width, shape.channels, finest, shape.items))
        self.enc_resize = nn.ModuleList(ResidualBlock(width, fine, coarse) for fine, coarse in pairs)
        self.dec_resize = nn.ModuleList(ResidualBlock(width, coarse, fine) for fine, coarse in pairs)
        # Where a block changes the grid, it is one of the layer's blocks.
        self.enc = nn.ModuleList(_blocks(width, grid, config.blocks - (n > 0)) for n, grid in enumerate(grids))
        self.dec = nn.ModuleList(_blocks(width, grid, config.blocks - (n < top)) for n, grid in enumerate(grids))
        above = [*grids[1:], *([grids[-1]] if shape.learned_top else [])]
        self.qladder = nn.ModuleList(_readout(config, shape.posterior, grid, grid) for grid in grids)
        self.qstrap = nn.ModuleList(_readout(config, shape.posterior, *pair) for pair in zip(above, grids))
        self.pstrap = nn.ModuleList(_readout(config, shape.prior, *pair) for pair in zip(above, grids))
        self.pladder = nn.ModuleList(
            nn.Sequential(resampling(shape.latent, width, grid, grid), _blocks(width, grid, config.ladder_blocks))
            for grid in grids
        )
        self.top = nn.Parameter(torch.zeros(width, *grids[-1])) if shape.learned_top else None

    def bottom_up(self, x: Float[Tensor, "batch item feature"]) -> tuple[Tensor, ...]:
        """Features of the data on every layer's grid, (batch, channel, *grid), finest first."""
        state = self.enc_first(x.transpose(1, 2).unflatten(2, self.shape.items))
        features = [self.enc[0](state)]
        for resize, blocks in zip(self.enc_resize, self.enc[1:]):
            features.append(blocks(resize(features[-1])))
        return tuple(features)

    def start(self, batch: int) -> Tensor | None:
        """What the topmost layer sees from above: a learned map (batch, channel, *grid), or nothing."""
        return None if self.top is None else self.top.expand(batch, *self.top.shape)

    def posterior(self, layer: int, state: Tensor | None, bottom: Tensor) -> Float[Tensor, "batch token posterior"]:
        """Numbers that define q of one layer: qladder + qstrap.

        Args:
            layer: Its number, 0 is the finest.
            state: Top-down chain above it, (batch, channel, *grid); None at a top without a learned map.
            bottom: Bottom-up features on its grid.
        """
        numbers = self.qladder[layer](bottom)
        return _tokens(numbers if state is None else numbers + self.qstrap[layer](state))

    def prior(self, layer: int, state: Tensor | None) -> Float[Tensor, "batch token prior"] | None:
        """Numbers that define p of one layer, pstrap; None at a top without a learned map."""
        return None if state is None else _tokens(self.pstrap[layer](state))

    def descend(
        self, layer: int, state: Tensor | None, latents: Float[Tensor, "batch token latent"]
    ) -> Float[Tensor, "batch channel *grid"]:
        """Continue the top-down chain through one layer and its latents."""
        added = self.pladder[layer](latents.transpose(1, 2).unflatten(2, self.shape.grids[layer]))
        if layer < len(self.shape.grids) - 1:
            state = self.dec_resize[layer](state)
        return self.dec[layer](added if state is None else state + added)

    def raw(self, state: Float[Tensor, "batch channel *grid"]) -> Float[Tensor, "batch item raw"]:
        """Raw outputs for the likelihood from the end of the top-down chain."""
        return _tokens(self.dec_last(state))


def _tokens(features: Float[Tensor, "batch channel *grid"]) -> Float[Tensor, "batch token channel"]:
    """Features of a grid as a sequence in row-major order."""
    return features.flatten(2).transpose(1, 2)
