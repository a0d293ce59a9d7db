"""How people steer on the page: sliders, keys, and a flag to drag. All of them are shared by all browsers."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Protocol, runtime_checkable

import numpy as np
import trimesh
import viser
from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.envs.steering import LET_GO, PAGE_KEYS, RANGES, Velocity, pressed

QUIET_S = 1.0
"""For how long after somebody's touch the widgets are left as they are [s]: what was asked may not be obeyed yet."""
AHEAD_M = 1.5
"""Where a new flag stands before the robot [m]."""
FLAG = (225, 110, 30)
"""Its colour."""


@runtime_checkable
class Steered(Protocol):
    """Is told where people want the robot to go; every method returns at once and may be called from any thread."""

    def steer(self, velocity: Velocity | None) -> None:
        """Take a wish for a velocity forward, to the left [m/s] and a turn rate [rad/s]; None for no wish."""

    def go_to(self, xy: tuple[float, float] | None) -> None:
        """Take a wish for a place in the world [m]; None for no wish."""


class Flag:
    """A mark on the floor that can be dragged; while it is hidden it stays ahead of the robot."""

    def __init__(self, server: viser.ViserServer, world: viser.FrameHandle) -> None:
        """Send it, hidden.

        Args:
            server: Where to show it.
            world: Frame of the world, which slides under the camera.
        """
        disc = trimesh.creation.cylinder(radius=0.2, height=0.02)
        pole = trimesh.creation.cylinder(radius=0.02, height=0.7)
        pole.apply_translation((0.0, 0.0, 0.35))
        knob = trimesh.creation.icosphere(subdivisions=2, radius=0.09)
        knob.apply_translation((0.0, 0.0, 0.7))
        shape = trimesh.util.concatenate([disc, pole, knob])
        self._world = world
        self._handle = server.scene.add_mesh_simple(
            f"{world.name}/goal", shape.vertices, shape.faces, color=FLAG, visible=False, receive_shadow=False
        )
        self._grip: Float[np.ndarray, " 2"] | None = None

    @property
    def xy(self) -> tuple[float, float]:
        """Its place in the world [m]."""
        x, y, _ = self._handle.position.tolist()
        return x, y

    def draw(self, xy: Float[np.ndarray, " 2"] | None) -> None:
        """Show it at a place [m], unless somebody is dragging it; None hides it."""
        self._handle.visible = xy is not None or self._grip is not None
        if xy is not None and self._grip is None:
            self._handle.position = (*xy.tolist(), 0.0)

    def stay_ahead(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Move it to where the robot looks, if nobody sees it."""
        if not self._handle.visible:
            yaw = float(quaternion.yaw(qpos[None, 3:7])[0])
            ahead = qpos[:2] + AHEAD_M * np.array([np.cos(yaw), np.sin(yaw)])
            self._handle.position = (*ahead.tolist(), 0.0)

    def on_drop(self, told: Callable[[tuple[float, float]], None]) -> None:
        """Call a function with the new place [m] whenever somebody has dragged the flag."""

        async def drag(event: viser.SceneNodeDragEvent[viser.MeshHandle]) -> None:  # async keeps the order of events
            grabbed, eye = np.array(event.start_position), np.array(event.client.camera.position)
            frame, place = np.array(self._world.position)[:2], np.array(self._handle.position)[:2]
            if event.phase == "start" or self._grip is None:
                self._grip = grabbed[:2] - frame - place
            hit = on_level(eye, np.array(event.end_position), float(grabbed[2]))
            if hit is not None:
                self._handle.position = (*(hit - frame - self._grip).tolist(), 0.0)
            if event.phase == "end":
                told(self.xy)
                self._grip = None

        self._handle.on_drag("left")(drag)


def on_level(
    eye: Float[np.ndarray, " 3"], point: Float[np.ndarray, " 3"], height: float, farthest: float = 30.0
) -> Float[np.ndarray, " 2"] | None:
    """Return where the ray from an eye through a point meets a level plane [m].

    Args:
        eye: Where the ray begins.
        point: Where it goes through.
        height: Height of the plane.
        farthest: Largest distance in the plane from below the eye.

    Returns:
        The horizontal place; None if the ray goes elsewhere, or too far.
    """
    along = point - eye
    if abs(along[2]) < 1e-9 or (height - eye[2]) / along[2] <= 0:
        return None
    hit = eye + (height - eye[2]) / along[2] * along
    return hit[:2] if float(np.linalg.norm(hit[:2] - eye[:2])) <= farthest else None


class Steering:
    """Sliders, keys and the box that shows the flag."""

    def __init__(self, gui: viser.GuiApi, listener: Steered, flag: Flag) -> None:
        """Send the widgets.

        Args:
            gui: Where to show them.
            listener: Who is told.
            flag: What is dragged.
        """
        self._listener, self._lock, self._touched = listener, threading.Lock(), -math.inf
        keys = ", ".join(f"{key} {name.lower()}" for name, key in PAGE_KEYS.items())
        with gui.add_folder("Steer", expand_by_default=False):
            self._goal = gui.add_checkbox("Flag", False, hint="Drag the flag on the floor: the robot walks there")
            self._on = gui.add_checkbox("Follow", False, hint=f"Move at this velocity while obeying the words. {keys}")
            self._sliders = [
                gui.add_slider(name, min=low, max=high, step=0.05, initial_value=0.0)
                for name, (low, high) in RANGES.items()
            ]
        self._goal.on_update(self._wish(lambda: listener.go_to(flag.xy if self._goal.value else None)))
        self._on.on_update(self._wish(self._ask))
        for slider in self._sliders:
            slider.on_update(self._wish(lambda: self._ask() if self._on.value else None))
        for name, key in PAGE_KEYS.items():
            press = functools.partial(self._press, name)
            gui.add_command(name, description="Steer", hotkey=key).on_trigger(self._wish(press))
        flag.on_drop(listener.go_to)

    def _wish(self, ask: Callable[[], None]) -> Callable[..., Coroutine[None, None, None]]:
        """Return what asks for what somebody did, in the order of events; what the simulation changes is nobody's wish.

        A coroutine runs on the server's own thread, right after the widget's value has come in; a function would wait
        for a thread of its own, and :meth:`show` could undo the touch before.
        """

        async def wish(event: viser.GuiEvent | viser.CommandEvent) -> None:
            if event.client_id is not None:
                with self._lock:
                    self._touched = time.monotonic()
                    ask()

        return wish

    @property
    def _velocity(self) -> Velocity:
        forward, left, turn = (float(slider.value) for slider in self._sliders)
        return forward, left, turn

    def _ask(self) -> None:
        self._listener.steer(self._velocity if self._on.value else None)

    def _press(self, name: str) -> None:
        """Obey a key."""
        still = (0.0, 0.0, 0.0)
        before = self._velocity if self._on.value else still  # what was let go begins anew
        self._set(still if name == LET_GO else pressed(before, name))
        self._on.value = name != LET_GO
        self._ask()
        if name == LET_GO:
            self._listener.go_to(None)

    def _set(self, velocity: Velocity) -> None:
        for slider, value in zip(self._sliders, velocity, strict=True):
            if slider.value != value:
                slider.value = value

    def show(self, velocity: Velocity | None, *, goal: bool) -> None:
        """Make boxes and sliders say what is followed, whoever changed it, once nobody touches them.

        Args:
            velocity: The velocity that is followed, if one is.
            goal: Whether a goal is.
        """
        with self._lock:
            if time.monotonic() - self._touched < QUIET_S:
                return
            for box, value in ((self._on, velocity is not None), (self._goal, goal)):
                if box.value != value:
                    box.value = value
            if velocity is not None:
                self._set(velocity)
