"""What drawn factors make of a model's numbers: one formula for MuJoCo's models and for MuJoCo Warp's worlds."""

from __future__ import annotations

from types import EllipsisType

import mujoco
from jaxtyping import Float

from motionlex.data.arrays import Array, like
from motionlex.data.robots import Robot
from motionlex.envs.randomisation import Parameters

Place = tuple[EllipsisType | int | slice, ...]
"""Where new numbers go inside a field, whose leading dimensions (none in MuJoCo, the world in Warp) are ``...``."""
VARIED_FIELDS = (
    *("geom_friction", "body_mass", "body_inertia", "body_ipos", "dof_damping", "dof_armature"),
    *("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "actuator_gear"),
)
"""Fields of a model that :class:`VariedModel` may change."""


class VariedModel:
    """The nominal numbers of a model, and those of drawn robots."""

    def __init__(self, model: mujoco.MjModel, robot: Robot, kind: Array) -> None:
        """Keep copies of the nominal numbers.

        Args:
            model: The nominal model.
            robot: Whose model it is.
            kind: Floating-point array whose library, precision and device the numbers get.
        """
        self._torso = model.body(robot.torso_body).id
        self._servo = bool(model.actuator_forcelimited.all())
        bias = model.actuator_biasprm
        self._friction, self._mass, self._inertia, self._com, self._damping, self._armature = (
            like(kind, value.copy())
            for value in (
                *(model.geom_friction[:, 0], model.body_mass, model.body_inertia, model.body_ipos[self._torso]),
                *(model.dof_damping[6:], model.dof_armature[6:]),
            )
        )
        self._gain, self._stiffness, self._bias, self._force, self._gear = (
            like(kind, value.copy())
            for value in (
                *(model.actuator_gainprm[:, 0], bias[:, 1], bias[:, 2]),
                *(model.actuator_forcerange, model.actuator_gear[:, 0]),
            )
        )

    def __call__(self, drawn: Parameters) -> list[tuple[str, Place, Float[Array, "env ..."]]]:
        """Return the fields that drawn parameters change: name, place inside it, and the numbers of every robot."""
        every, hinges = (...,), (..., slice(6, None))
        changes: list[tuple[str, Place, Array]] = [
            # A contact takes the larger coefficient of its two sides, so both are scaled.
            ("geom_friction", (..., 0), self._friction * drawn.friction[:, None]),
            ("body_mass", every, self._mass * drawn.mass),
            ("body_inertia", every, self._inertia * drawn.mass[:, :, None]),
            ("body_ipos", (..., self._torso, slice(None)), self._com + drawn.com),
            ("dof_damping", hinges, self._damping * drawn.joint_damping),
            ("dof_armature", hinges, self._armature * drawn.armature),
        ]
        if not self._servo:
            return [*changes, ("actuator_gear", (..., 0), self._gear * drawn.strength)]
        return [
            *changes,
            ("actuator_gainprm", (..., 0), self._gain * drawn.stiffness),
            ("actuator_biasprm", (..., 1), self._stiffness * drawn.stiffness),
            ("actuator_biasprm", (..., 2), self._bias * drawn.damping),
            ("actuator_forcerange", every, self._force * drawn.strength[:, :, None]),
        ]
