"""What is in motion files: length, labels, masked stretches, and whether the robot could do it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from motionlex.data.bvh import Up, read_bvh
from motionlex.data.clip import LabelSpan, MotionClip
from motionlex.data.datasets.lafan1 import label_of, read_csv
from motionlex.data.datasets.loco_mujoco import read_npz_clips, write_clips
from motionlex.data.errors import UserError
from motionlex.data.glitches import valid_mask
from motionlex.data.human_points import HumanPoints, human_points
from motionlex.data.procedural.dynamics import InverseDynamics
from motionlex.data.procedural.feasibility import Feasibility, check_clip
from motionlex.data.robots import Robot

_SHORTEST_CHECK_S = 0.5
_CHECKED_FRAMES = 400
_FASTEST_RETARGET_HZ = 60.0


@dataclass(frozen=True, kw_only=True)
class ClipReport:
    """Facts about one clip."""

    name: str
    """Name of the clip."""
    seconds: float
    """Length [s]."""
    hz: float
    """Frames per second."""
    labels: tuple[str, ...]
    """Actions shown, in order of appearance."""
    masked_s: tuple[tuple[float, float], ...]
    """Stretches that are masked, first and last frame's time [s]."""
    distance_m: float
    """Path length of the root over the floor [m], masked stretches left out."""
    range_excess_rad: float
    """How far a hinge leaves its range [rad]; negative: the smallest distance kept from the limits."""
    range_excess_joint: str
    """That hinge."""
    range_excess_share: float
    """Share of the frames in which some hinge is out of its range."""


def read_motion_file(path: Path) -> tuple[MotionClip, ...]:
    """Read a file with motion of the robot: ``.csv`` (Unitree's LAFAN1 columns) or ``.npz`` (LocoMuJoCo).

    Raises:
        UserError: If there is no such file, its ending is unknown or its content is malformed.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix == ".csv":
        return (read_csv(path),)
    if path.suffix == ".npz":
        return read_npz_clips(path)
    raise UserError(
        f"{path}: motion files end in .csv (LAFAN1 columns), .npz (LocoMuJoCo) or .bvh (a person), not {path.suffix!r}"
    )


def is_person(path: Path) -> bool:
    """Tell whether a file holds a person's motion, which has to be retargeted."""
    return path.suffix.lower() == ".bvh"


def person_points(path: Path, up: Up = "y") -> HumanPoints:
    """Read a person's motion, thinned to what retargeting is worth doing for.

    Raises:
        UserError: If there is no such file, it is malformed or its skeleton lacks a joint; names the file.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    motion = read_bvh(path, up=up)
    stride = max(1, math.ceil(motion.hz / _FASTEST_RETARGET_HZ - 0.01))  # 120.001 Hz is 120
    if len(motion.positions) <= stride:
        raise UserError(f"{path}: {len(motion.positions)} frames at {motion.hz:g} Hz are too short to be retargeted")
    thinned = replace(motion, positions=motion.positions[::stride], hz=motion.hz / stride)
    try:
        return human_points(thinned)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def person_clip(
    path: Path, points: HumanPoints, robot: Robot, *, progress: Callable[[int, int], None] | None = None
) -> MotionClip:
    """Bring a person's motion onto the robot, leaps masked.

    Args:
        path: Where it was read from.
        points: What :func:`person_points` found there.
        robot: Whose motion it becomes.
        progress: Called with the frames that are done and all frames.

    Raises:
        UserError: If it cannot be; names the file.
    """
    from motionlex.data.retarget import retarget  # its solver is wanted only here

    try:
        qpos = retarget(points, robot, progress=progress)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    label = label_of(path.stem)
    return MotionClip(
        name=path.stem,
        qpos=qpos,
        hz=points.hz,
        labels=(LabelSpan(start=0, stop=len(qpos), label=label),) if label else (),
        valid=valid_mask(qpos, points.hz),
        source=f"{path.name}, retargeted",
        robot=robot.name,
    )


def report_clip(clip: MotionClip, robot: Robot) -> ClipReport:
    """Collect the facts about a clip."""
    hinges = clip.qpos[:, 7:]
    excess = np.maximum(robot.lower - hinges, hinges - robot.upper)
    worst = int(excess.max(axis=0).argmax())
    steps = np.linalg.norm(np.diff(clip.qpos[:, :2], axis=0), axis=1)
    valid = np.asarray(clip.valid)
    return ClipReport(
        name=clip.name,
        seconds=clip.duration_s,
        hz=clip.hz,
        labels=tuple(dict.fromkeys(span.label for span in clip.labels)),
        masked_s=tuple((first / clip.hz, (stop - 1) / clip.hz) for first, stop in stretches(~valid)),
        distance_m=float(steps[valid[1:] & valid[:-1]].sum()),
        range_excess_rad=float(excess.max()),
        range_excess_joint=robot.joint_names[worst],
        range_excess_share=float((excess > 0).any(axis=1).mean()),
    )


def stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return [start, stop) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], np.asarray(mask, dtype=bool), [False])).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in list(pairwise(edges))[::2]]


def check_valid_stretches(clip: MotionClip, dynamics: InverseDynamics) -> dict[str, float | str] | None:
    """Check feasibility over the unmasked stretches of a clip; every figure is that of the worst stretch.

    Returns:
        Figures by name (see ``Feasibility``; the name and the range excess are left out), or None where no stretch
        lasts half a second.
    """
    parts = [(a, b) for a, b in stretches(np.asarray(clip.valid)) if b - a >= max(8, _SHORTEST_CHECK_S * clip.hz)]
    if not parts:
        return None
    stride = max(5, clip.frames // _CHECKED_FRAMES)
    found = [check_clip(clip.slice(a, b), dynamics, stride=stride) for a, b in parts]
    return _worst(found)


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UserError: If it does, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder} exists and is not an empty folder; give another")


def write_converted(folder: Path, clips: Sequence[MotionClip], robot: Robot) -> list[Path]:
    """Write every clip as LocoMuJoCo npz into a new or empty folder; either all of them or none.

    Raises:
        UserError: If the folder holds something already or two clips share a name.
        OSError: If a file cannot be written.
    """
    check_new_folder(folder)
    paths = [folder / f"{clip.name.replace('#', '_').replace('/', '_').replace(':', '_')}.npz" for clip in clips]
    if twice := sorted({p.stem for p in paths if paths.count(p) > 1}):
        raise UserError(f"several clips would be written as {', '.join(twice)}; convert them into folders of their own")
    existed, written = folder.exists(), []
    try:
        for path, clip in zip(paths, clips):
            write_clips(path, [clip], robot)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        if not existed and folder.is_dir():
            folder.rmdir()
        raise
    return paths


def _worst(found: Sequence[Feasibility]) -> dict[str, float | str]:
    """Take the largest of every figure but the margin, whose smallest is the worst."""
    figures: dict[str, float | str] = {}
    for field in fields(Feasibility):
        if field.name in ("name", "range_excess_rad", "torque_joint"):
            continue
        values = np.array([float(asdict(f)[field.name]) for f in found])
        values = values[np.isfinite(values)]
        pick = np.min if field.name == "zmp_margin_m" else np.max
        figures[field.name] = float(pick(values)) if len(values) else float("nan")
    figures["torque_joint"] = max(found, key=lambda f: f.torque_ratio).torque_joint
    return figures
