"""Inception v3 as FID uses it, with the names of weights of pytorch-fid's file.

Architecture: Szegedy et al. 2016 (Rethinking the Inception architecture), figures 5 to 7, in the variant of the
network of 2015-12-05 that FID is defined by (Heusel et al. 2017): average pooling does not count the padding, and the
last block pools by the maximum; 1,008 classes, of which nothing but the weights' shape is used here.

The weights are not shipped; without the file FID cannot be had.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from motionlex.data.errors import UserError
from motionlex.data.storage import file_sha256
from motionlex.motion_vae.checkpoint import read_tensors

FILE = "pt_inception-2015-12-05-6726825d.pth"
"""Name of the weights; the last part is the beginning of the SHA-256 of the file."""
DOWNLOAD = f"Download https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE} (91 MB)"
SIZE = 299
"""Rows and columns of the input."""
FEATURES = 2048
"""Values of the pooled features."""
CLASSES = 1008
Side = int | tuple[int, int]


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Side, *, stride: int = 1, padding: Side = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel2 row2 column2"]:
        """Convolve."""
        return functional.relu(self.bn(self.conv(x)))


def _averaged(x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel row column"]:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class GridBlock(nn.Module):
    """35 x 35 positions: 1 x 1, 5 x 5, twice 3 x 3, and a pool (figure 5)."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1 = Convolution(inputs, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(inputs, pool, 1)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel2 row column"]:
        """Concatenate the branches."""
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch1x1(x), fives, threes, self.branch_pool(_averaged(x))), dim=1)


class GridReduction(nn.Module):
    """35 x 35 -> 17 x 17 positions (figure 10)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel2 row2 column2"]:
        """Concatenate the branches."""
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), threes, functional.max_pool2d(x, 3, stride=2)), dim=1)


class FactorisedBlock(nn.Module):
    """17 x 17 positions: 7 x 7 convolutions as 1 x 7 and 7 x 1 (figure 6)."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        across, down = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Convolution(768, 192, 1)
        self.branch7x7_1 = Convolution(768, inner, 1)
        self.branch7x7_2 = Convolution(inner, inner, **across)
        self.branch7x7_3 = Convolution(inner, 192, **down)
        self.branch7x7dbl_1 = Convolution(768, inner, 1)
        self.branch7x7dbl_2 = Convolution(inner, inner, **down)
        self.branch7x7dbl_3 = Convolution(inner, inner, **across)
        self.branch7x7dbl_4 = Convolution(inner, inner, **down)
        self.branch7x7dbl_5 = Convolution(inner, 192, **across)
        self.branch_pool = Convolution(768, 192, 1)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel2 row column"]:
        """Concatenate the branches."""
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat((self.branch1x1(x), single, double, self.branch_pool(_averaged(x))), dim=1)


class FactorisedReduction(nn.Module):
    """17 x 17 -> 8 x 8 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(768, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(768, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel2 row2 column2"]:
        """Concatenate the branches."""
        sevens = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat((self.branch3x3_2(self.branch3x3_1(x)), sevens, functional.max_pool2d(x, 3, stride=2)), dim=1)


class WideBlock(nn.Module):
    """8 x 8 positions: branches that fan out at their end (figure 7).

    Args:
        inputs: Channels.
        maximum: Whether the pool takes the maximum instead of the average.
    """

    def __init__(self, inputs: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel2 row column"]:
        """Concatenate the branches."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _averaged(x)
        fans = (self.branch3x3_2a(single), self.branch3x3_2b(single))
        other = (self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double))
        return torch.cat((self.branch1x1(x), *fans, *other, self.branch_pool(pooled)), dim=1)


class Inception(nn.Module):
    """Images -> 2,048 pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = GridBlock(192, 32), GridBlock(256, 64), GridBlock(288, 64)
        self.Mixed_6a = GridReduction(288)
        self.Mixed_6b, self.Mixed_6c = FactorisedBlock(128), FactorisedBlock(160)
        self.Mixed_6d, self.Mixed_6e = FactorisedBlock(160), FactorisedBlock(192)
        self.Mixed_7a = FactorisedReduction()
        self.Mixed_7b, self.Mixed_7c = WideBlock(1280, maximum=False), WideBlock(2048, maximum=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature"]:
        """Scale to 299 x 299 (bilinear, no anti-aliasing, as FID is defined), and extract.

        Args:
            images: Colours in [0, 1].
        """
        x = 2.0 * functional.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False) - 1.0
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(functional.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))


def load_inception(path: Path) -> Inception:
    """Build the network with the weights of a local file.

    Args:
        path: The file, or the folder that holds it.

    Returns:
        The network in evaluation mode, without gradients.

    Raises:
        UserError: If the file is missing, damaged, or holds other weights.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"FID needs the weights of Inception, and there is no file {path}. {DOWNLOAD}")
    _check_name(path)
    try:
        state = read_tensors(path)
    except UserError as error:
        raise UserError(f"{error}. {DOWNLOAD}") from error
    network = Inception()
    wanted = {name: value.shape for name, value in network.state_dict().items() if not _counter(name)}
    found = {name: value for name, value in dict(state).items() if not _counter(name) and isinstance(value, Tensor)}
    odd = sorted(name for name in wanted if name not in found or found[name].shape != wanted[name])
    if odd:
        raise UserError(f"{path} holds no Inception of FID: {odd[0]} is missing or of another shape. {DOWNLOAD}")
    network.load_state_dict({name: found[name] for name in wanted}, strict=False)
    return network.eval().requires_grad_(False)


def _counter(name: str) -> bool:
    """Counts of batches, which old files lack and nothing reads."""
    return name.endswith("num_batches_tracked")


def _check_name(path: Path) -> None:
    """Where the name carries the sum, verify it."""
    if path.name != FILE:
        return
    wanted = path.stem.rpartition("-")[2]
    got = file_sha256(path)
    if not got.startswith(wanted):
        raise UserError(f"{path} has SHA-256 {got[:8]}..., wanted {wanted}...: it is damaged. {DOWNLOAD}")
