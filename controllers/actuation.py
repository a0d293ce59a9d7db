"""What the motors of a simulated robot did, physics step by physics step."""

from __future__ import annotations

import numpy as np

from motionlex.controllers.tracking_metrics import absolute_power, saturated_share
from motionlex.envs.simulator import Simulator


class MotorWatch:
    """Records torques, and the hinge velocities at which they acted, of every physics step from now on."""

    def __init__(self, simulator: Simulator) -> None:
        """Begin at the simulator's present state.

        Args:
            simulator: It is read, never changed.
        """
        self._data, self._limit = simulator.data, simulator.robot.torque_limit
        self._torques: list[np.ndarray] = []
        self._speeds: list[np.ndarray] = []
        self._present = self._data.qvel[6:].copy()
        simulator.recorders.append(lambda data: self._after_step())
        simulator.interventions.append(lambda data: self._after_intervention())

    def _after_step(self) -> None:
        self._torques.append(self._data.actuator_force.copy())
        self._speeds.append(self._present)
        self._present = self._data.qvel[6:].copy()

    def _after_intervention(self) -> None:
        self._present = self._data.qvel[6:].copy()

    @property
    def power_w(self) -> float:
        """Mean absolute mechanical power [W]."""
        return float(absolute_power(np.array(self._torques)[None], np.array(self._speeds)[None])[0])

    @property
    def saturation(self) -> float:
        """Share of the motor-steps at 99 % of the motor's limit or more."""
        return float(saturated_share(np.array(self._torques)[None], self._limit[None])[0])
