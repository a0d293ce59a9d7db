"""How much of its torque each motor gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float

from motionlex.data.arrays import Array, clamp, like
from motionlex.data.robots import Robot
from motionlex.envs.randomisation import Parameters


@dataclass(frozen=True, kw_only=True)
class Motors:
    """Constants of a robot's motors."""

    control: Literal["pd", "torque"]
    """Position servos or torques."""
    limit: Float[Array, " joint"]
    """Largest torque [N m]."""
    stiffness: Float[Array, " joint"]
    """Gain of the servo on the angle [N m/rad]."""
    damping: Float[Array, " joint"]
    """Gain of the servo on the velocity [N m s/rad]."""

    @classmethod
    def of(cls, robot: Robot, control: Literal["pd", "torque"], kind: Array) -> Motors:
        """Return a robot's motors as arrays of the library, kind and device of ``kind``."""
        return cls(
            control=control,
            limit=like(kind, robot.torque_limit),
            stiffness=like(kind, robot.stiffness),
            damping=like(kind, robot.damping),
        )

    def torque_share(
        self,
        ctrl: Float[Array, "env actuator"],
        qpos: Float[Array, "env coordinate"],
        qvel: Float[Array, "env velocity"],
        parameters: Parameters | None = None,
    ) -> Float[Array, "env joint"]:
        """Return the motor torques that ctrl gives at a state, as shares of their limits in [-1, 1].

        Servos and limits are those that were drawn for each robot, where ``parameters`` are given.
        """
        if self.control == "torque":
            return ctrl / self.limit
        stiffness, damping, limit = self.stiffness, self.damping, self.limit
        if parameters is not None:
            stiffness, damping = stiffness * parameters.stiffness, damping * parameters.damping
            limit = limit * parameters.strength
        torque = stiffness * (ctrl - qpos[:, 7:]) - damping * qvel[:, 6:]
        return clamp(torque / limit, -1.0, 1.0)
