"""Seeing the robot: off-screen video, browser, MuJoCo's window. Everything shows a simulator's present state."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import mujoco.viewer

from motionlex.data.errors import UserError
from motionlex.envs.painter import TrackingCamera
from motionlex.envs.simulator import Simulator
from motionlex.envs.video import Painter, Video, make_painter


@runtime_checkable
class Screen(Protocol):
    """Something that is shown every control step; whoever steps decides how fast time runs."""

    def show(self) -> None:
        """Show the present state."""

    def close(self) -> None:
        """Finish."""


class NativeViewer:
    """MuJoCo's own window."""

    def __init__(self, simulator: Simulator, on_key: Callable[[int], None] | None = None) -> None:
        """Open the window.

        Args:
            simulator: What to show.
            on_key: Called with the code of every key that is pressed (GLFW), on a thread of the window's.

        Raises:
            UserError: If there is no display.
        """
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("--viewer native needs a display and none is set; use --viewer web or --video FILE")
        # The window writes into what it is given (its reset key, forces by the mouse, sliders), hence a copy.
        self._simulator, self._model = simulator, copy.copy(simulator.model)
        self._data = mujoco.MjData(self._model)
        self._copy()
        self._window = mujoco.viewer.launch_passive(self._model, self._data, key_callback=on_key)

    @property
    def closed(self) -> bool:
        """Whether somebody closed the window."""
        return not self._window.is_running()

    def show(self) -> None:
        """Draw the present state."""
        if not self.closed:
            with self._window.lock():
                self._copy()
            self._window.sync()

    def _copy(self) -> None:
        simulator, data = self._simulator, self._data
        data.time, data.qpos[:], data.qvel[:], data.ctrl[:] = (
            simulator.time, simulator.qpos, simulator.qvel, simulator.data.ctrl
        )  # fmt: skip
        mujoco.mj_forward(self._model, data)

    def close(self) -> None:
        """Close the window."""
        self._window.close()


def open_video(path: Path, simulator: Simulator) -> Screen:
    """Return a screen that writes an mp4."""
    return Video(path, simulator)


def open_viewer(kind: Literal["web", "native"], simulator: Simulator) -> Screen:
    """Return a viewer in the browser (to look at, without controls) or in MuJoCo's window."""
    if kind == "native":
        return NativeViewer(simulator)
    from motionlex.envs.web_viewer import WebViewer  # the server takes a while to import, and few need it

    return WebViewer(simulator)


__all__ = [
    "NativeViewer", "Painter", "Screen", "TrackingCamera", "Video", "make_painter", "open_video",
    "open_viewer",
]  # fmt: skip
