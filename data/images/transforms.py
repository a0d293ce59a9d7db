"""Pictures of any size -> squares of one size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from PIL import Image

from motionlex.data.errors import UserError

_ATTEMPTS = 10


@runtime_checkable
class Transform(Protocol):
    """Makes a square picture."""

    @property
    def size(self) -> int:
        """Rows, and columns, of the result."""
        ...

    def __call__(self, picture: Image.Image, name: str, generator: torch.Generator | None) -> Image.Image:
        """Return the square.

        Args:
            picture: RGB.
            name: What errors call it.
            generator: Source of randomness, for transforms that have any.
        """
        ...


@dataclass(frozen=True)
class Exact:
    """Pictures that have the size already; others are refused."""

    size: int
    """Rows, and columns."""

    def __call__(self, picture: Image.Image, name: str, generator: torch.Generator | None) -> Image.Image:
        """Return the picture itself."""
        if picture.size != (self.size, self.size):
            wide, high = picture.size
            raise UserError(f"{name} has {wide} x {high} pixels, wanted {self.size} x {self.size}")
        return picture


@dataclass(frozen=True)
class CentreSquare:
    """The square of ``crop`` pixels in the middle, scaled (bilinear with anti-aliasing)."""

    crop: int
    """Side of the square in the original [pixel]."""
    size: int
    """Side of the result [pixel]."""

    def __call__(self, picture: Image.Image, name: str, generator: torch.Generator | None) -> Image.Image:
        """Cut and scale."""
        wide, high = picture.size
        if min(wide, high) < self.crop:
            raise UserError(f"{name} has {wide} x {high} pixels, too few for a square of {self.crop}")
        box = _centred(wide, high, self.crop)
        return _scaled(picture, box, self.size)


@dataclass(frozen=True)
class ShortSide:
    """The largest square in the middle, scaled (bilinear with anti-aliasing)."""

    size: int
    """Side of the result [pixel]."""

    def __call__(self, picture: Image.Image, name: str, generator: torch.Generator | None) -> Image.Image:
        """Cut and scale."""
        wide, high = picture.size
        box = _centred(wide, high, min(wide, high))
        return _scaled(picture, box, self.size)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the picture, scaled, and mirrored every other time.

    Area and shape of the part are drawn (log-uniform shape); a part that does not fit is drawn again, and after ten
    times the largest part of a permitted shape in the middle is taken.

    Source: Szegedy et al. 2015 (Going deeper with convolutions), section 6: 8 % to 100 % of the area, 3/4 to 4/3.
    """

    size: int
    """Side of the result [pixel]."""
    smallest_area: float = 0.08
    """Least share of the picture's area."""
    narrowest: float = 3.0 / 4.0
    """Least width per height; the largest is its inverse."""

    def __call__(self, picture: Image.Image, name: str, generator: torch.Generator | None) -> Image.Image:
        """Draw, cut and scale."""
        assert generator is not None, "a random crop needs a source of randomness"
        box = self._box(*picture.size, generator)
        part = _scaled(picture, box, self.size)
        mirrored = torch.rand((), generator=generator).item() < 0.5
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part

    def _box(self, wide: int, high: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        for _ in range(_ATTEMPTS):
            area, shape, across, down = torch.rand(4, generator=generator).tolist()
            pixels = wide * high * (self.smallest_area + (1.0 - self.smallest_area) * area)
            ratio = math.exp((2.0 * shape - 1.0) * -math.log(self.narrowest))
            columns, rows = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < columns <= wide and 0 < rows <= high:
                left, top = int(across * (wide - columns + 1)), int(down * (high - rows + 1))
                return left, top, left + columns, top + rows
        columns, rows = min(wide, max(1, round(high / self.narrowest))), min(high, max(1, round(wide / self.narrowest)))
        left, top = (wide - columns) // 2, (high - rows) // 2
        return left, top, left + columns, top + rows


def _scaled(picture: Image.Image, box: tuple[int, int, int, int], size: int) -> Image.Image:
    """Cut, then scale: the box argument of Pillow's resize would let pixels outside of it bleed in."""
    return picture.crop(box).resize((size, size), Image.Resampling.BILINEAR)


def _centred(wide: int, high: int, side: int) -> tuple[int, int, int, int]:
    left, top = (wide - side) // 2, (high - side) // 2
    return left, top, left + side, top + side
