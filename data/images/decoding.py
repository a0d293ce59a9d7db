"""Encoded bytes -> a picture of three colours, or an error that names the file."""

from __future__ import annotations

import io
import zlib

from PIL import Image

from motionlex.data.errors import UserError

_GREY = ("1", "L", "LA", "La", "I", "F")


def decode(content: bytes, name: str, *, grey: bool = False) -> Image.Image:
    """Decode a picture as RGB (palettes and print colours are converted, transparency is dropped).

    Args:
        content: A whole file of any format that Pillow reads.
        name: What errors call it.
        grey: Whether a grey picture is converted to three equal colours instead of refused.

    Raises:
        UserError: If it is damaged, no picture at all, or grey where colours are wanted.
    """
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
        if picture.mode == "RGB":
            return picture
        if (picture.mode in _GREY or picture.mode.startswith("I;")) and not grey:
            raise UserError(f"{name} is a grey image (mode {picture.mode}) in a colour set: remove or convert it")
        return picture.convert("RGB")
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{name} is no image ({len(content)} bytes): fetch it again or remove it") from error
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is not an intact image: {error}; fetch it again or remove it") from error
