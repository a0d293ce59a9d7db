"""Biovision Hierarchy files (.bvh): a skeleton and its motion, as most motion-capture archives give them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from motionlex.data.errors import UserError

_AXES = dict(zip(("Xrotation", "Yrotation", "Zrotation"), np.eye(3)))
_POSITIONS = ("Xposition", "Yposition", "Zposition")
_SHORTEST_S, _LONGEST_S = 1e-4, 1.0
"""Frame times that are none by mistake."""
Up = Literal["y", "z"]


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """Joints of a file, parents before children."""

    names: tuple[str, ...]
    """Names without a prefix such as ``mixamorig:``; the end of a chain is its joint's name with `` end``."""
    parents: tuple[int, ...]
    """Place of the parent, -1 for the root."""
    offsets: Float[np.ndarray, "joint 3"]
    """Offset from the parent, in its frame, in the file's unit and axes."""
    channels: tuple[tuple[str, ...], ...]
    """Channels of every joint, in the order of the file."""


@dataclass(frozen=True, kw_only=True)
class RecordedMotion:
    """Where the joints of a recorded person were."""

    names: tuple[str, ...]
    """Joints."""
    positions: Float[np.ndarray, "frame joint 3"]
    """In the world: x forward, y left, z up; in the file's unit."""
    hz: float
    """Frames per second."""


def read_bvh(path: Path, *, up: Up = "y") -> RecordedMotion:
    """Read a file and work out the positions of its joints.

    Args:
        path: The file.
        up: Its axis that points up: y, with z forward, or z, with x forward.

    Raises:
        UserError: If the file is malformed, has fewer than two frames or a number that is not finite; names the line.
    """
    content = path.read_bytes()
    if b"\0" in content:
        raise UserError(f"{path} is not a text file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # names of older files
    lines = text.splitlines()
    begin = next((number for number, line in enumerate(lines) if line.strip().upper() == "MOTION"), None)
    if begin is None:
        raise UserError(f"{path} has no line MOTION: it is no BVH file, or cut short")
    skeleton = _read_skeleton(path, lines[:begin])
    hz, frames = _read_frames(path, lines, begin, sum(map(len, skeleton.channels)))
    positions = joint_positions(skeleton, frames)
    return RecordedMotion(names=skeleton.names, positions=positions[..., [2, 0, 1]] if up == "y" else positions, hz=hz)


def joint_positions(
    skeleton: Skeleton, frames: Float[np.ndarray, "frame channel"]
) -> Float[np.ndarray, "frame joint 3"]:
    r"""Forward kinematics of a skeleton.

    .. math:: R_j = R_{p(j)} \prod_c R_c(\theta_c), \quad x_j = x_{p(j)} + R_{p(j)} o_j

    with the rotations in the order of the channels. Position channels, which roots have, replace the offset.

    Args:
        skeleton: Joints.
        frames: Values of all channels, angles in degrees.

    Returns:
        Positions in the file's unit and axes.
    Source: the format's description by Meredith and Maddock 2001 (Motion Capture File Formats Explained).
    """
    turned: list[Rotation] = []
    positions = np.empty((len(frames), len(skeleton.names), 3))
    column = 0
    for joint, (parent, channels) in enumerate(zip(skeleton.parents, skeleton.channels)):
        values = frames[:, column : column + len(channels)]
        column += len(channels)
        offset = np.tile(skeleton.offsets[joint], (len(frames), 1))
        for axis, name in enumerate(_POSITIONS):
            if name in channels:
                offset[:, axis] = values[:, channels.index(name)]
        rotation = turned[parent] if parent >= 0 else Rotation.identity(len(frames))
        positions[:, joint] = rotation.apply(offset) + (positions[:, parent] if parent >= 0 else 0.0)
        for index, name in enumerate(channels):
            if name in _AXES:
                rotation = rotation * Rotation.from_rotvec(values[:, index, None] * _AXES[name], degrees=True)
        turned.append(rotation)
    return positions


def _read_skeleton(path: Path, lines: list[str]) -> Skeleton:
    names: list[str] = []
    parents: list[int] = []
    offsets: list[tuple[float, ...]] = []
    channels: list[tuple[str, ...]] = []
    open_joints: list[int] = []
    for number, words in _words(lines):
        match words[0].upper(), *words[1:]:
            case ["HIERARCHY" | "{"]:
                pass
            case ["ROOT" | "JOINT", *name] if name:
                _add(names, parents, channels, " ".join(name).rpartition(":")[2].strip(), open_joints)
            case ["END", site] if open_joints and site.upper() == "SITE":
                _add(names, parents, channels, f"{names[open_joints[-1]]} end", open_joints)
            case ["OFFSET", *values] if len(values) == 3 and len(offsets) == len(names) - 1:
                offsets.append(tuple(_number(path, number, value) for value in values))
            case ["CHANNELS", count, *kinds] if open_joints and count == str(len(kinds)):
                if unknown := [kind for kind in kinds if kind not in (*_AXES, *_POSITIONS)]:
                    raise UserError(f"{path}, line {number}: unknown channel {unknown[0]!r}")
                channels[open_joints[-1]] = tuple(kinds)
            case ["}"] if open_joints:
                open_joints.pop()
            case _:
                raise UserError(f"{path}, line {number}: {' '.join(words)[:80]!r} does not belong there")
    if not names or open_joints or len(offsets) != len(names):
        raise UserError(f"{path}: the hierarchy ends within a joint or has none")
    if not any(channels):
        raise UserError(f"{path}: no joint of the hierarchy has channels")
    return Skeleton(names=tuple(names), parents=tuple(parents), offsets=np.array(offsets), channels=tuple(channels))


def _add(
    names: list[str], parents: list[int], channels: list[tuple[str, ...]], name: str, open_joints: list[int]
) -> None:
    parents.append(open_joints[-1] if open_joints else -1)
    open_joints.append(len(names))
    names.append(name)
    channels.append(())


def _read_frames(
    path: Path, lines: list[str], begin: int, channels: int
) -> tuple[float, Float[np.ndarray, "frame channel"]]:
    rows = list(_words(lines[begin + 1 :], begin + 1))
    match [" ".join(words).upper().replace(":", " ").split() for _, words in rows[:2]]:
        case [["FRAMES", count], ["FRAME", "TIME", time]] if count.isascii() and count.isdecimal():
            seconds = _number(path, rows[1][0], time)
        case _:
            raise UserError(f"{path}, line {begin + 2}: wanted 'Frames: N' and 'Frame Time: SECONDS'")
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise UserError(
            f"{path}, line {rows[1][0]}: a frame time of {seconds:g} s, wanted {_SHORTEST_S:g} to {_LONGEST_S:g}"
        )
    values = rows[2:]
    if len(values) != int(count) or len(values) < 2:
        raise UserError(f"{path}: {count} frames are announced and {len(values)} are there; a motion needs at least 2")
    for number, words in values:
        if len(words) != channels:
            raise UserError(f"{path}, line {number}: {len(words)} values, wanted {channels}")
    frames = np.array([[_number(path, number, word) for word in words] for number, words in values])
    return 1.0 / seconds, frames


def _words(lines: list[str], before: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yield number and words of the lines that have some; a brace is a word and a line of its own."""
    for number, line in enumerate(lines, before + 1):
        for part in re.split(r"([{}])", line):
            if words := part.split():
                yield number, words


def _number(path: Path, line: int, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"{path}, line {line}: {word[:40]!r} is not a finite number")
    return value
