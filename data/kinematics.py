"""Forward kinematics of whole clips by MuJoCo; features, metrics and rewards take its arrays."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from motionlex.data.robots.robot import Robot


@dataclass(frozen=True, kw_only=True)
class BodyStates:
    """Where the robot's key points are, in the world frame."""

    site_pos: Float[np.ndarray, "frame site 3"]
    """Positions of ``Robot.sites`` [m]."""
    site_rot: Float[np.ndarray, "frame site 3 3"]
    """Rotation matrices of the sites."""
    com: Float[np.ndarray, "frame 3"]
    """Centre of mass of the whole robot [m]."""
    site_linvel: Float[np.ndarray, "frame site 3"] | None = None
    """Linear velocities of the sites [m/s], when velocities were given."""
    site_angvel: Float[np.ndarray, "frame site 3"] | None = None
    """Angular velocities of the sites [rad/s], when velocities were given."""


class ForwardKinematics:
    """Forward kinematics of one robot.

    Args:
        robot: Which robot.
    """

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self._model = robot.model(control="none")
        self._data = mujoco.MjData(self._model)
        self._sites = np.array([self._model.site(name).id for name in robot.sites])
        self._root = self._model.body(robot.root_body).id

    def __call__(
        self,
        qpos: Float[np.ndarray, "frame 26"],
        qvel: Float[np.ndarray, "frame 25"] | None = None,
    ) -> BodyStates:
        """Compute the key points of every frame.

        Args:
            qpos: Positions, see ``MotionClip.qpos``.
            qvel: Velocities in MuJoCo's convention, see ``MotionClip.qvel``.

        Returns:
            States in float64; velocities only when ``qvel`` is given.
        """
        frames, sites = len(qpos), len(self._sites)
        pos, rot, com = np.empty((frames, sites, 3)), np.empty((frames, sites, 9)), np.empty((frames, 3))
        linear = angular = None
        if qvel is not None:
            linear, angular = np.empty((frames, sites, 3)), np.empty((frames, sites, 3))
        for frame in range(frames):
            self._forward(qpos[frame], None if qvel is None else qvel[frame])
            pos[frame] = self._data.site_xpos[self._sites]
            rot[frame] = self._data.site_xmat[self._sites]
            com[frame] = self._data.subtree_com[self._root]
            if linear is not None and angular is not None:
                linear[frame], angular[frame] = self._site_velocities()
        return BodyStates(
            site_pos=pos,
            site_rot=rot.reshape(frames, sites, 3, 3),
            com=com,
            site_linvel=linear,
            site_angvel=angular,
        )

    def _forward(self, qpos: Float[np.ndarray, " 26"], qvel: Float[np.ndarray, " 25"] | None) -> None:
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        if qvel is not None:
            self._data.qvel[:] = qvel
            mujoco.mj_comVel(self._model, self._data)

    def _site_velocities(self) -> tuple[Float[np.ndarray, "site 3"], Float[np.ndarray, "site 3"]]:
        """Shift MuJoCo's com-based spatial velocities (angular, linear at the subtree com) to the sites."""
        bodies = self._model.site_bodyid[self._sites]
        spatial = self._data.cvel[bodies]
        offset = self._data.site_xpos[self._sites] - self._data.subtree_com[self._model.body_rootid[bodies]]
        return spatial[:, 3:] + np.cross(spatial[:, :3], offset), spatial[:, :3]
