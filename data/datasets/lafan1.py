"""LAFAN1 retargeted to the H1 by Unitree: a folder of CSV files at 30 Hz.

A row is: root position (x, y, z) [m], root quaternion (x, y, z, w), 19 hinge angles [rad] in the order of the robot;
no header. The complete set has 40 clips, 147 minutes. Four of them are the validation split of the DAPS paper.

The root jumps in 16 places (teleports above 4 m/s, orientation spikes above 16 rad/s, see ``glitches``): the five that
are widely known and eleven smaller ones, nine of the sixteen at multiples of 999 frames, where the retargeting was
joined. They are masked.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from motionlex.data.clip import LARGEST, LabelSpan, MotionClip
from motionlex.data.datasets import MotionData, MotionDataset
from motionlex.data.errors import UserError
from motionlex.data.glitches import valid_mask

SOURCE_HZ = 30.0
"""Frames per second of the files."""
COLUMNS = 26
"""Numbers per row."""
VALIDATION = ("dance2_subject2", "fight1_subject2", "run2_subject1", "walk2_subject4")
"""Held-out clips of the DAPS paper."""
LABELS = {
    "walk": "walk",
    "run": "run",
    "sprint": "sprint",
    "dance": "dance",
    "fight": "fight",
    "fallAndGetUp": "fall_and_get_up",
    "fightAndSports": "fight_and_sports",
    "jumps": "jump",
}
"""Action label of every beginning of a file name."""

_log = logging.getLogger(__name__)
_QUATERNION_TOLERANCE = 1e-3


def load(root: Path | None, hz: float) -> MotionData:
    """Load every CSV of a folder, resampled; see ``load_dataset``.

    A folder with only some of the clips will do, as long as both splits have one.

    Raises:
        UserError: If the folder or a split is missing or a file is malformed; names file and row.
    """
    if root is None:
        raise UserError("data set 'lafan1' needs a folder of CSV files: give --data-root PATH")
    clips = [read_csv(path).resample(hz) for path in _files(root)]
    train = tuple(clip for clip in clips if clip.name not in VALIDATION)
    validation = tuple(clip for clip in clips if clip.name in VALIDATION)
    if not validation:
        raise UserError(f"{root} has no validation clip; add at least one of {', '.join(VALIDATION)} (.csv)")
    if not train:
        raise UserError(f"{root} has only validation clips ({', '.join(c.name for c in validation)}); add others")
    return MotionData(name="lafan1", train=train, validation=validation, hz=hz)


def read_csv(path: Path) -> MotionClip:
    """Read one file of the data set at its own rate, glitches masked.

    Raises:
        UserError: On a wrong column count, a number that is none or not finite, a quaternion that is not of unit
            length or fewer than two rows; names file and row.
    """
    table = _parse(path)
    qpos = table[:, [0, 1, 2, 6, 3, 4, 5, *range(7, COLUMNS)]]
    label = label_of(path.stem)
    return MotionClip(
        name=path.stem,
        qpos=qpos,
        hz=SOURCE_HZ,
        labels=(LabelSpan(start=0, stop=len(qpos), label=label),) if label else (),
        valid=valid_mask(qpos, SOURCE_HZ),
        source="LAFAN1 (Harvey et al. 2020), retargeted to the H1 by Unitree",
        licence="CC BY-NC-ND 4.0",
    )


def label_of(name: str) -> str | None:
    """Return the action label of a clip's name (``walk1_subject5`` -> ``walk``), or None."""
    match = re.match(r"[A-Za-z]+", name)
    return LABELS.get(match.group()) if match else None


def _files(root: Path) -> list[Path]:
    if not root.exists():
        raise UserError(f"no such folder: {root}")
    if not root.is_dir():
        raise UserError(f"{root} is a file; wanted the folder that holds the CSV files")
    files = sorted(root.glob("*.csv"))
    if not files:
        deeper = sorted(root.glob("*/*.csv"))
        hint = f"; did you mean {deeper[0].parent}?" if deeper else ""
        raise UserError(f"{root} has no .csv files{hint}")
    for path in files:
        if label_of(path.stem) is None:
            _log.warning("lafan1: %s has no known action in its name; it stays without a label", path.name)
    return files


def _parse(path: Path) -> Float[np.ndarray, "frame 26"]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: {error.reason} at byte {error.start}") from error
    rows = [number for number, line in enumerate(lines, 1) if line.strip()]
    if len(rows) < 2:
        raise UserError(f"{path} has {len(rows)} row{'' if len(rows) == 1 else 's'}; a motion needs at least 2 frames")
    try:
        table = np.loadtxt(lines, delimiter=",", comments=None, ndmin=2)
    except ValueError as error:
        raise _first_bad_row(path, lines) or UserError(f"{path}: {error}") from error
    if table.shape[1] != COLUMNS:
        raise UserError(f"{path}, row {rows[0]}: {table.shape[1]} columns, wanted {COLUMNS}")
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise UserError(f"{path}, row {rows[row]}, column {column + 1}: {table[row, column]} is not a finite number")
    if (far := np.abs(table) > LARGEST).any():
        row, column = np.argwhere(far)[0]
        raise UserError(
            f"{path}, row {rows[row]}, column {column + 1}: {table[row, column]:g}, "
            f"wanted metres and radians below {LARGEST:g}"
        )
    norms = np.linalg.norm(table[:, 3:7], axis=1)
    if (bad := np.abs(norms - 1.0) > _QUATERNION_TOLERANCE).any():
        row = int(np.argmax(bad))
        raise UserError(f"{path}, row {rows[row]}: the quaternion (columns 4 to 7) has norm {norms[row]:.4f}, wanted 1")
    return table


def _first_bad_row(path: Path, lines: list[str]) -> UserError | None:
    """Name the first row that has another number of columns or holds something that is no number."""
    for number, line in enumerate(lines, 1):
        cells = line.split(",")
        if not line.strip():
            continue
        if len(cells) != COLUMNS:
            return UserError(f"{path}, row {number}: {len(cells)} columns, wanted {COLUMNS}")
        for column, cell in enumerate(cells, 1):
            try:
                float(cell)
            except ValueError:
                return UserError(f"{path}, row {number}, column {column}: {cell.strip()!r} is not a number")
    return None


DATASET = MotionDataset(
    name="lafan1",
    description="LAFAN1 on the H1 (Unitree's CSV files, 40 clips, 147 min; CC BY-NC-ND 4.0, not included)",
    load=load,
    environment_variable="MOTIONLEX_LAFAN1",
)
