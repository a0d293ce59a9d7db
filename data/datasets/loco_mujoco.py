"""LocoMuJoCo's npz trajectories, read and written without importing the library.

Current layout (version 1): ``qpos``, ``qvel``, ``split_points``, ``joint_names``, ``jnt_type``, ``njnt``, ``frequency``
and, in complete files, body and site states. Old layout (version 0.4): one array ``q_<joint>`` and ``dq_<joint>`` per
joint at 500 Hz, the root as three slides and three hinges. Velocities are not read: they follow from the positions,
in one convention for every data set.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from motionlex.data.clip import LabelSpan, MotionClip
from motionlex.data.datasets import MotionData, MotionDataset
from motionlex.data.datasets.lafan1 import VALIDATION, label_of
from motionlex.data.errors import UserError
from motionlex.data.glitches import valid_mask
from motionlex.data.robots import get_robot
from motionlex.data.robots.robot import Robot
from motionlex.data.storage import write_npz

OLD_HZ = 500.0
"""Frames per second of the old layout, which does not record it."""
OLD_ROOT_HEIGHT = 1.045
"""Root height [m] at which the old layout's vertical slide is zero: the pelvis of its H1 model."""
_OLD_LABELS = {"constspeed": "walk", "walk": "walk", "run": "run"}
_ROOT_SIZES = {int(mujoco.mjtJoint.mjJNT_FREE): 7, int(mujoco.mjtJoint.mjJNT_BALL): 4}
_MODEL_ARRAYS = ("jnt_type", "body_rootid", "body_weldid", "body_mocapid", "body_pos", "body_quat", "body_ipos")
_MODEL_ARRAYS += ("body_iquat", "site_bodyid", "site_pos", "site_quat")
_STATE_ARRAYS = ("xpos", "xquat", "cvel", "subtree_com", "site_xpos", "site_xmat")

_log = logging.getLogger(__name__)


def load(root: Path | None, hz: float) -> MotionData:
    """Load every npz below a folder, resampled; see ``load_dataset``.

    Clips named like LAFAN1's validation split are held out; where there are none, every tenth clip (at least one) of
    the sorted list is; of a single clip, the last fifth of its frames.

    Raises:
        UserError: If the folder is missing or empty or a file is malformed.
    """
    if root is None:
        raise UserError("data set 'loco_mujoco' needs a folder of npz files: give --data-root PATH")
    clips = [clip.resample(hz) for path in _files(root) for clip in read_npz_clips(path)]
    held_out = {clip.name for clip in clips if clip.name.partition("#")[0] in VALIDATION}
    if len(clips) == 1:
        border = int(0.8 * clips[0].frames)
        train, validation = (clips[0].slice(0, border),), (clips[0].slice(border, clips[0].frames),)
        return MotionData(name="loco_mujoco", train=train, validation=validation, hz=hz)
    if not held_out or len(held_out) == len(clips):
        held_out = {clip.name for clip in clips[min(9, len(clips) - 1) :: 10]}
    return MotionData(
        name="loco_mujoco",
        train=tuple(clip for clip in clips if clip.name not in held_out),
        validation=tuple(clip for clip in clips if clip.name in held_out),
        hz=hz,
    )


def read_npz_clips(path: Path, robot: Robot | None = None) -> tuple[MotionClip, ...]:
    """Read the trajectories of one file in either layout, at the file's own rate, glitches masked.

    Args:
        path: An npz of LocoMuJoCo for the robot; joints are matched by name, further ones are left out.
        robot: Which robot; default the H1.

    Returns:
        One clip per trajectory: named like the file, with ``#0``, ``#1``, … appended where it holds several.

    Raises:
        UserError: If the file is none of the two layouts or lacks a joint of the robot; names the file.
    """
    robot = robot or get_robot("h1")
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        # Nothing is unpickled: a key that would need it (metadata, observation containers) is never read.
        with np.load(path, allow_pickle=False) as archive:
            if "qpos" in archive.files:
                return _read_current(path, archive, robot)
            if "q_pelvis_tx" in archive.files:
                return (_clip(path.stem, _read_old(path, archive, robot), OLD_HZ, robot),)
            raise UserError(f"{path} is no trajectory of LocoMuJoCo: it has neither 'qpos' nor 'q_pelvis_tx'")
    except UserError:
        raise
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not an intact trajectory of LocoMuJoCo: {error}") from error


def write_clips(path: Path, clips: Sequence[MotionClip], robot: Robot | None = None) -> None:
    """Write clips as one complete trajectory file in the current layout, atomically.

    Positions and velocities are float64 (the library converts), body and site states float32. Masks and labels have no
    place in the format: glitches are found again on reading, labels come from the file name.

    Args:
        path: The npz; the library looks for ``Lafan1/mocap/UnitreeH1/<clip>.npz`` below its converted data sets.
        clips: Clips of one rate, in order.
        robot: Which robot; default the H1.

    Raises:
        UserError: If there are no clips or their rates differ.
        OSError: If the file cannot be written.
    """
    robot = robot or get_robot("h1")
    rates = sorted({clip.hz for clip in clips})
    if len(rates) != 1:
        raise UserError(f"{path}: clips of one rate are wanted, got {rates or 'no clips'}")
    qpos = np.concatenate([clip.qpos for clip in clips])
    qvel = np.concatenate([clip.qvel() for clip in clips])
    model = robot.model(control="none")
    arrays: dict[str, np.ndarray] = {
        "qpos": qpos,
        "qvel": qvel,
        **_states(model, qpos, qvel),
        "split_points": np.concatenate(([0], np.cumsum([clip.frames for clip in clips]))),
        "joint_names": np.array([model.joint(i).name for i in range(model.njnt)]),
        "body_names": np.array([model.body(i).name for i in range(model.nbody)]),
        "site_names": np.array([model.site(i).name for i in range(model.nsite)]),
        "frequency": np.array(rates[0]),
        **{name: np.array(getattr(model, name)) for name in ("njnt", "nbody", "nsite", *_MODEL_ARRAYS)},
    }
    write_npz(path, arrays)


def _files(root: Path) -> list[Path]:
    if not root.exists():
        raise UserError(f"no such folder: {root}")
    files = [root] if root.is_file() else sorted(root.rglob("*.npz"))
    if not files:
        raise UserError(f"{root} has no .npz files")
    return files


def _read_current(path: Path, archive: Mapping[str, np.ndarray], robot: Robot) -> tuple[MotionClip, ...]:
    if missing := [key for key in ("joint_names", "jnt_type", "frequency") if key not in archive]:
        raise UserError(f"{path} lacks {', '.join(missing)}")
    qpos = np.asarray(archive["qpos"], dtype=np.float64)
    names, kinds = [str(n) for n in archive["joint_names"]], [int(k) for k in archive["jnt_type"]]
    firsts = np.concatenate(([0], np.cumsum([_ROOT_SIZES.get(kind, 1) for kind in kinds])))
    if qpos.ndim != 2 or qpos.shape[1] != firsts[-1]:
        raise UserError(f"{path}: qpos has shape {qpos.shape}, but its joints need {firsts[-1]} columns")
    if not kinds or kinds[0] != mujoco.mjtJoint.mjJNT_FREE:
        raise UserError(f"{path}: the first joint must be the free joint of the root")
    columns: dict[str, int] = dict(zip(names, firsts[:-1].tolist()))
    order = [*range(7), *(columns[name] for name in _present(path, columns, robot))]
    splits = np.asarray(archive["split_points"], dtype=int) if "split_points" in archive else np.array([0, len(qpos)])
    if splits[0] != 0 or splits[-1] != len(qpos) or (np.diff(splits) < 2).any():
        raise UserError(f"{path}: split_points {splits.tolist()} do not cut {len(qpos)} frames into trajectories")
    rate = float(archive["frequency"])
    several = len(splits) > 2
    return tuple(
        _clip(f"{path.stem}#{i}" if several else path.stem, qpos[start:stop][:, order], rate, robot)
        for i, (start, stop) in enumerate(pairwise(splits))
    )


def _read_old(path: Path, archive: Mapping[str, np.ndarray], robot: Robot) -> Float[np.ndarray, "frame 26"]:
    """Assemble qpos from the old layout.

    Its root is a chain in one body: slides pelvis_tx along x, pelvis_tz along y (sideways!) and pelvis_ty along z
    (height), then hinges pelvis_tilt about -y, pelvis_list about x and pelvis_rotation about z.
    """
    keys = [key for key in archive if key.startswith("q_")]
    wanted = ("tx", "ty", "tz", "tilt", "list", "rotation")
    if absent := [f"q_pelvis_{part}" for part in wanted if f"q_pelvis_{part}" not in keys]:
        raise UserError(f"{path} lacks {', '.join(absent)}")
    names = _present(path, {key[2:]: 0 for key in keys if not key.startswith("q_pelvis_")}, robot)
    root = {part: np.asarray(archive[f"q_pelvis_{part}"], dtype=np.float64) for part in wanted}
    turns = Rotation.from_euler("YXZ", np.stack((-root["tilt"], root["list"], root["rotation"]), axis=-1))
    x, y, z, w = turns.as_quat().T
    hinges = [np.asarray(archive[f"q_{name}"], dtype=np.float64) for name in names]
    return np.stack((root["tx"], root["tz"], root["ty"] + OLD_ROOT_HEIGHT, w, x, y, z, *hinges), axis=-1)


def _present(path: Path, found: Mapping[str, int], robot: Robot) -> tuple[str, ...]:
    """Return the robot's joints after checking that the file has them all."""
    if missing := [name for name in robot.joint_names if name not in found]:
        raise UserError(f"{path} lacks the joints {', '.join(missing)} of robot {robot.name!r}")
    further = [name for name in found if name not in robot.joint_names and name != "root"]
    if further:
        _log.warning("%s: joints that robot %r lacks are left out: %s", path.name, robot.name, ", ".join(further))
    return robot.joint_names


def _clip(name: str, qpos: Float[np.ndarray, "frame 26"], hz: float, robot: Robot) -> MotionClip:
    label = label_of(name) or next((v for k, v in _OLD_LABELS.items() if k in name), None)
    clip = MotionClip(
        name=name,
        qpos=qpos,
        hz=hz,
        labels=(LabelSpan(start=0, stop=len(qpos), label=label),) if label else (),
        source="LocoMuJoCo trajectory file",
        robot=robot.name,
    )
    return replace(clip, valid=valid_mask(clip.qpos, hz))


def _states(
    model: mujoco.MjModel, qpos: Float[np.ndarray, "frame 26"], qvel: Float[np.ndarray, "frame 25"]
) -> dict[str, np.ndarray]:
    """Compute the states of all bodies and sites, float32, by MuJoCo's names."""
    data = mujoco.MjData(model)
    states = {name: np.empty((len(qpos), *getattr(data, name).shape), np.float32) for name in _STATE_ARRAYS}
    for frame in range(len(qpos)):
        data.qpos[:], data.qvel[:] = qpos[frame], qvel[frame]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        for name, array in states.items():
            array[frame] = getattr(data, name)
    return states


DATASET = MotionDataset(
    name="loco_mujoco",
    description="LocoMuJoCo trajectory files (npz, current and old layout) for the H1",
    load=load,
    environment_variable="MOTIONLEX_LOCO_MUJOCO",
)
