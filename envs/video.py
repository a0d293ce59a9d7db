"""Off-screen pictures and videos of a simulator's present state."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import imageio.v2 as imageio
import imageio_ffmpeg
import mujoco
import numpy as np
from jaxtyping import UInt8

from motionlex.envs.painter import CapsulePainter, OpenGLPainter, open_gl_context
from motionlex.envs.simulator import Simulator

logger = logging.getLogger(__name__)
MAXIMUM_FPS = 30.0
"""Control steps are skipped in videos above this rate."""


@runtime_checkable
class Painter(Protocol):
    """Something that makes pictures."""

    def paint(self, data: mujoco.MjData) -> UInt8[np.ndarray, "height width 3"]:
        """Return the present picture."""

    def close(self) -> None:
        """Free what is held."""


def make_painter(model: mujoco.MjModel, *, width: int = 640, height: int = 480) -> Painter:
    """Return the best painter this machine offers: EGL, OSMesa, else projected capsules (with a message).

    Args:
        model: What to paint.
        width: Picture width [pixel].
        height: Picture height [pixel].
    """
    context = open_gl_context(width, height)
    if context is not None:
        return OpenGLPainter(model, context, width=width, height=height)
    logger.warning("no EGL or OSMesa found: the video shows projected capsules instead of rendered geometry")
    return CapsulePainter(model, width=width, height=height)


class Video:
    """An mp4 file that appears under its name when it is complete."""

    def __init__(self, path: Path, simulator: Simulator, *, width: int = 640, height: int = 480) -> None:
        """Open the encoder.

        Args:
            path: The file; its folder must exist.
            simulator: What to film.
            width: Picture width [pixel], a multiple of 16.
            height: Picture height [pixel], a multiple of 16.
        """
        self._path, self._simulator = Path(path), simulator
        self._every = max(1, int(np.ceil(simulator.hz / MAXIMUM_FPS)))
        self._count = 0
        self._painter = make_painter(simulator.model, width=width, height=height)
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.mp4")
        self._writer = imageio.get_writer(
            self._partial, format="FFMPEG", mode="I", fps=simulator.hz / self._every, codec="libx264", quality=7,
            ffmpeg_log_level="quiet",  # what it would say is said by close, in one line
        )  # fmt: skip

    def show(self) -> None:
        """Film the present state, if it is this frame's turn."""
        if self._count % self._every == 0:
            self._simulator.place_bodies()
            picture = self._painter.paint(self._simulator.data)
            try:
                self._writer.append_data(picture)
            except OSError:
                raise self._failure() from None
        self._count += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            OSError: If the encoder could not write all of it (full disk); nothing is left then.
        """
        self._painter.close()
        try:
            self._writer.close()
            if self._count:
                self._check()
                self._partial.replace(self._path)
        except OSError:
            raise self._failure() from None
        finally:
            self._partial.unlink(missing_ok=True)

    def _check(self) -> None:
        """Read the file back: the encoder does not tell that it ran out of space."""
        try:
            frames, _ = imageio_ffmpeg.count_frames_and_secs(str(self._partial))
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if frames < -(-self._count // self._every):
            raise OSError("frames are missing")

    def _failure(self) -> OSError:
        return OSError(errno.EIO, "cannot write the video (is the disk full or read-only?)", str(self._path))
