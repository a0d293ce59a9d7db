"""What an episode meets besides the nominal robot, on MuJoCo Warp: drawn, kept and applied on the device.

Ranges, formulas and names are those of :mod:`motionlex.envs.disturbances`; whatever the task leaves off draws nothing,
holds no memory and costs nothing. Departures from the CPU: numbers are float32 and come from torch's generator, drawn
for all worlds in every step and kept where an episode begins, so that nothing asks the device which worlds these are;
Warp scales the solver's tolerance by each world's present inertia instead of ``stat.meaninertia``.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from motionlex.envs.delay import DelayLine
from motionlex.envs.derived_constants import DerivedConstants
from motionlex.envs.randomisation import Parameters, Randomisation
from motionlex.envs.sensors import Sensors
from motionlex.envs.task import TrackingTask
from motionlex.envs.varied_model import VariedModel
from motionlex.envs.warp_physics import WarpPhysics


class WarpDisturbances:
    """Parameters, commands on their way and sensor errors of all worlds, in tensors that stay the same for good."""

    def __init__(self, task: TrackingTask, physics: WarpPhysics, generator: torch.Generator) -> None:
        """Prepare; nothing is drawn before the first episode.

        Args:
            task: The task and its ranges.
            physics: Worlds whose models and motors are written to.
            generator: Source of all draws, on the device of the worlds.
        """
        config, qpos = task.config, physics.qpos
        self.ranges: Randomisation = config.randomisation
        self.parameters: Parameters | None = None
        """What was drawn for the running episodes; None where every robot is the nominal one without delay."""
        self._physics, self._generator, self._joints = physics, generator, task.actions
        self._chance = 1.0 / (self.ranges.push_interval_s * config.hz)
        self._torque = config.control == "torque"
        self._line, self._sensors, self._varied, self._derived = None, None, None, None
        if self.ranges.physical or self.ranges.delayed:
            self._bodies = physics.host_model.nbody
            self._draws = self.ranges.draws(self._bodies, self._joints)
            self.parameters = self._sample(qpos.new_zeros((len(qpos), self._draws)))
        if self.ranges.physical:
            self._varied = VariedModel(physics.host_model, task.robot, qpos)
            self._derived = DerivedConstants(physics.host_model, task.robot, qpos)
        if self.ranges.delayed:
            late, steps = self.ranges.delay[1], physics.held.shape[1]
            self._line = DelayLine(qpos.new_zeros((len(qpos), late + steps, self._joints)), late=late)
        if self.ranges.noisy:
            self._sensors = Sensors(task)
            self._noise = qpos.new_zeros((len(qpos), len(self._sensors.deviation)))

    def begin(self, rows: Bool[Tensor, " env"], qpos: Float[Tensor, "env coordinate"]) -> None:
        """Draw new robots and delays for the worlds of a mask, whose episodes begin at ``qpos``."""
        if self.parameters is not None:
            draw = torch.rand((len(qpos), self._draws), generator=self._generator, device=qpos.device)
            self.assign(rows, self._sample(draw))
        if self._line is not None:
            # Until the first command arrives servos hold the start pose, and torque motors give nothing.
            pose = qpos[:, None, 7:]
            renew(self._line.line, torch.zeros_like(pose) if self._torque else pose, rows)

    def assign(self, rows: Bool[Tensor, " env"], parameters: Parameters) -> None:
        """Give the worlds of a mask their rows of these parameters until their episodes end."""
        assert self.parameters is not None
        for item in fields(Parameters):
            renew(getattr(self.parameters, item.name), getattr(parameters, item.name), rows)
        self.write()

    def write(self) -> None:
        """Give all worlds the models that their parameters say."""
        if self._varied is None or self._derived is None:
            return
        assert self.parameters is not None
        for name, place, numbers in self._varied(self.parameters):
            self._physics.fields[name][place] = numbers
        for name, numbers in self._derived(self.parameters).items():
            self._physics.fields[name].copy_(numbers)

    def command(self, ctrl: Float[Tensor, "env actuator"]) -> None:
        """Tell the motors what was decided; in late ones it arrives later, and after the step ``ctrl`` has arrived."""
        if self._line is None:
            self._physics.ctrl.copy_(ctrl)
            return
        assert self.parameters is not None
        self._physics.held.copy_(torch.as_tensor(self._line.send(ctrl, self.parameters.delay)))

    def strike(self, qvel: Float[Tensor, "env velocity"]) -> None:
        """After a control step: kick some robots horizontally, in place."""
        speed = self.ranges.push_speed
        if speed <= 0.0:
            return
        draw = torch.rand((len(qvel), 3), generator=self._generator, device=qvel.device)
        qvel[:, :2] += (draw[:, :1] < self._chance) * speed * (2.0 * draw[:, 1:] - 1.0)

    def sense(self) -> None:
        """Draw new errors of the sensors, to be seen until the next control step is over."""
        if self._sensors is not None:
            self._noise.normal_(generator=self._generator).mul_(torch.as_tensor(self._sensors.deviation))

    def measure(self, observation: Float[Tensor, "env feature"]) -> Float[Tensor, "env feature"]:
        """Add the present errors to exact observations, in place, see :meth:`Sensors.measure`."""
        if self._sensors is None:
            return observation
        return torch.as_tensor(self._sensors.measure(observation, self._noise))

    def state(self) -> dict[str, Tensor]:
        """Return everything that determines the future besides the generator: the tensors themselves.

        Whoever writes to them calls :meth:`write` afterwards.
        """
        tensors: dict[str, Tensor] = {}
        if self._line is not None:
            tensors["line"] = torch.as_tensor(self._line.line)
        if self._sensors is not None:
            tensors["noise"] = self._noise
        if self.parameters is not None:
            tensors |= {f"drawn_{item.name}": getattr(self.parameters, item.name) for item in fields(Parameters)}
        return tensors

    def _sample(self, uniform: Float[Tensor, "env draw"]) -> Parameters:
        return self.ranges.sample(uniform, bodies=self._bodies, joints=self._joints)


def renew(state: Shaped[Tensor, "env ..."], fresh: Shaped[Tensor, "env ..."], rows: Bool[Tensor, " env"]) -> None:
    """Overwrite the worlds of a mask, in place; which ones they are is known to the device alone."""
    mask = rows.view(-1, *[1] * (state.ndim - 1))
    state.copy_(torch.where(mask, fresh, state))
