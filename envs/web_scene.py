"""What the page's three-dimensional part shows: the robot, what is planned for it, and paths on the floor.

A robot is three batches (spheres, cylinders, boxes) whose instances move: five arrays per picture instead of two
messages for each of its bodies. A capsule is a cylinder with a sphere at either end.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import trimesh
import viser
from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.envs.painter import TrackingCamera
from motionlex.envs.web_steering import Flag

FLOOR_M = 40.0
"""Side of the floor that slides along under the robot [m]."""
SNAP_M = 1.0
"""A robot that is this far from where the picture looks was put there: the picture jumps too [m]."""
GHOST = (80, 160, 255)
"""Colour of what is planned."""
WANTED = (20, 150, 80)
"""Colour of the path that is wanted."""
DONE = (120, 125, 135)
"""Colour of the path that was walked."""
ROUND = (int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_CYLINDER))
ENDED = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
SPHERE = int(mujoco.mjtGeom.mjGEOM_SPHERE)
BOX = int(mujoco.mjtGeom.mjGEOM_BOX)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Places of the instances of one shape, in the world."""

    positions: Float[np.ndarray, "part 3"]
    """Centres [m]."""
    wxyzs: Float[np.ndarray, "part 4"]
    """Orientations."""


class Shape:
    """Geometry of a robot, cut into spheres, cylinders and boxes."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Read the geoms of every body but the world.

        Args:
            model: The robot; it is posed in data of our own, the simulation is never touched.
        """
        self._model, self._data = model, mujoco.MjData(model)
        owned = np.flatnonzero(model.geom_bodyid > 0)
        kind = model.geom_type[owned]
        self._round, self._boxes = owned[np.isin(kind, ROUND)], owned[kind == BOX]
        self._balls, ends = owned[kind == SPHERE], owned[kind == ENDED]
        self._ends = np.concatenate((ends, ends))
        self._offsets = np.concatenate((model.geom_size[ends, 1], -model.geom_size[ends, 1]))
        radius, half = model.geom_size[self._round, 0], model.geom_size[self._round, 1]
        self.scales = {
            "spheres": np.tile(model.geom_size[np.concatenate((self._balls, self._ends)), :1], (1, 3)),
            "cylinders": np.stack((radius, radius, 2.0 * half), axis=1),
            "boxes": 2.0 * model.geom_size[self._boxes],
        }
        """Sizes of the instances relative to a shape of radius 1, height 1 or side 1 [m]."""
        geoms = (np.concatenate((self._balls, self._ends)), self._round, self._boxes)
        self.colors = {name: _colors(model, group) for name, group in zip(self.scales, geoms, strict=True)}
        """Colours of the instances, 0 to 255."""

    def place(self, qpos: Float[np.ndarray, " coordinate"]) -> dict[str, Parts]:
        """Return where the instances of each shape are when the robot has a pose."""
        model, data = self._model, self._data
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        turned = quaternion.multiply(data.xquat[model.geom_bodyid], model.geom_quat)
        axis = data.geom_xmat.reshape(-1, 3, 3)[self._ends, :, 2]
        ends = data.geom_xpos[self._ends] + self._offsets[:, None] * axis
        balls = np.concatenate((data.geom_xpos[self._balls], ends))
        upright = np.tile([1.0, 0.0, 0.0, 0.0], (len(balls), 1))
        return {
            "spheres": Parts(positions=balls, wxyzs=upright),
            "cylinders": Parts(positions=data.geom_xpos[self._round], wxyzs=turned[self._round]),
            "boxes": Parts(positions=data.geom_xpos[self._boxes], wxyzs=turned[self._boxes]),
        }


def _colors(model: mujoco.MjModel, geoms: np.ndarray) -> np.ndarray:
    material = model.geom_matid[geoms]
    rgba = np.where(material[:, None] >= 0, model.mat_rgba[material], model.geom_rgba[geoms])
    return (255 * rgba[:, :3]).astype(np.uint8)


class Figure:
    """A robot in the browser."""

    def __init__(self, server: viser.ViserServer, name: str, shape: Shape, *, ghost: bool) -> None:
        """Send the shapes.

        Args:
            server: Where to show it.
            name: Name in the scene tree.
            shape: Geometry.
            ghost: Whether it is see-through and of one colour.
        """
        meshes = {
            "spheres": trimesh.creation.icosphere(subdivisions=2),
            "cylinders": trimesh.creation.cylinder(radius=1.0, height=1.0, sections=20),
            "boxes": trimesh.creation.box(extents=(1.0, 1.0, 1.0)),
        }
        self._shape, self._handles = shape, {}
        for kind, scales in shape.scales.items():
            if len(scales) == 0:
                continue
            self._handles[kind] = server.scene.add_batched_meshes_simple(
                f"{name}/{kind}",
                meshes[kind].vertices,
                meshes[kind].faces,
                np.tile([1.0, 0.0, 0.0, 0.0], (len(scales), 1)),
                np.zeros((len(scales), 3)),
                batched_scales=scales,
                batched_colors=GHOST if ghost else shape.colors[kind],
                opacity=0.3 if ghost else None,
                flat_shading=kind != "spheres",
                cast_shadow=not ghost,
                receive_shadow=False,
                lod="off",
            )

    def pose(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Send the places of all parts."""
        for kind, parts in self._shape.place(qpos).items():
            if kind in self._handles:
                self._handles[kind].batched_positions = parts.positions.astype(np.float32)
                if kind != "spheres":
                    self._handles[kind].batched_wxyzs = parts.wxyzs.astype(np.float32)

    def show(self, visible: bool) -> None:
        """Show or hide it."""
        for handle in self._handles.values():
            handle.visible = visible


class Trace:
    """A line on the floor."""

    def __init__(self, server: viser.ViserServer, name: str, color: tuple[int, int, int], *, height: float) -> None:
        """Send an empty line.

        Args:
            server: Where to show it.
            name: Name in the scene tree.
            color: Its colour, 0 to 255.
            height: How far above the floor it is drawn, so that lines do not hide each other [m].
        """
        self._height = height
        self._handle = server.scene.add_line_segments(name, np.zeros((1, 2, 3)), color, thickness=0.025, visible=False)

    def draw(self, xy: Float[np.ndarray, "point 2"] | None) -> None:
        """Draw a line through points [m]; None or fewer than two hide it."""
        if xy is None or len(xy) < 2:
            self._handle.visible = False
            return
        points = np.column_stack((xy, np.full(len(xy), self._height)))
        self._handle.points = np.stack((points[:-1], points[1:]), axis=1).astype(np.float32)
        self._handle.visible = True


class Scene:
    """Robot, ghost, paths and floor. Everything hangs on a frame that slides so that the robot stays in view."""

    def __init__(self, server: viser.ViserServer, model: mujoco.MjModel) -> None:
        """Send the scene.

        Args:
            server: Where to show it.
            model: The robot.
        """
        self._server, self._view = server, TrackingCamera()
        server.initial_camera.position = (2.4, -2.2, 1.5)
        server.initial_camera.look_at = (0.0, 0.0, 0.75)
        server.initial_camera.fov = np.radians(55.0)
        server.scene.configure_environment_map(None)  # seconds of work for machines without a graphics card
        server.scene.add_light_hemisphere(
            "/sky", sky_color=(255, 255, 255), ground_color=(170, 175, 185), intensity=2.5
        )
        self._floor = server.scene.add_grid(
            "/floor", width=FLOOR_M, height=FLOOR_M, cell_size=0.5, section_size=1.0, fade_distance=25.0,
            plane_color=(236, 239, 243), plane_opacity=1.0, cell_color=(222, 226, 231), section_color=(196, 202, 210),
        )  # fmt: skip
        self._world = server.scene.add_frame("/world", show_axes=False)
        shape = Shape(model)
        self.robot = Figure(server, "/world/robot", shape, ghost=False)
        self.ghost = Figure(server, "/world/ghost", shape, ghost=True)
        self.wanted = Trace(server, "/world/wanted", WANTED, height=0.012)
        self.planned = Trace(server, "/world/planned", GHOST, height=0.016)
        self.flag = Flag(server, self._world)
        self.walked = Trace(server, "/world/walked", DONE, height=0.008)

    def look_at(self, root: Float[np.ndarray, " 3"]) -> None:
        """Slide the world so that the robot stays in view."""
        if self._view.place is not None and np.abs(self._view.place - root[:2]).max() > SNAP_M:
            self._view.place = None
        self._view.follow(root)
        assert self._view.place is not None
        x, y = self._view.place.tolist()
        self._world.position = (-x, -y, 0.0)
        self._floor.position = (-x % 1.0, -y % 1.0, 0.0)
