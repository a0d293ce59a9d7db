"""Inverse dynamics of sampled motions by MuJoCo, without contacts or other constraints."""

from __future__ import annotations

import mujoco
import numpy as np
from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.robots import Robot


class InverseDynamics:
    """Forces that a motion needs.

    Args:
        robot: Which robot.
    """

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.model = robot.model(control="none")
        self.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
        self.data = mujoco.MjData(self.model)
        self._root = self.model.body(robot.root_body).id

    def centre_of_mass(self, qpos: Float[np.ndarray, "frame 26"]) -> Float[np.ndarray, "frame 3"]:
        """Return the centre of mass of every frame [m]."""
        out = np.empty((len(qpos), 3))
        data, model, kinematics, com = self.data, self.model, mujoco.mj_kinematics, mujoco.mj_comPos
        position, subtree = data.qpos, data.subtree_com
        for frame in range(len(qpos)):
            position[:] = qpos[frame]
            kinematics(model, data)
            com(model, data)
            out[frame] = subtree[self._root]
        return out

    def forces(self, qpos: Float[np.ndarray, "frame 26"], dt: float) -> Float[np.ndarray, "frame 25"]:
        """Return the generalised forces of every frame: root force [N, world], root torque [N m, base], hinge torques.

        Accelerations are differences of the velocities between frames, so the shortest stencil.
        """
        velocity, acceleration = derivatives(qpos, dt)
        out = np.empty((len(qpos), self.model.nv))
        data, model = self.data, self.model
        for frame in range(len(qpos)):
            data.qpos[:], data.qvel[:], data.qacc[:] = qpos[frame], velocity[frame], acceleration[frame]
            mujoco.mj_inverse(model, data)
            out[frame] = data.qfrc_inverse
        return out

    def zero_moment_point(self, qpos: Float[np.ndarray, "frame 26"], dt: float) -> Float[np.ndarray, "frame 2"]:
        """Return where on the floor the needed contact force has no horizontal moment [m]."""
        return zmp_of(qpos, self.forces(qpos, dt))


def derivatives(
    qpos: Float[np.ndarray, "frame 26"], dt: float
) -> tuple[Float[np.ndarray, "frame 25"], Float[np.ndarray, "frame 25"]]:
    """Return velocities and accelerations in MuJoCo's convention; the ends repeat their neighbours."""
    n = len(qpos)
    step = np.empty((n - 1, 25))
    step[:, :3] = np.diff(qpos[:, :3], axis=0)
    step[:, 6:] = np.diff(qpos[:, 7:], axis=0)
    q = qpos[:, 3:7]
    step[:, 3:6] = quaternion.to_rotvec(quaternion.multiply(quaternion.conjugate(q[:-1]), q[1:]))
    step /= dt
    velocity, acceleration = np.zeros((n, 25)), np.zeros((n, 25))
    velocity[1:-1], acceleration[1:-1] = 0.5 * (step[1:] + step[:-1]), (step[1:] - step[:-1]) / dt
    velocity[0], velocity[-1] = step[0], step[-1]
    return velocity, acceleration


def root_wrench(
    qpos: Float[np.ndarray, "frame 26"], forces: Float[np.ndarray, "frame 25"]
) -> tuple[Float[np.ndarray, "frame 3"], Float[np.ndarray, "frame 3"]]:
    """Return the needed outer force [N] and its moment about the world's origin [N m]."""
    force = forces[:, :3]
    moment = np.cross(qpos[:, :3], force) + quaternion.rotate(qpos[:, 3:7], forces[:, 3:6])
    return force, moment


def zmp_of(qpos: Float[np.ndarray, "frame 26"], forces: Float[np.ndarray, "frame 25"]) -> Float[np.ndarray, "frame 2"]:
    """Return the zero-moment point on the floor [m]; meaningless in flight."""
    force, moment = root_wrench(qpos, forces)
    vertical = np.maximum(force[:, 2], 50.0)
    return np.stack((-moment[:, 1] / vertical, moment[:, 0] / vertical), axis=1)
