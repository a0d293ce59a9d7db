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
from motionlex.envs.delay import DelayLine
from motionlex.envs.randomisation import Parameters, Randomisation
from motionlex.envs.sensors import Sensors
from motionlex.envs.simulator import substeps
from motionlex.envs.task import TrackingTask
from motionlex.envs.varied_model import VariedModel

Array = np.ndarray


class ModelWriter:
    """Writes drawn parameters into compiled models, always starting from the nominal values."""

    def __init__(self, model: mujoco.MjModel, robot: Robot) -> None:
        """Keep the nominal values.

        Args:
            model: The nominal model.
            robot: Whose model it is.
        """
        self._varied = VariedModel(model, robot, model.qpos0)
        self._data = mujoco.MjData(model)

    def write(self, model: mujoco.MjModel, drawn: Parameters, row: int) -> None:
        """Give a model the parameters of one robot and update what MuJoCo derives from them."""
        for name, place, numbers in self._varied(drawn.rows(slice(row, row + 1))):
            getattr(model, name)[place] = numbers[0]
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
        self._everyone, self._line = np.arange(self._count), None
        if self.ranges.delayed:
            steps, late = substeps(config.hz, config.timestep), self.ranges.delay[1]
            self._line = DelayLine(np.zeros((self._count, late + steps, self._joints)), late=late)
        self._sensors = Sensors(task) if self.ranges.noisy else None
        self._noise = np.zeros((self._count, 0 if self._sensors is None else len(self._sensors.deviation)))

    def begin(
        self, rows: Int[Array, " row"], qpos: Float[Array, "row coordinate"], generator: np.random.Generator
    ) -> None:
        """Draw new robots, delays and sensor errors for episodes that begin at ``qpos``."""
        if self.parameters is not None:
            draws = self.ranges.draws(self._bodies, self._joints)
            self.assign(rows, self._sample(generator.random((len(rows), draws))))
        if self._line is not None:
            # Until the first command arrives servos hold the start pose, and torque motors give nothing.
            self._line.line[rows] = 0.0 if self._torque else qpos[:, None, 7:]
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
        if self._line is None:
            held[:] = ctrl[:, None]
            return ctrl
        assert self.parameters is not None
        held[:] = self._line.send(ctrl, self.parameters.delay)
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
        """Add errors of the sensors to exact observations, in place, see :meth:`Sensors.measure`."""
        return observation if self._sensors is None else self._sensors.measure(observation, errors)

    def snapshot(self) -> dict[str, Array]:
        """Return everything that determines the future besides the generator."""
        arrays = {}
        if self._line is not None:
            arrays["line"] = self._line.line.copy()
        if self._sensors is not None:
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
        if self._line is not None:
            self._line.line[:] = arrays["line"]
        if self._sensors is not None:
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
        if self._sensors is not None:
            deviation = self._sensors.deviation
            self._noise[rows] = deviation * generator.standard_normal((len(rows), len(deviation)))
