"""Recordings of a simulation: physics steps that anybody can replay with plain MuJoCo, and control steps as a table."""

from __future__ import annotations

import copy
import csv
import io
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from motionlex.controllers.rows import BLOCK, Rows
from motionlex.data.errors import UserError
from motionlex.data.storage import atomic_file, write_npz

if TYPE_CHECKING:
    from motionlex.controllers.stack import Stack
    from motionlex.controllers.stack_state import State
    from motionlex.envs.simulator import Simulator

ROOT_COLUMNS = ("root_x_m", "root_y_m", "root_z_m", "root_qw", "root_qx", "root_qy", "root_qz")
AT_ONCE = 8
"""Rows of a table that are made into text before other threads get a turn: they take half a millisecond."""
BREATH_S = 1e-4
"""How long they get it [s]. Without, CPython gives it every 5 ms only, and a simulation asks many times in a step."""
NO_CODE = -1
"""Stands for a code in control steps that followed no plan (the robot was being put on its feet)."""


class PhysicsRecording:
    """Collects one row per physics step.

    Row i holds the state *before* physics step i and the ctrl applied during it, so row 0 is the initial state and one
    ``mj_step`` from row i gives the state of row i + 1; the state after the last step is ``final_qpos``/``final_qvel``.
    Where the state was changed by hand (a push, a robot put on its feet), its row holds the changed state and is listed
    in ``interventions``: the step before it does not lead there. Time goes on over interventions.
    """

    def __init__(self, simulator: Simulator, model_xml: str, *, longest: int | None = None, block: int = BLOCK) -> None:
        """Begin at the simulator's present state.

        Args:
            simulator: What to record.
            model_xml: The complete model as text.
            longest: Physics steps that are kept at least; None keeps all.
            block: Physics steps that are forgotten at once.
        """
        self._model_xml, self._data = model_xml, simulator.data
        self._sizes = (self._data.qpos.size, self._data.qvel.size, 1, self._data.ctrl.size)
        self._rows = Rows(sum(self._sizes), longest=longest, block=block)
        self._offset, self._clock = 0.0, float(self._data.time)
        self._present = self._state()
        self._interventions: list[int] = []
        simulator.recorders.append(lambda data: self._after_step())
        simulator.interventions.append(lambda data: self._after_intervention())

    def _state(self) -> Float[np.ndarray, " column"]:
        self._clock = float(self._data.time)
        return np.hstack((self._data.qpos, self._data.qvel, self._clock + self._offset))

    def _after_step(self) -> None:
        self._rows.append(self._present, self._data.ctrl)
        self._present = self._state()

    def _after_intervention(self) -> None:
        self._offset += self._clock - float(self._data.time)
        self._present = self._state()
        now = self._rows.forgotten + len(self._rows)
        if self._interventions[-1:] != [now]:
            self._interventions.append(now)

    def snapshot(self) -> PhysicsRecording:
        """Return what was recorded up to now, see :meth:`Rows.snapshot`."""
        still = copy.copy(self)
        still._rows, still._interventions = self._rows.snapshot(), list(self._interventions)
        return still

    def arrays(self) -> dict[str, np.ndarray]:
        """Return ``qpos qvel ctrl time interventions model_xml`` and the final state."""
        ends = np.cumsum(self._sizes)
        qpos, qvel, time, ctrl = np.split(self._rows.array(), ends[:-1], axis=1)
        interventions = np.array(self._interventions, dtype=np.int64) - self._rows.forgotten
        return {
            "qpos": qpos,
            "qvel": qvel,
            "ctrl": ctrl,
            "time": time[:, 0],
            "interventions": interventions[interventions >= 0],
            "model_xml": np.array(self._model_xml),
            "final_qpos": self._present[: ends[0]],
            "final_qvel": self._present[ends[0] : ends[1]],
        }

    def save(self, path: Path) -> None:
        """Write the arrays as npz.

        Raises:
            OSError: On a full or read-only disk.
        """
        write_npz(path, self.arrays(), compress=True)


@dataclass(frozen=True, kw_only=True)
class ControlTable:
    """One row per control step: what it led to."""

    time: Float[np.ndarray, " step"]
    """Since the simulation began [s]."""
    qpos: Float[np.ndarray, "step coordinate"]
    """Root position [m], quaternion (w, x, y, z), hinges [rad]."""
    hinge_velocity: Float[np.ndarray, "step joint"]
    """[rad/s]."""
    torque: Float[np.ndarray, "step joint"]
    """Of the step's last physics step [N m]."""
    codes: Int[np.ndarray, "step token"]
    """Of the running segment."""

    def csv(self, joints: Sequence[str]) -> bytes:
        """Return the table as comma-separated values under a header with units.

        Args:
            joints: Names of the hinges, in the order of the columns.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            [
                "time_s",
                *ROOT_COLUMNS,
                *(f"{joint}_{unit}" for unit in ("rad", "rad_per_s", "N_m") for joint in joints),
                *(f"code_{token:02d}" for token in range(self.codes.shape[1])),
            ]
        )
        columns = (self.time, self.qpos, self.hinge_velocity, self.torque)
        for first in range(0, len(self.time), AT_ONCE):
            time.sleep(BREATH_S)
            part = slice(first, first + AT_ONCE)
            numbers = np.column_stack([column[part] for column in columns])
            for row, codes in zip(numbers.tolist(), self.codes[part].tolist(), strict=True):
                writer.writerow([*(f"{value:.9g}" for value in row), *codes])
        return text.getvalue().encode()


class Recording:
    """Both recordings of one stack, saved side by side: ``FILE.npz`` and ``FILE.csv``."""

    def __init__(self, stack: Stack, *, longest_s: float = math.inf, block: int = BLOCK) -> None:
        """Begin at the stack's present state.

        Args:
            stack: What to record.
            longest_s: Time that is kept at least [s]; infinity keeps all of it.
            block: Control steps that are forgotten at once.
        """
        simulator = stack.tracker.simulator
        self._joints = stack.robot.joint_names
        self._tokens = stack.bundle.autoencoder.model.tokens
        steps = round(longest_s * stack.hz) if math.isfinite(longest_s) else None
        physics_steps = None if steps is None else steps * simulator.substeps
        self._physics = PhysicsRecording(
            simulator, stack.tracker.model_xml, longest=physics_steps, block=block * simulator.substeps
        )
        self._widths = (1, simulator.data.qpos.size, len(self._joints), len(self._joints), self._tokens)
        self._control = Rows(sum(self._widths), longest=steps, block=block)

    def add(self, state: State, time: float) -> None:
        """Add the control step that was just taken.

        Args:
            state: What it led to.
            time: Since the simulation began [s].
        """
        codes = state.codes if len(state.codes) else np.full(self._tokens, NO_CODE)
        self._control.append(time, state.qpos, state.qvel[6:], state.torque, codes)

    def snapshot(self) -> Recording:
        """Return what was recorded up to now, at once; another thread may save it while the simulation goes on."""
        still = copy.copy(self)
        still._physics, still._control = self._physics.snapshot(), self._control.snapshot()
        return still

    def table(self) -> ControlTable:
        """Return the control steps."""
        time, qpos, velocity, torque, codes = np.split(self._control.array(), np.cumsum(self._widths)[:-1], axis=1)
        return ControlTable(
            time=time[:, 0], qpos=qpos, hinge_velocity=velocity, torque=torque, codes=codes.astype(np.int64)
        )

    def save(self, path: Path) -> Path:
        """Write physics steps, ``codes`` and ``torque`` per control step as npz, and the table of control steps as CSV.

        Args:
            path: Name of the npz file.

        Returns:
            Name of the CSV file.

        Raises:
            OSError: On a full or read-only disk.
        """
        table = self.table()
        arrays: Mapping[str, np.ndarray] = {**self._physics.arrays(), "codes": table.codes, "torque": table.torque}
        write_npz(path, arrays, compress=True)
        with atomic_file(table_path(path)) as file:
            file.write(table.csv(self._joints))
        return table_path(path)


def table_path(path: Path) -> Path:
    """Return the name of the table beside a recording.

    Raises:
        UserError: If the recording itself is named as a table.
    """
    if path.suffix.lower() == ".csv":
        raise UserError(f"{path}: wanted a file name that ends in .npz; the table is written beside it as .csv")
    return path.with_suffix(".csv")


def check_new(path: Path) -> None:
    """Refuse to write a recording over anything.

    Raises:
        UserError: If the file or its table exists, is not named ``.npz``, or cannot be written.
    """
    if path.suffix.lower() != ".npz":
        raise UserError(f"{path}: wanted a file name that ends in .npz")
    for file in (path, table_path(path)):
        if file.exists() or file.is_symlink():
            raise UserError(f"{file} exists already: give another name")
    check_writable(path)


def check_writable(path: Path | None) -> None:
    """Find out before the simulation, not after it, that a file cannot be written.

    Raises:
        UserError: If it cannot.
    """
    if path is None:
        return
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is not a file that can be written")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give a file in another folder") from error
