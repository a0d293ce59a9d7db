"""Which feet stand on the floor, and how fast they slide over it: from key points alone, for arrays of any kind."""

from __future__ import annotations

import mujoco
import numpy as np
from jaxtyping import Bool, Float

from motionlex.data.arrays import Array, like, namespace
from motionlex.data.robots import Robot
from motionlex.envs.kinematics import SiteStates

CONTACT_M = 0.002
"""A contact sphere touches when its lowest point is at most this high [m]: physics lets loaded ones sink by less."""


class Soles:
    """The contact spheres of both feet as points fixed to the foot sites."""

    def __init__(self, robot: Robot) -> None:
        """Read where the spheres are.

        Args:
            robot: Its feet have spheres of one radius each and a key point on the same body.
        """
        model = robot.model(control="none")
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        owners = {int(model.site(name).bodyid[0]): index for index, name in enumerate(robot.sites) if "foot" in name}
        sites, offsets, radii = [], [], []
        for geoms in robot.foot_geoms:
            ids = [model.geom(name).id for name in geoms]
            sites.append(owners[int(model.geom_bodyid[ids[0]])])
            site = model.site(robot.sites[sites[-1]]).id
            turn = data.site_xmat[site].reshape(3, 3)
            offsets.append((data.geom_xpos[ids] - data.site_xpos[site]) @ turn)
            radii.append(model.geom_size[ids, 0])
        self._sites = sites
        self._offsets: Float[np.ndarray, "foot sphere 3"] = np.array(offsets)
        self._radii: Float[np.ndarray, "foot sphere"] = np.array(radii)

    def lowest(self, motion: SiteStates) -> Float[Array, "env foot sphere"]:
        """Return the height of every sphere's lowest point [m]."""
        return self._arms(motion)[..., 2] + motion.position[:, self._sites][:, :, None, 2]

    def sliding(
        self, motion: SiteStates, *, contact: float = CONTACT_M
    ) -> tuple[Float[Array, "env foot"], Bool[Array, "env foot"]]:
        r"""Return how fast each foot slides [m/s] and whether it touches the floor.

        The speed is the horizontal one of the material points at the floor, :math:`v + \omega \times r`, averaged
        over the touching spheres of a foot; 0 where none touches.

        Args:
            motion: Key points and their velocities.
            contact: Largest height of a sphere's lowest point that counts as touching [m].
        """
        xp = namespace(motion.position)
        arm = self._arms(motion)
        height = arm[..., 2] + motion.position[:, self._sites][:, :, None, 2]
        spin, linear = motion.angular[:, self._sites][:, :, None], motion.linear[:, self._sites][:, :, None]
        east = linear[..., 0] + spin[..., 1] * arm[..., 2] - spin[..., 2] * arm[..., 1]
        north = linear[..., 1] + spin[..., 2] * arm[..., 0] - spin[..., 0] * arm[..., 2]
        touching = height <= contact
        count = touching.sum(axis=2)
        speed = xp.where(touching, xp.sqrt(east * east + north * north), 0.0).sum(axis=2)
        return speed / xp.where(count > 0, count, 1), count > 0

    def _arms(self, motion: SiteStates) -> Float[Array, "env foot sphere 3"]:
        """Return the way from each foot's site to the lowest points of its spheres [m], in the world."""
        offsets, radii = like(motion.position, self._offsets), like(motion.position, self._radii)
        turn = motion.rotation[:, self._sites]
        arm = (turn[:, :, None] * offsets[None, :, :, None, :]).sum(axis=-1)
        down = like(motion.position, np.array([0.0, 0.0, 1.0]))
        return arm - radii[None, :, :, None] * down
