"""Pictures without a window: OpenGL off-screen where a library is found, projected capsules everywhere else.

The OpenGL path leaves out shadows, reflections, haze, skybox and multi-sampling, which together cost ten times the
rest under software rendering.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

logger = logging.getLogger(__name__)
SKY = (214, 222, 232)
"""Colour behind everything."""


@runtime_checkable
class GLContext(Protocol):
    """An off-screen OpenGL context of MuJoCo's."""

    def make_current(self) -> None:
        """Direct OpenGL calls to this context."""

    def free(self) -> None:
        """Release it."""


@dataclass
class TrackingCamera:
    """Looks at the robot's root from a fixed direction and follows it smoothly."""

    distance: float = 3.2
    """Distance from the robot [m]."""
    azimuth_deg: float = 140.0
    """Direction of view about the vertical [deg]."""
    elevation_deg: float = -14.0
    """Direction of view above the horizon [deg]."""
    height: float = 0.85
    """Height of the point looked at [m]."""
    smoothing: float = 0.85
    """Share of the last place kept per picture."""
    place: Float[np.ndarray, " 2"] | None = field(default=None, repr=False)
    """Where it looks now [m]."""

    def follow(self, root: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
        """Return the point looked at [m], moved towards the root."""
        target = np.array(root[:2])
        self.place = target if self.place is None else self.smoothing * self.place + (1 - self.smoothing) * target
        return np.array([self.place[0], self.place[1], self.height])


def open_gl_context(width: int, height: int) -> GLContext | None:
    """Return an off-screen context by EGL, else OSMesa, else None; MUJOCO_GL=egl, osmesa or disable decides."""
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in ("disable", "disabled", "off", "false", "0"):
        return None
    for backend in [wanted] if wanted in ("egl", "osmesa") else ["egl", "osmesa"]:
        try:
            context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
            context.make_current()
            logger.info("pictures are rendered off screen by %s", {"egl": "EGL", "osmesa": "OSMesa"}[backend])
            return context
        except Exception as error:  # missing libraries show as many kinds of errors
            logger.debug("no %s: %s", backend, error)
            _forget_opengl()
    return None


def _forget_opengl() -> None:
    """Let PyOpenGL choose its platform again; it decides once, when it is first imported."""
    os.environ.pop("PYOPENGL_PLATFORM", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "OpenGL"]:
        del sys.modules[name]


class OpenGLPainter:
    """MuJoCo's renderer in an off-screen context."""

    def __init__(self, model: mujoco.MjModel, context: GLContext, *, width: int, height: int) -> None:
        """Upload the model.

        Args:
            model: What to paint; its off-screen buffer is enlarged if needed.
            context: Current OpenGL context.
            width: Picture width [pixel].
            height: Picture height [pixel].
        """
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._model, self._context = model, context
        self._size = mujoco.MjrRect(0, 0, width, height)
        self._render = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._render)
        self._scene = mujoco.MjvScene(model, maxgeom=500)
        for flag in ("SHADOW", "REFLECTION", "HAZE", "SKYBOX"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._option, self._camera, self._perturb = mujoco.MjvOption(), mujoco.MjvCamera(), mujoco.MjvPerturb()
        self._tracking = TrackingCamera()
        self._pixels = np.zeros((height, width, 3), dtype=np.uint8)

    def paint(self, data: mujoco.MjData) -> UInt8[np.ndarray, "height width 3"]:
        """Return the present picture; positions of bodies must be up to date."""
        self._context.make_current()
        camera, view = self._camera, self._tracking
        camera.lookat[:] = view.follow(data.qpos[:3])
        camera.distance, camera.azimuth, camera.elevation = view.distance, view.azimuth_deg, view.elevation_deg
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, self._perturb, camera, everything, self._scene)
        mujoco.mjr_render(self._size, self._scene, self._render)
        mujoco.mjr_readPixels(self._pixels, None, self._size, self._render)
        picture = self._pixels[::-1].copy()
        picture[~picture.any(axis=2)] = SKY  # without a skybox, nothing is exactly black
        return picture

    def close(self) -> None:
        """Free buffers and context."""
        self._render.free()
        self._context.free()


class CapsulePainter:
    """A pinhole picture of every geom as a thick line, far ones first, over a grid floor; needs Pillow only."""

    def __init__(self, model: mujoco.MjModel, *, width: int, height: int) -> None:
        """Read the geoms.

        Args:
            model: What to paint.
            width: Picture width [pixel].
            height: Picture height [pixel].
        """
        self._model, self._width, self._height = model, width, height
        self._camera = TrackingCamera()
        self._focal = 0.5 * height / np.tan(np.radians(0.5 * float(model.vis.global_.fovy)))
        self._geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] > 0]
        self._half = np.array([_half_axis(model, g) for g in self._geoms])
        self._radius = np.array([_radius(model, g) for g in self._geoms])

    def paint(self, data: mujoco.MjData) -> UInt8[np.ndarray, "height width 3"]:
        """Return the present picture; positions of bodies must be up to date."""
        centre = self._camera.follow(data.qpos[:3])
        azimuth, elevation = np.radians(self._camera.azimuth_deg), np.radians(self._camera.elevation_deg)
        forward = np.array(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        )
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        axes = np.stack((right, np.cross(right, forward), forward))
        eye = centre - self._camera.distance * forward
        picture = Image.new("RGB", (self._width, self._height), SKY)
        draw = ImageDraw.Draw(picture)
        self._floor(draw, axes, eye, centre)
        ends, depth, radius = self._project(data, axes, eye)
        for index in np.argsort(-depth):
            self._capsule(draw, ends[index], radius[index], self._geoms[index])
        return np.asarray(picture, dtype=np.uint8).copy()

    def _project(
        self, data: mujoco.MjData, axes: Float[np.ndarray, "3 3"], eye: Float[np.ndarray, " 3"]
    ) -> tuple[Float[np.ndarray, "geom 2 2"], Float[np.ndarray, " geom"], Float[np.ndarray, " geom"]]:
        """Return both ends [pixel], depth [m] and radius [pixel] of every geom."""
        rotation = data.geom_xmat[self._geoms].reshape(-1, 3, 3)
        half = (rotation * self._half[:, None, :]).sum(-1)
        points = np.stack((data.geom_xpos[self._geoms] - half, data.geom_xpos[self._geoms] + half), axis=1)
        seen = (points - eye) @ axes.T
        depth = np.maximum(seen[..., 2], 0.1)
        pixels = self._to_pixels(seen, depth)
        return pixels, depth.mean(1), self._focal * self._radius / depth.mean(1)

    def _to_pixels(
        self, seen: Float[np.ndarray, "*batch 3"], depth: Float[np.ndarray, "*batch"]
    ) -> Float[np.ndarray, "*batch 2"]:
        x = 0.5 * self._width + self._focal * seen[..., 0] / depth
        y = 0.5 * self._height - self._focal * seen[..., 1] / depth
        return np.stack((x, y), axis=-1)

    def _floor(
        self,
        draw: ImageDraw.ImageDraw,
        axes: Float[np.ndarray, "3 3"],
        eye: Float[np.ndarray, " 3"],
        centre: Float[np.ndarray, " 3"],
    ) -> None:
        """Draw lines of a 0.5 m grid around the robot."""
        middle = np.round(centre[:2] * 2.0) / 2.0
        reach = np.arange(-8, 9) * 0.5
        for along in (0, 1):
            for offset in reach:
                line = np.zeros((2, 3))
                line[:, along] = middle[along] + np.array([-4.0, 4.0])
                line[:, 1 - along] = middle[1 - along] + offset
                seen = (line - eye) @ axes.T
                if (seen[:, 2] > 0.2).all():
                    pixels = self._to_pixels(seen, seen[:, 2])
                    draw.line([tuple(p) for p in pixels.tolist()], fill=(186, 193, 202), width=1)

    def _capsule(self, draw: ImageDraw.ImageDraw, ends: Float[np.ndarray, "2 2"], radius: float, geom: int) -> None:
        material = self._model.geom_matid[geom]
        rgba = self._model.mat_rgba[material] if material >= 0 else self._model.geom_rgba[geom]
        fill = tuple(int(235 * c) for c in rgba[:3])
        edge = tuple(int(0.6 * c) for c in fill)
        for grow, color in ((radius + 1.5, edge), (radius, fill)):
            draw.line([tuple(p) for p in ends.tolist()], fill=color, width=max(1, round(2 * grow)))
            for x, y in ends.tolist():
                draw.ellipse((x - grow, y - grow, x + grow, y + grow), fill=color)

    def close(self) -> None:
        """Nothing is held."""


def _half_axis(model: mujoco.MjModel, geom: int) -> Float[np.ndarray, " 3"]:
    """Return half of the geom's axis in its own frame [m]."""
    size, kind = model.geom_size[geom], int(model.geom_type[geom])
    if kind in (int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_CYLINDER)):
        return np.array([0.0, 0.0, size[1]])
    if kind == int(mujoco.mjtGeom.mjGEOM_BOX):
        longest = int(np.argmax(size))
        half = np.zeros(3)
        half[longest] = max(size[longest] - _radius(model, geom), 0.0)
        return half
    return np.zeros(3)


def _radius(model: mujoco.MjModel, geom: int) -> float:
    size, kind = model.geom_size[geom], int(model.geom_type[geom])
    return float(np.sort(size)[1]) if kind == int(mujoco.mjtGeom.mjGEOM_BOX) else float(size[0])
