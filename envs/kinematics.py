"""Key points of many robots at once: positions, rotations and velocities, for numpy arrays and torch tensors.

``mujoco.rollout`` returns states only, and its sensors lag them by one step; this costs a twentieth of the physics.
Inside, components come first and robots last, so that every operation runs over contiguous robots.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.arrays import Array, like, namespace
from motionlex.data.robots import Robot


@dataclass(frozen=True, kw_only=True)
class SiteStates:
    """Key points in the world, in the order of ``Robot.sites``."""

    position: Float[Array, "env site 3"]
    """Positions [m]."""
    rotation: Float[Array, "env site 3 3"]
    """Rotation matrices (columns are the site's axes)."""
    linear: Float[Array, "env site 3"]
    """Linear velocities in the world [m/s]."""
    angular: Float[Array, "env site 3"]
    """Angular velocities in the world [rad/s]."""


@dataclass(frozen=True)
class _Tree:
    """Constants of the kinematic tree; bodies are ordered by depth, the root is 0.

    Components come first, then bodies (all but the root) or sites, then an axis of length 1 for robots.
    """

    joint: np.ndarray
    """Hinge of every body."""
    fixed: np.ndarray
    """Rotation of a body in its parent while its hinge is at 0."""
    offset: np.ndarray
    """Place of a body in its parent [m]."""
    site_body: np.ndarray
    """Body that carries each site."""
    site_offset: np.ndarray
    """Place of each site in its body [m]."""
    site_rotation: np.ndarray
    """Rotation of each site in its body."""
    levels: tuple[tuple[slice, np.ndarray], ...]
    """Bodies of equal depth, with their parents."""


class SiteKinematics:
    """Forward kinematics of a free root with a tree of hinges, level by level over all robots.

    Every body gets a frame of its own whose z axis is its hinge's, so that a hinge mixes two columns of the rotation
    that arrives through the fixed orientation of the body in its parent.
    """

    def __init__(self, robot: Robot) -> None:
        """Read the tree from the robot's model."""
        self._tree = _read_tree(robot)
        self._constants: dict[object, tuple[Array, ...]] = {}

    def __call__(self, qpos: Float[Array, "env coordinate"]) -> Float[Array, "env site 3"]:
        """Return site positions [m] in the world, in the order of ``Robot.sites``."""
        rotation, position = self._bodies(qpos)
        return _rows_first(self._sites(rotation, position, qpos)[0])

    def states(self, qpos: Float[Array, "env coordinate"], qvel: Float[Array, "env velocity"]) -> SiteStates:
        """Return positions, rotations and velocities of the sites.

        Args:
            qpos: Root position [m], quaternion (w, x, y, z), hinges [rad].
            qvel: Root linear velocity in the world [m/s], angular in the base [rad/s], hinges [rad/s].
        """
        xp, tree = namespace(qpos), self._tree
        rotation, position = self._bodies(qpos)
        speed = qvel.T[6:][self._index(qpos, "joint", tree.joint)]
        site_rotation = self._constant(qpos, "site_rotation", tree.site_rotation)
        spin = quaternion.rotate(qpos[:, 3:7], qvel[:, 3:6]).T
        turn, move = [spin[:, None]], [qvel[:, :3].T[:, None]]
        for bodies, parents in self._levels(qpos):
            turns, moves = xp.concat(turn, axis=1), xp.concat(move, axis=1)
            up, arm = turns[:, parents], position[:, bodies] - position[:, parents]
            turn.append(up + rotation[:, 2, bodies] * speed[bodies.start - 1 : bodies.stop - 1])
            move.append(moves[:, parents] + _cross(up, arm))
        carrier = self._index(qpos, "site_body", tree.site_body)
        turns, moves = (xp.concat(parts, axis=1)[:, carrier] for parts in (turn, move))
        sites, arm = self._sites(rotation, position, qpos)
        carried = rotation[:, :, carrier]
        site_turn = (carried[:, :, None] * site_rotation[None]).sum(axis=1)
        return SiteStates(
            position=_rows_first(sites),
            rotation=xp.permute_dims(site_turn, (3, 2, 0, 1)),
            linear=_rows_first(moves + _cross(turns, arm)),
            angular=_rows_first(turns),
        )

    def _bodies(self, qpos: Float[Array, "env coordinate"]) -> tuple[Array, Array]:
        """Return rotations (3, 3, body, env) and positions (3, body, env)."""
        xp, tree = namespace(qpos), self._tree
        columns = xp.asarray(qpos.T, copy=True, order="C") if isinstance(qpos, np.ndarray) else qpos.T.contiguous()
        angle = columns[7:][self._index(qpos, "joint", tree.joint)]
        sine, cosine = xp.sin(angle), xp.cos(angle)
        fixed, offset = self._constant(qpos, "fixed", tree.fixed), self._constant(qpos, "offset", tree.offset)
        shape = (len(tree.joint) + 1, columns.shape[1])
        rotation = xp.empty((3, 3, *shape), dtype=qpos.dtype, device=_device(qpos))
        position = xp.empty((3, *shape), dtype=qpos.dtype, device=_device(qpos))
        rotation[:, :, 0] = xp.permute_dims(quaternion.to_matrix(columns[3:7].T), (1, 2, 0))
        position[:, 0] = columns[:3]
        for bodies, parents in self._levels(qpos):
            up = rotation[:, :, parents]
            here = slice(bodies.start - 1, bodies.stop - 1)
            turn, arm, s, c = fixed[:, :, here], offset[:, here], sine[here], cosine[here]
            still = up[:, :1] * turn[0]
            still += up[:, 1:2] * turn[1]
            still += up[:, 2:] * turn[2]
            rotation[:, 0, bodies] = c * still[:, 0] + s * still[:, 1]
            rotation[:, 1, bodies] = c * still[:, 1] - s * still[:, 0]
            rotation[:, 2, bodies] = still[:, 2]
            position[:, bodies] = position[:, parents] + up[:, 0] * arm[0] + up[:, 1] * arm[1] + up[:, 2] * arm[2]
        return rotation, position

    def _sites(self, rotation: Array, position: Array, qpos: Array) -> tuple[Array, Array]:
        """Return site positions (3, site, env) and the arms from their bodies' origins."""
        carrier = self._index(qpos, "site_body", self._tree.site_body)
        offset = self._constant(qpos, "site_offset", self._tree.site_offset)
        up = rotation[:, :, carrier]
        arm = up[:, 0] * offset[0] + up[:, 1] * offset[1] + up[:, 2] * offset[2]
        return position[:, carrier] + arm, arm

    def _constant(self, x: Array, name: str, value: np.ndarray) -> Array:
        """Return a constant in the library, kind and on the device of ``x``, made once."""
        if isinstance(x, np.ndarray) and x.dtype == value.dtype:
            return value
        key = (name, x.dtype, _device(x))
        if key not in self._constants:
            self._constants[key] = like(x, value.astype(x.dtype) if isinstance(x, np.ndarray) else value)
        return self._constants[key]

    def _index(self, x: Array, name: str, value: np.ndarray) -> Array:
        """Return an index array on the device of ``x``, made once: numpy's would be sent anew, and waited for."""
        if isinstance(x, np.ndarray):
            return value
        key = (name, None, x.device)
        if key not in self._constants:
            self._constants[key] = torch.as_tensor(value, device=x.device)
        return self._constants[key]

    def _levels(self, x: Array) -> tuple[tuple[slice, Array], ...]:
        """Return the bodies of equal depth with their parents, as index arrays on the device of ``x``."""
        return tuple(
            (bodies, self._index(x, f"parents{bodies.start}", parents)) for bodies, parents in self._tree.levels
        )


def _read_tree(robot: Robot) -> _Tree:
    model = robot.model(control="none")
    first = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, robot.root_body)
    assert np.all(model.body_jntnum[first + 1 :] == 1) and not model.jnt_pos.any()
    parent = model.body_parentid[first:] - first
    depth = np.zeros(len(parent), dtype=int)
    for body in range(1, len(parent)):
        depth[body] = depth[parent[body]] + 1
    order = np.argsort(depth, kind="stable")  # tree order within a depth
    place = np.argsort(order)
    hinged = first + order[1:]
    parents = place[parent[order[1:]]]
    frames = np.stack([np.eye(3), *(_frame_along(model.jnt_axis[model.body_jntadr[body]]) for body in hinged)])
    fixed = quaternion.to_matrix(model.body_quat[hinged])
    levels = []
    for level in range(1, depth.max() + 1):
        members = np.flatnonzero(depth[order] == level)
        levels.append((slice(int(members[0]), int(members[-1]) + 1), place[parent[order[members]]]))
    sites = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name) for name in robot.sites]
    carriers = place[model.site_bodyid[sites] - first]
    return _Tree(
        joint=model.jnt_qposadr[model.body_jntadr[hinged]] - 7,
        fixed=_components_first(np.swapaxes(frames[parents], 1, 2) @ fixed @ frames[1:]),
        offset=_components_first(np.einsum("bji,bj->bi", frames[parents], model.body_pos[hinged])),
        site_body=carriers,
        site_offset=_components_first(np.einsum("bji,bj->bi", frames[carriers], model.site_pos[sites])),
        site_rotation=_components_first(
            np.swapaxes(frames[carriers], 1, 2) @ quaternion.to_matrix(model.site_quat[sites])
        ),
        levels=tuple(levels),
    )


def _frame_along(axis: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """Return a rotation matrix whose third column is the unit vector ``axis``."""
    first = np.cross(np.eye(3)[np.argmin(np.abs(axis))], axis)
    first /= np.linalg.norm(first)
    return np.stack((first, np.cross(axis, first), axis), axis=1)


def _components_first(x: np.ndarray) -> np.ndarray:
    """Move the leading (body) axis to the end and append one for robots."""
    return np.ascontiguousarray(np.moveaxis(x, 0, -1))[..., None]


def _rows_first(x: Array) -> Array:
    """Turn (3, site, env) into (env, site, 3)."""
    return namespace(x).permute_dims(x, (2, 1, 0))


def _cross(a: Array, b: Array) -> Array:
    """Cross products of (3, ...) arrays."""
    return namespace(a).stack((a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]), axis=0)


def _device(x: Array) -> object:
    return None if isinstance(x, np.ndarray) else x.device
