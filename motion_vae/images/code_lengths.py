"""Bytes of discrete codes and of JPEG files, for comparisons at equal size."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "height width colour"]
QUALITIES = tuple(range(1, 96))
"""Pillow's range; above 95 parts of the compression are switched off."""
SUBSAMPLINGS = (0, 2)
"""Of the colours: 4:4:4 and 4:2:0."""
START_OF_SCAN, END = 0xDA, b"\xff\xd9"


def pack_codes(codes: Sequence[int], vocabulary: int) -> bytes:
    """Write codes as one number of a fixed length, the digits of which they are.

    Args:
        codes: Each below ``vocabulary``.
        vocabulary: Base of the number.

    Returns:
        :func:`packed_bytes` bytes.
    """
    number = 0
    for code in codes:
        number = number * vocabulary + code
    return number.to_bytes(packed_bytes(len(codes), vocabulary), "big")


def unpack_codes(packed: bytes, count: int, vocabulary: int) -> list[int]:
    """Read what :func:`pack_codes` wrote."""
    number, codes = int.from_bytes(packed, "big"), []
    for _ in range(count):
        number, code = divmod(number, vocabulary)
        codes.append(code)
    return codes[::-1]


def packed_bytes(count: int, vocabulary: int) -> int:
    """Least whole number of bytes that holds any sequence of so many codes."""
    return -(-(vocabulary**count - 1).bit_length() // 8)


@dataclass(frozen=True, kw_only=True)
class JpegImage:
    """One JPEG file."""

    content: bytes
    """The whole file."""
    quality: int
    """As Pillow counts it."""
    subsampling: int
    """0 for 4:4:4, 2 for 4:2:0."""

    @property
    def scan(self) -> bytes:
        """The entropy-coded data alone: no marker, table or size of the image is part of it."""
        return self.content[scan_start(self.content) : -len(END)]


def scan_start(content: bytes) -> int:
    """Place of the first byte of entropy-coded data in a baseline JPEG file.

    Source: ITU-T T.81, annex B: after the start of the image, segments of a marker and a length that counts itself.
    """
    place = 2
    while True:
        assert content[place] == 0xFF, "no marker where one must be"
        after = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if content[place + 1] == START_OF_SCAN:
            return after
        place = after


def jpeg_images(pixels: Picture, *, optimise: bool) -> list[JpegImage]:
    """Compress an image with every quality, colours with and without subsampling.

    Args:
        pixels: One or three colours.
        optimise: Whether the Huffman tables are made for the image, which shortens most files; otherwise they are the
            standard's, so that the header depends on the quality, the subsampling and the size alone.
    """
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    found = []
    for subsampling in SUBSAMPLINGS if pixels.shape[2] == 3 else SUBSAMPLINGS[:1]:
        for quality in QUALITIES:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality, subsampling=subsampling, optimize=optimise)
            found.append(JpegImage(content=file.getvalue(), quality=quality, subsampling=subsampling))
    return found


def decoded(content: bytes) -> Picture:
    """Decode a JPEG file to pixels with their colours."""
    with Image.open(io.BytesIO(content)) as picture:
        pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def nearest(candidates: Sequence[JpegImage], sizes: Sequence[int], wanted: int) -> int:
    """Find the candidate whose size is nearest, of several the one of the highest quality.

    Args:
        candidates: At least one.
        sizes: What counts as the size of each [byte].
        wanted: Size to come near [byte].

    Returns:
        Its place.
    """
    return min(range(len(candidates)), key=lambda place: (abs(sizes[place] - wanted), -candidates[place].quality))
