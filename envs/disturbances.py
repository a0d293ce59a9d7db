"""What an episode meets besides the nominal robot: other masses, floors and motors, late commands, noise, kicks.

One robot and many share this class, and draw in the same order, so that a batch of one and a single environment with
one seed give the same numbers. Whatever the task leaves off draws nothing and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import mujoco
import numpy as np
from jaxtyping import Float, Int

from motionlex.data.robots import Robot
from motionlex.envs.observations import VELOCITY_SCALE, goal_frame_starts
from motionlex.envs.randomisation import Parameters, Randomisation
from motionlex.envs.simulator import substeps
from motionlex.envs.task import TrackingTask

Array = np.ndarray


class ModelWriter:
    """Writes drawn parameters into compiled models, always starting from the nominal values."""

    def __init__(self, model: mujoco.MjModel, robot: Robot) -> None:
        """Keep the nominal values.

        Args:
            model: The nominal model.
            robot: Whose model it is.
        """
        self._torso = model.body(robot.torso_body).id
        self._data = mujoco.MjData(model)
        self._friction = model.geom_friction[:, 0].copy()
        self._mass, self._inertia = model.body_mass.copy(), model.body_inertia.copy()
        self._com = model.body_ipos[self._torso].copy()
        self._stiffness, self._bias = model.actuator_gainprm[:, 0].copy(), model.actuator_biasprm[:, 1:3].copy()
        self._force, self._gear = model.actuator_forcerange.copy(), model.actuator_gear[:, 0].copy()
        self._damping, self._armature = model.dof_damping[6:].copy(), model.dof_armature[6:].copy()
        self._servo = bool(model.actuator_forcelimited.all())

    def write(self, model: mujoco.MjModel, drawn: Parameters, row: int) -> None:
        """Give a model the parameters of one robot and update what MuJoCo derives from them."""
        # A contact takes the larger coefficient of its two sides, so both are scaled.
        model.geom_friction[:, 0] = self._friction * drawn.friction[row]
        model.body_mass[:] = self._mass * drawn.mass[row]
        model.body_inertia[:] = self._inertia * drawn.mass[row][:, None]
        model.body_ipos[self._torso] = self._com + drawn.com[row]
        model.dof_damping[6:] = self._damping * drawn.joint_damping[row]
        model.dof_armature[6:] = self._armature * drawn.armature[row]
        if self._servo:
            model.actuator_gainprm[:, 0] = self._stiffness * drawn.stiffness[row]
            model.actuator_biasprm[:, 1] = self._bias[:, 0] * drawn.stiffness[row]
            model.actuator_biasprm[:, 2] = self._bias[:, 1] * drawn.damping[row]
            model.actuator_forcerange[:] = self._force * drawn.strength[row][:, None]
        else:
            model.actuator_gear[:, 0] = self._gear * drawn.strength[row]
        mujoco.mj_setConst(model, self._data)
        model.stat.meaninertia = model.dof_M0.mean()  # scales the solver's tolerance; mj_setConst leaves it alone


class Disturbances:
    """Parameters, commands on their way and sensor errors of some robots."""

    def __init__(self, task: TrackingTask, models: Sequence[mujoco.MjModel]) -> None:
        """Prepare; nothing is drawn before the first episode.

        Args:
            task: The task and its ranges.
            models: One model per robot; they are changed in place if robots differ.
        """
        config = task.config
        self.ranges: Randomisation = config.randomisation
        self.parameters: Parameters | None = None
        """What was drawn for the running episodes; None where every robot is the nominal one without delay."""
        self._count, self._joints, self._bodies = len(models), task.actions, models[0].nbody
        self._chance = 1.0 / (self.ranges.push_interval_s * config.hz)
        self._models, self._writer = models, None
        if self.ranges.physical:
            self._writer = ModelWriter(models[0], task.robot)
        if self.ranges.physical or self.ranges.delayed:
            draws = self.ranges.draws(self._bodies, self._joints)
            self.parameters = self._sample(np.zeros((self._count, draws)))
        self._torque = config.control == "torque"
        steps, late = substeps(config.hz, config.timestep), self.ranges.delay[1]
        self._line = np.zeros((self._count, late + steps if late else 0, self._joints))
        """Commands per physics step, oldest first: those on their way, then those of this control step."""
        self._steps, self._late = np.arange(steps), late
        noise, first = self.ranges.noise, 0
        self._noisy, self._everyone = self.ranges.noisy, np.arange(self._count)
        if config.goal == "latent":
            assert task.command.codes is not None
            first = task.command.codes.shape[2] + 1  # codes and phase come first
        self._deviation = np.repeat(
            (noise.joint, VELOCITY_SCALE * noise.joint_velocity, noise.gravity, noise.angular_velocity),
            (self._joints, self._joints, 3, 3),
        )
        self._measured = slice(first, first + len(self._deviation))
        self._gravity = slice(first + 2 * self._joints, first + 2 * self._joints + 3)
        # Codes say nothing about the robot; frames of a motion are shown relative to what is measured.
        self._frames = () if config.goal == "latent" else goal_frame_starts(self._joints, len(config.ahead))
        self._noise = np.zeros((self._count, len(self._deviation) if self._noisy else 0))

    def begin(
        self, rows: Int[Array, " row"], qpos: Float[Array, "row coordinate"], generator: np.random.Generator
    ) -> None:
        """Draw new robots, delays and sensor errors for episodes that begin at ``qpos``."""
        if self.parameters is not None:
            draws = self.ranges.draws(self._bodies, self._joints)
            self.assign(rows, self._sample(generator.random((len(rows), draws))))
        if self._late:
            # Until the first command arrives servos hold the start pose, and torque motors give nothing.
            self._line[rows] = 0.0 if self._torque else qpos[:, None, 7:]
        self._draw_noise(rows, generator)

    def assign(self, rows: Int[Array, " row"], parameters: Parameters) -> None:
        """Give some robots these parameters until their episodes end."""
        assert self.parameters is not None
        self.parameters.write(rows, parameters)
        self._write(rows)

    def delayed(
        self, ctrl: Float[Array, "env actuator"], held: Float[Array, "env physics actuator"]
    ) -> Float[Array, "env actuator"]:
        """Fill in what the motors get in each physics step of a control period and return what they get last.

        Args:
            ctrl: What was just decided.
            held: To be filled.
        """
        if not self._late:
            held[:] = ctrl[:, None]
            return ctrl
        assert self.parameters is not None
        self._line[:, self._late :] = ctrl[:, None]
        arriving = self._late + self._steps - self.parameters.delay[:, None]
        held[:] = self._line[self._everyone[:, None], arriving]
        self._line[:, : self._late] = self._line[:, len(self._steps) :].copy()
        return held[:, -1].copy()

    def strike(self, qvel: Float[Array, "env velocity"], generator: np.random.Generator) -> None:
        """After a control step: kick some robots horizontally, in place, and draw the next errors of the sensors."""
        speed = self.ranges.push_speed
        if speed > 0.0:
            hit = np.flatnonzero(generator.random(self._count) < self._chance)
            qvel[hit, :2] += generator.uniform(-speed, speed, (len(hit), 2))
        self._draw_noise(self._everyone, generator)

    @property
    def errors(self) -> Float[Array, "env measured"]:
        """Present errors of the sensors; no columns where sensors are exact."""
        return self._noise

    def measure(
        self, observation: Float[Array, "row feature"], errors: Float[Array, "row measured"]
    ) -> Float[Array, "row feature"]:
        """Add errors of the sensors to exact observations, in place; command frames are seen from what is measured.

        So a command's hinge angles minus the measured ones, plus the measured ones, are the command's whatever the
        error, and its rotations are relative to a base whose tilt is the measured gravity's. Heading, place and linear
        velocity of the base have no error, and what a critic sees besides the policy's part has none either.
        """
        if not self._noisy:
            return observation
        joints, exact = self._joints, observation[:, self._gravity].copy()
        observation[:, self._measured] += errors
        for start in self._frames:
            observation[:, start : start + joints] -= errors[:, :joints]
            if self.ranges.noise.gravity > 0.0:
                turned = slice(start + joints + 3, start + joints + 9)
                columns = observation[:, turned].reshape((-1, 2, 3))
                observation[:, turned] = _tilted(columns, exact, observation[:, self._gravity]).reshape((-1, 6))
        return observation

    def snapshot(self) -> dict[str, Array]:
        """Return everything that determines the future besides the generator."""
        arrays = {}
        if self._late:
            arrays["line"] = self._line.copy()
        if self._noisy:
            arrays["noise"] = self._noise.copy()
        if self.parameters is not None:
            arrays |= {f"drawn_{item.name}": getattr(self.parameters, item.name).copy() for item in fields(Parameters)}
        return arrays

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take back what :meth:`snapshot` gave.

        Raises:
            KeyError: If it was made with other options.
            ValueError: If it was made for another number of robots.
        """
        if self.parameters is not None:
            self.assign(
                self._everyone, Parameters(**{item.name: arrays[f"drawn_{item.name}"] for item in fields(Parameters)})
            )
        if self._late:
            self._line[:] = arrays["line"]
        if self._noisy:
            self._noise[:] = arrays["noise"]

    def _sample(self, uniform: Float[Array, "row draw"]) -> Parameters:
        return self.ranges.sample(uniform, bodies=self._bodies, joints=self._joints)

    def _write(self, rows: Int[Array, " row"]) -> None:
        if self._writer is None:
            return
        assert self.parameters is not None
        for row in rows:
            self._writer.write(self._models[row], self.parameters, int(row))

    def _draw_noise(self, rows: Int[Array, " row"], generator: np.random.Generator) -> None:
        if self._noisy:
            self._noise[rows] = self._deviation * generator.standard_normal((len(rows), len(self._deviation)))


def _tilted(
    vectors: Float[Array, "row vector 3"], exact: Float[Array, "row 3"], measured: Float[Array, "row 3"]
) -> Float[Array, "row vector 3"]:
    """Turn vectors by the smallest rotation that takes the exact direction of gravity to the measured one.

    Args:
        vectors: In the frame of the base.
        exact: Unit vector of gravity there.
        measured: The same with an error, of any length.

    Source: Rodrigues' formula, the axis being the cross product of both directions.
    """
    unit = measured / np.linalg.norm(measured, axis=1, keepdims=True)
    cosine = (exact * unit).sum(axis=1)[:, None, None]
    axis = np.cross(exact, unit)[:, None]  # as long as the sine of the angle
    once = np.cross(axis, vectors)
    return vectors + once + np.cross(axis, once) / (1.0 + cosine)
