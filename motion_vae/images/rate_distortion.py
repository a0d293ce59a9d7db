"""Bytes and errors of a trained RRVQ-VAE beside those of JPEG files of the same images.

Sizes of the model are those of its most probable codes. *Fixed length* is exact: one number in base K that is written
and read again. *Entropy-coded* is a bound, nothing is coded: an arithmetic coder with the model's own prior needs fewer
than two bits more than their information, for the whole image. Neither has a header, since the receiver has the model
and knows the size of the images.

Sizes of JPEG are counted in two ways. *File* is all of a file that Pillow writes and reads again, with Huffman tables
made for the image. *Scan* is its entropy-coded data alone, with the standard's tables, and one byte that tells the
quality and the subsampling: what is left when the receiver knows the size of the images and can rebuild the tables.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data.images.collection import Images
from motionlex.data.images.preprocessing import LARGEST, Preprocessing
from motionlex.data.images.source import in_order
from motionlex.motion_vae.images.code_lengths import JpegImage, decoded, jpeg_images, nearest, packed_bytes
from motionlex.motion_vae.images.levels import decode_levels, level_bits, most_probable_codes
from motionlex.motion_vae.images.metrics import WINDOW, squared_error, structural_similarity
from motionlex.motion_vae.methods.rrvq import RRVQ
from motionlex.motion_vae.metrics import psnr_db
from motionlex.motion_vae.registry import PlainValue

BATCH = 256
"""Images at once."""
TERMINATION_BITS = 2.0
"""What an arithmetic coder may need beyond the information of the sequence (Cover and Thomas 2006, section 13.3)."""
CURVE = (1, 5, 10, 20, 40, 60, 80, 95)
"""Qualities of the curve of JPEG, without subsampling of the colours."""
SIDE_BYTES = 1
"""Tells the quality and the subsampling beside a scan: there are 190 choices."""
BUDGETS, COUNTS = ("fixed", "coded"), ("scan", "file")
"""Sizes of the model that JPEG is brought near, and what of a JPEG file is counted."""


@dataclass(kw_only=True)
class Tally:
    """Sizes and errors of one way of coding, image by image."""

    sizes: dict[str, list[float]] = field(default_factory=dict)
    """Bytes by what is counted."""
    psnr: list[float] = field(default_factory=list)
    """[dB]."""
    ssim: list[float] = field(default_factory=list)
    """Nothing for images that are smaller than its window."""

    def add(
        self,
        sizes: dict[str, list[float]],
        images: Float[Tensor, "batch pixel colour"],
        truth: Float[Tensor, "batch pixel colour"],
        grid: tuple[int, int],
    ) -> None:
        """Add a batch of images in [0, 1]."""
        for name, values in sizes.items():
            self.sizes.setdefault(name, []).extend(values)
        self.psnr += psnr_db(squared_error(images, truth).double()).tolist()
        if min(grid) >= WINDOW:
            self.ssim += structural_similarity(images, truth, grid).tolist()

    def means(self) -> dict[str, PlainValue]:
        """Averages over all images, by name."""
        found: dict[str, PlainValue] = {f"{name}_bytes": float(np.mean(values)) for name, values in self.sizes.items()}
        return {**found, "psnr_db": float(np.mean(self.psnr)), "ssim": float(np.mean(self.ssim)) if self.ssim else None}


def coded_bytes(bits: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Whole bytes that an arithmetic coder needs at most for sequences of so much information."""
    return torch.ceil((bits.double() + TERMINATION_BITS) / 8.0).long()


def as_bytes(images: Float[Tensor, "batch pixel colour"]) -> Float[Tensor, "batch pixel colour"]:
    """Round to the 256 values that pixels have, as a decoder must."""
    return torch.round(images.clamp(0.0, 1.0) * LARGEST) / LARGEST


@torch.no_grad()
def measure_rates(
    model: RRVQ, preprocessing: Preprocessing, images: Images, *, limit: int | None = None
) -> dict[str, PlainValue]:
    """Measure the model, with all its levels and with the coarsest alone, and JPEG.

    Args:
        model: In evaluation mode.
        preprocessing: What it was trained with; ``unit``, so that its values are the bytes that JPEG sees.
        images: Held-out images.
        limit: Measure on so many; None takes all.

    Returns:
        ``images``, ``raw_bytes``, and lists of points: ``model`` by levels (fixed_bytes, coded_bytes), ``jpeg`` matched
        to all levels, and ``curve`` by quality; each with psnr_db and ssim, averaged over images.
    """
    assert preprocessing.form == "unit", f"bytes are wanted, got {preprocessing.form}"
    grid = (model.domain.grid[0], model.domain.grid[1])
    device = next(model.parameters()).device
    levels = [Tally() for _ in range(model.layers)]
    matched = {(budget, count): Tally() for budget in BUDGETS for count in COUNTS}
    curve = {quality: Tally() for quality in CURVE}
    tokens = np.cumsum(model.config.grid_tokens[::-1])
    total = 0
    for x, _ in in_order(images, preprocessing, batch=BATCH, limit=limit):
        codes = most_probable_codes(model, x.to(device))
        bits = level_bits(model, codes).double().cumsum(dim=1).cpu()
        for kept, tally in enumerate(levels, start=1):
            fixed = float(packed_bytes(int(tokens[kept - 1]), model.vocabulary))
            sizes = {"fixed": [fixed] * len(x), "coded": coded_bytes(bits[:, kept - 1]).double().tolist()}
            tally.add(sizes, as_bytes(decode_levels(model, codes, kept).mean.cpu()), x, grid)
        wanted = {budget: levels[-1].sizes[budget][total:] for budget in BUDGETS}
        _add_jpeg(x, grid, wanted, matched, curve)
        total += len(x)
    return {
        "images": total,
        "raw_bytes": math.prod(grid) * model.domain.features,
        "model": [{"levels": kept, **tally.means()} for kept, tally in enumerate(levels, start=1)],
        "jpeg": [{"near": near, "counted": count, **tally.means()} for (near, count), tally in matched.items()],
        "curve": [{"quality": quality, **tally.means()} for quality, tally in curve.items()],
    }


def compress(
    pixels: Float[Tensor, "pixel colour"], grid: tuple[int, int]
) -> dict[str, tuple[list[JpegImage], list[int]]]:
    """Compress one image in [0, 1] with all qualities.

    Returns:
        By what is counted, the files and their sizes [byte].
    """
    picture = np.rint(LARGEST * pixels.numpy()).astype(np.uint8).reshape(*grid, -1)
    plain, optimised = jpeg_images(picture, optimise=False), jpeg_images(picture, optimise=True)
    return {
        "scan": (plain, [len(one.scan) + SIDE_BYTES for one in plain]),
        "file": (optimised, [len(one.content) for one in optimised]),
    }


def _add_jpeg(
    x: Float[Tensor, "batch pixel colour"],
    grid: tuple[int, int],
    wanted: dict[str, list[float]],
    matched: dict[tuple[str, str], Tally],
    curve: dict[int, Tally],
) -> None:
    """Add a batch of images to the tallies of JPEG."""
    for place, pixels in enumerate(x):
        found = compress(pixels, grid)
        for (budget, count), tally in matched.items():
            files, sizes = found[count]
            chosen = nearest(files, sizes, int(wanted[budget][place]))
            tally.add({count: [float(sizes[chosen])]}, unit_pixels(files[chosen]), pixels[None], grid)
        files, scans = found["scan"]
        for index, one in enumerate(files):
            if one.quality in curve and one.subsampling == 0:
                sizes = {"scan": [float(scans[index])], "file": [float(found["file"][1][index])]}
                curve[one.quality].add(sizes, unit_pixels(one), pixels[None], grid)


def unit_pixels(image: JpegImage) -> Float[Tensor, "1 pixel colour"]:
    """Decode a JPEG image to values in [0, 1], pixels in row-major order."""
    return torch.from_numpy(decoded(image.content).copy()).flatten(0, 1)[None].float() / LARGEST
