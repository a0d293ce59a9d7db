"""Seeing the robot: off-screen video, browser, MuJoCo's window. Everything shows a simulator's present state."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import imageio.v2 as imageio
import imageio_ffmpeg
import mujoco
import mujoco.viewer
import numpy as np
import viser
from jaxtyping import UInt8

from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.envs.painter import CapsulePainter, OpenGLPainter, TrackingCamera, open_gl_context
from motionlex.envs.simulator import Simulator

logger = logging.getLogger(__name__)
MAXIMUM_FPS = 30.0
"""Control steps are skipped in videos above this rate."""


@runtime_checkable
class Screen(Protocol):
    """Something that is shown every control step."""

    def show(self) -> None:
        """Show the present state."""

    def close(self) -> None:
        """Finish."""


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
            mujoco.mj_kinematics(self._simulator.model, self._simulator.data)
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


class WebViewer:
    """The robot in the browser (viser), at most in real time; the floor slides under a robot that stays in view."""

    def __init__(self, simulator: Simulator, *, port: int = 8080) -> None:
        """Start the server and print its address.

        Args:
            simulator: What to show.
            port: Port of the server; the next free one is taken if it is in use.
        """
        self._simulator = simulator
        self._server = viser.ViserServer(port=port, verbose=False)
        self._floor = self._server.scene.add_grid("/floor", width=20.0, height=20.0, cell_size=1.0)
        model = simulator.model
        self._bodies = {
            body: self._server.scene.add_frame(f"/robot/{model.body(body).name}", show_axes=False)
            for body in range(1, model.nbody)
        }
        for geom in range(model.ngeom):
            if model.geom_bodyid[geom] > 0:
                self._add_geom(geom)
        self._clock = _RealTime(1.0 / simulator.hz)
        logger.info("web viewer: http://localhost:%d", self._server.get_port())

    def _add_geom(self, geom: int) -> None:
        model, scene = self._simulator.model, self._server.scene
        name = f"/robot/{model.body(model.geom_bodyid[geom]).name}/geom_{geom}"
        material = model.geom_matid[geom]
        rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
        color = tuple(int(255 * c) for c in rgba[:3])
        place = {"position": tuple(model.geom_pos[geom]), "wxyz": tuple(model.geom_quat[geom]), "color": color}
        size, kind = model.geom_size[geom], int(model.geom_type[geom])
        if kind == int(mujoco.mjtGeom.mjGEOM_BOX):
            scene.add_box(name, dimensions=tuple(2.0 * size), **place)
            return
        scene.add_icosphere(name, radius=float(size[0]), subdivisions=2, **place)
        if kind in (int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_CYLINDER)):
            axis = quaternion.rotate(model.geom_quat[geom], np.array([0.0, 0.0, 1.0]))
            for side in (-1.0, 1.0):
                end = {**place, "position": tuple(model.geom_pos[geom] + side * size[1] * axis)}
                scene.add_icosphere(f"{name}_{int(side)}", radius=float(size[0]), subdivisions=2, **end)
            scene.add_cylinder(f"{name}_shaft", radius=float(size[0]), height=float(2 * size[1]), **place)

    def show(self) -> None:
        """Send the present state; waits so that the robot moves in real time."""
        model, data = self._simulator.model, self._simulator.data
        mujoco.mj_kinematics(model, data)
        origin = np.array([data.qpos[0], data.qpos[1], 0.0])
        with self._server.atomic():
            self._floor.position = tuple(-np.mod(origin, 1.0))
            for body, frame in self._bodies.items():
                frame.position = tuple(data.xpos[body] - origin)
                frame.wxyz = tuple(data.xquat[body])
        self._clock.wait()

    def close(self) -> None:
        """Stop the server."""
        self._server.stop()


class NativeViewer:
    """MuJoCo's own window."""

    def __init__(self, simulator: Simulator) -> None:
        """Open the window.

        Raises:
            UserError: If there is no display.
        """
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("--viewer native needs a display and none is set; use --viewer web or --video FILE")
        self._window = mujoco.viewer.launch_passive(simulator.model, simulator.data)
        self._clock = _RealTime(1.0 / simulator.hz)

    def show(self) -> None:
        """Draw the present state; waits so that the robot moves in real time."""
        if self._window.is_running():
            self._window.sync()
            self._clock.wait()

    def close(self) -> None:
        """Close the window."""
        self._window.close()


class _RealTime:
    """Sleeps what is left of every period."""

    def __init__(self, period_s: float) -> None:
        self._period, self._next = period_s, time.perf_counter()

    def wait(self) -> None:
        now = time.perf_counter()
        self._next = max(self._next + self._period, now)
        time.sleep(self._next - now)


def open_video(path: Path, simulator: Simulator) -> Screen:
    """Return a screen that writes an mp4."""
    return Video(path, simulator)


def open_viewer(kind: Literal["web", "native"], simulator: Simulator) -> Screen:
    """Return a viewer in the browser or in MuJoCo's window."""
    return WebViewer(simulator) if kind == "web" else NativeViewer(simulator)


__all__ = [
    "NativeViewer", "Painter", "Screen", "TrackingCamera", "Video", "WebViewer", "make_painter", "open_video",
    "open_viewer",
]  # fmt: skip
