"""Recordings of a simulation at physics rate, from which anybody can replay it with plain MuJoCo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motionlex.data.storage import write_npz

if TYPE_CHECKING:
    from motionlex.envs.simulator import Simulator


class PhysicsRecording:
    """Collects one row per physics step.

    Row i holds the state *before* physics step i and the ctrl applied during it, so row 0 is the initial state and one
    ``mj_step`` from row i gives the state of row i + 1; the state after the last step is ``final_qpos``/``final_qvel``.
    Where the state was changed by hand (a push, a robot put on its feet), its row holds the changed state and is listed
    in ``interventions``: the step before it does not lead there.
    """

    def __init__(self, simulator: Simulator, model_xml: str) -> None:
        """Begin at the simulator's present state.

        Args:
            simulator: What to record.
            model_xml: The complete model as text.
        """
        self._model_xml = model_xml
        self._data = simulator.data
        self._rows: list[tuple[np.ndarray, np.ndarray, float]] = [self._state()]
        self._ctrl: list[np.ndarray] = []
        self._interventions: list[int] = []
        simulator.recorders.append(lambda data: self._after_step())
        simulator.interventions.append(lambda data: self._after_intervention())

    def _state(self) -> tuple[np.ndarray, np.ndarray, float]:
        return self._data.qpos.copy(), self._data.qvel.copy(), float(self._data.time)

    def _after_step(self) -> None:
        self._ctrl.append(self._data.ctrl.copy())
        self._rows.append(self._state())

    def _after_intervention(self) -> None:
        self._rows[-1] = self._state()
        if self._interventions[-1:] != [len(self._ctrl)]:
            self._interventions.append(len(self._ctrl))

    def save(self, path: Path) -> None:
        """Write ``qpos qvel ctrl time interventions model_xml`` and the final state as npz.

        Raises:
            OSError: On a full or read-only disk.
        """
        qpos, qvel, time = (np.array(column) for column in zip(*self._rows, strict=True))
        write_npz(
            path,
            {
                "qpos": qpos[:-1],
                "qvel": qvel[:-1],
                "ctrl": np.array(self._ctrl).reshape(len(self._ctrl), self._data.ctrl.size),
                "time": time[:-1],
                "interventions": np.array(self._interventions, dtype=np.int64),
                "model_xml": np.array(self._model_xml),
                "final_qpos": qpos[-1],
                "final_qvel": qvel[-1],
            },
            compress=True,
        )
