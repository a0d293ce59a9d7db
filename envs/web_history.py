"""The last seconds of a simulation, for plots and for the walked path."""

from __future__ import annotations

from collections import deque

import numpy as np
from jaxtyping import Float

SECONDS = 10.0
"""How far back the plots reach [s]."""


class History:
    """Time, height, speed, load of the motors and place of the robot over the last seconds."""

    def __init__(self, torque_limit: Float[np.ndarray, " actuator"]) -> None:
        """Begin empty.

        Args:
            torque_limit: Largest torque of each motor [N m].
        """
        self._limit = torque_limit
        self._rows: deque[tuple[float, ...]] = deque()

    def add(
        self,
        time: float,
        qpos: Float[np.ndarray, " coordinate"],
        qvel: Float[np.ndarray, " velocity"],
        torque: Float[np.ndarray, " actuator"],
    ) -> None:
        """Remember a moment, once; time that runs backwards (a reset) begins anew.

        Args:
            time: Simulated time [s].
            qpos: Measured positions.
            qvel: Measured velocities.
            torque: Motor torques [N m].
        """
        if self._rows and time == self._rows[-1][0]:
            return
        if self._rows and time < self._rows[-1][0]:
            self._rows.clear()
        load = float(np.max(np.abs(torque) / self._limit))
        x, y, height = qpos[:3].tolist()
        self._rows.append((time, height, float(np.hypot(*qvel[:2])), 100.0 * load, x, y))
        while self._rows[0][0] < time - SECONDS:
            self._rows.popleft()

    @property
    def table(self) -> Float[np.ndarray, "row 6"]:
        """Time [s], height [m], horizontal speed [m/s], load of the most loaded motor [% of its limit], x and y [m]."""
        return np.array(self._rows).reshape(-1, 6)
