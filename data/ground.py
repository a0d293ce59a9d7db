"""Where a motion is above the floor and where it sinks into it, by the shapes of the whole body."""

from __future__ import annotations

import mujoco
import numpy as np
from jaxtyping import Float

from motionlex.data.robots import Robot

_SPHERE, _CAPSULE = int(mujoco.mjtGeom.mjGEOM_SPHERE), int(mujoco.mjtGeom.mjGEOM_CAPSULE)
_CYLINDER, _BOX = int(mujoco.mjtGeom.mjGEOM_CYLINDER), int(mujoco.mjtGeom.mjGEOM_BOX)


def clearance(qpos: Float[np.ndarray, "frame coordinate"], robot: Robot) -> Float[np.ndarray, " frame"]:
    """Return the height of the body's lowest point above the floor [m], negative where it is below.

    Args:
        qpos: Positions.
        robot: Its model's geoms count, those that touch nothing as well; the floor is at height 0.
    """
    return lowest_points(qpos, robot).min(axis=1)


def lowest_points(qpos: Float[np.ndarray, "frame coordinate"], robot: Robot) -> Float[np.ndarray, "frame geom"]:
    r"""Return the height of the lowest point of every geom of the body [m], in the model's order.

    A shape with centre c and rotation R reaches down to :math:`c_z - h(R^T e_z)`, h its support function: r for a
    sphere, :math:`r + l |n_z|` for a capsule, :math:`\sum_i s_i |n_i|` for a box, :math:`l |n_z| + r \sqrt{1 - n_z^2}`
    for a cylinder.
    """
    model = robot.model(control="none")
    data = mujoco.MjData(model)
    geoms = np.flatnonzero(model.geom_bodyid > 0)
    kind, size = model.geom_type[geoms], model.geom_size[geoms]
    unknown = set(kind.tolist()) - {_SPHERE, _CAPSULE, _CYLINDER, _BOX}
    assert not unknown, f"shapes {unknown} have no support function here"
    height, down = np.empty((len(qpos), len(geoms))), np.empty((len(qpos), len(geoms), 3))
    for frame in range(len(qpos)):
        data.qpos[:] = qpos[frame]
        mujoco.mj_kinematics(model, data)
        height[frame], down[frame] = data.geom_xpos[geoms, 2], data.geom_xmat[geoms, 6:]
    lean = np.abs(down)
    along = lean[..., 2] * size[:, 1]
    support = np.where(kind == _CAPSULE, size[:, 0] + along, np.broadcast_to(size[:, 0], height.shape))
    round_side = np.sqrt(np.clip(1.0 - lean[..., 2] ** 2, 0.0, 1.0)) * size[:, 0]
    support = np.where(kind == _CYLINDER, along + round_side, support)
    support = np.where(kind == _BOX, (lean * size).sum(axis=2), support)
    return height - support
