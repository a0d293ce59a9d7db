"""Positions of the key-point sites of many robots at once, in numpy.

``mujoco.rollout`` returns states only, and its sensors lag them by one step; this costs a twentieth of the physics.
"""

from __future__ import annotations

import mujoco
import numpy as np
from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.robots import Robot


def _cross_matrix(axis: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    x, y, z = axis
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


class SiteKinematics:
    """Forward kinematics of a free root with a tree of hinges, level by level over all robots.

    Each hinge turns its body by R0 (I + sin q K + (1 - cos q) K^2) (Rodrigues), with K the cross-product matrix of
    the axis and R0 the fixed orientation of the body in its parent.
    """

    def __init__(self, robot: Robot) -> None:
        """Read the tree from the robot's model."""
        model = robot.model(control="none")
        first = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, robot.root_body)
        bodies = range(first + 1, model.nbody)
        assert np.all(model.body_jntnum[first + 1 :] == 1) and not model.jnt_pos.any()
        self._joint_of = np.array([model.jnt_qposadr[model.body_jntadr[b]] - 7 for b in bodies])
        fixed = quaternion.to_matrix(model.body_quat[first + 1 :])
        cross = np.stack([_cross_matrix(model.jnt_axis[model.body_jntadr[b]]) for b in bodies])
        self._fixed, self._sine, self._cosine = fixed, fixed @ cross, fixed @ cross @ cross
        self._offset = model.body_pos[first + 1 :].copy()
        self._levels = _levels(model.body_parentid[first + 1 :] - first)
        sites = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name) for name in robot.sites]
        self._site_body = model.site_bodyid[sites] - first
        self._site_offset = model.site_pos[sites].copy()
        self._bodies = len(self._joint_of) + 1

    def __call__(self, qpos: Float[np.ndarray, "env coordinate"]) -> Float[np.ndarray, "env site 3"]:
        """Return site positions [m] in the world, in the order of ``Robot.sites``."""
        angle = qpos[:, 7:][:, self._joint_of, None, None]
        local = self._fixed + np.sin(angle) * self._sine + (1.0 - np.cos(angle)) * self._cosine
        rotation = np.empty((len(qpos), self._bodies, 3, 3))
        position = np.empty((len(qpos), self._bodies, 3))
        rotation[:, 0] = quaternion.to_matrix(qpos[:, 3:7])
        position[:, 0] = qpos[:, :3]
        for bodies, parents in self._levels:
            up = rotation[:, parents]
            rotation[:, bodies] = up @ local[:, bodies - 1]
            position[:, bodies] = position[:, parents] + (up * self._offset[bodies - 1][:, None, :]).sum(-1)
        turned = (rotation[:, self._site_body] * self._site_offset[:, None, :]).sum(-1)
        return position[:, self._site_body] + turned


def _levels(parent: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Group bodies (1-based below the root, which is 0) by depth, with their parents."""
    depth = [0]
    for up in parent:
        depth.append(depth[up] + 1)
    levels = []
    for level in range(1, max(depth) + 1):
        bodies = np.array([b for b, d in enumerate(depth) if d == level])
        levels.append((bodies, parent[bodies - 1]))
    return levels
