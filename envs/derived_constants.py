"""Constants that MuJoCo derives from masses and inertias, for many worlds at once and without leaving the device."""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.data.robots import Robot
from motionlex.envs.randomisation import Parameters

DERIVED_FIELDS = ("body_subtreemass", "body_invweight0", "dof_invweight0")
"""Fields of a model that :class:`DerivedConstants` gives."""


class DerivedConstants:
    r"""Masses of subtrees, and how easily bodies and joints are moved from the reference pose.

    There the Jacobians :math:`J_b` of the bodies' centres of mass are constants, so that the inertia matrix is linear
    in what is drawn, but for the place of the torso's centre of mass, which changes the torso's Jacobian:

    .. math:: M = \sum_b s_b \, J_b^T \operatorname{diag}(m_b, m_b, m_b, I_b) \, J_b + \operatorname{diag}(a)

    with factors :math:`s_b` on mass and inertia and rotor inertias a. A contact's softness is scaled by the mean
    diagonals of :math:`J_b M^{-1} J_b^T` (translation, rotation), a joint limit's by those of :math:`M^{-1}`.

    Source: MuJoCo's documentation of ``body_invweight0`` and ``dof_invweight0``; ``mj_setConst`` computes them so.
    Departure: no other derived constants (``dof_M0``, ``actuator_acc0``): no kernel that our models run reads them.
    """

    def __init__(self, model: mujoco.MjModel, robot: Robot, kind: Float[Tensor, "..."]) -> None:
        """Take the reference pose of a model.

        Args:
            model: The nominal model of a robot with a free root, then hinges.
            robot: Whose model it is.
            kind: Tensor whose precision and device the constants get.
        """

        def constant(value: np.ndarray) -> Tensor:
            return torch.as_tensor(value, dtype=kind.dtype, device=kind.device)

        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        moving, turning = (np.zeros((model.nbody, 3, model.nv)) for _ in range(2))
        for body in range(1, model.nbody):
            mujoco.mj_jacBodyCom(model, data, moving[body], turning[body], body)
        axes = data.ximat.reshape(-1, 3, 3)
        inertia = np.einsum("bij,bj,bkj->bik", axes, model.body_inertia, axes)
        parts = np.einsum("b,bri,brj->bij", model.body_mass, moving, moving)
        parts += np.einsum("bri,brs,bsj->bij", turning, inertia, turning)
        self._torso = torso = model.body(robot.torso_body).id
        self._inertia = constant(parts.reshape(model.nbody, -1))
        self._mass, self._armature = constant(model.body_mass), constant(model.dof_armature)
        self._subtree = constant(_below(model.body_parentid))
        self._moving, self._turning = constant(moving[torso]), constant(turning[torso])
        self._axes = constant(data.xmat[torso].reshape(3, 3))
        # Mean diagonals are linear in the inverse as well.
        means = np.stack([np.einsum("bri,brj->bij", rows, rows) / 3.0 for rows in (moving, turning)], axis=1)
        self._means = constant(means.reshape(2 * model.nbody, -1).T)
        self._unit = constant(np.eye(model.nv))

    def __call__(self, drawn: Parameters) -> dict[str, Float[Tensor, "env ..."]]:
        """Return every field of :data:`DERIVED_FIELDS` for the robots that were drawn; nothing waits for the device."""
        mass, armature = torch.as_tensor(drawn.mass), torch.as_tensor(drawn.armature)
        worlds, velocities = len(mass), len(self._unit)
        shift = torch.as_tensor(drawn.com) @ self._axes.T
        # A point at r from the centre moves by w x r more.
        moving = self._moving + torch.linalg.cross(self._turning[None], shift[:, :, None], dim=1)
        matrix = (mass @ self._inertia).view(worlds, velocities, velocities)
        torso = mass[:, self._torso, None, None] * self._mass[self._torso]
        matrix = matrix + torso * (moving.mT @ moving - self._moving.mT @ self._moving)
        rotors = self._armature.expand(worlds, -1).clone()
        rotors[:, 6:] *= armature
        matrix.diagonal(dim1=1, dim2=2).add_(rotors)
        factor, _ = torch.linalg.cholesky_ex(matrix)  # unlike cholesky it does not ask whether it succeeded
        half = torch.linalg.solve_triangular(factor, self._unit.expand_as(matrix), upper=False)
        inverse = half.mT @ half
        bodies = (inverse.flatten(1) @ self._means).view(worlds, -1, 2)
        bodies[:, self._torso, 0] = (half @ moving.mT).square().sum(dim=(1, 2)) / 3.0
        joints = inverse.diagonal(dim1=1, dim2=2).clone()
        for first in (0, 3):  # of a free joint MuJoCo takes means
            joints[:, first : first + 3] = joints[:, first : first + 3].mean(dim=1, keepdim=True)
        return {
            "body_subtreemass": (mass * self._mass) @ self._subtree,
            "body_invweight0": bodies,
            "dof_invweight0": joints,
        }


def _below(parents: np.ndarray) -> Float[np.ndarray, "body root"]:
    """Return 1 where a body belongs to the subtree of another (or is it), else 0."""
    member = np.eye(len(parents))
    for body in range(1, len(parents)):
        member[body] += member[parents[body]]  # parents come first
    return member
