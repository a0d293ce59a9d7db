"""Two sources of motion as one: libraries and the commands that belong to them, laid end to end."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from motionlex.data.errors import UserError
from motionlex.envs.reference import CommandSource, MotionLibrary


def join_libraries(first: MotionLibrary, second: MotionLibrary, *, share: float = 0.5) -> MotionLibrary:
    """Append a library to another; frames, runs and clips of the first keep their numbers.

    Args:
        first: Its runs become group 0.
        second: Its runs become group 1.
        share: Share of the episodes that start in the second, in (0, 1).

    Raises:
        UserError: If rates or robots differ, or the share leaves one of them without starts.
    """
    if first.robot.name != second.robot.name:
        raise UserError(f"motions of robot {second.robot.name!r} cannot join those of {first.robot.name!r}")
    if abs(first.hz - second.hz) > 1e-9:
        raise UserError(f"motions at {second.hz:g} Hz cannot join those at {first.hz:g} Hz")
    if not 0.0 < share < 1.0:
        raise UserError(f"the share of starts must lie between 0 and 1, got {share:g}")
    joined = copy.copy(first)
    joined._motion = None
    for name in ("qpos", "qvel", "sites", "clip_frame"):
        setattr(joined, name, np.concatenate((getattr(first, name), getattr(second, name))))
    for name, offset in (
        ("run_starts", first.frames),
        ("run_stops", first.frames),
        ("run_last", first.frames),
        ("run_of", len(first.run_starts)),
        ("run_clip", len(first.clip_names)),
    ):
        setattr(joined, name, np.concatenate((getattr(first, name), getattr(second, name) + offset)))
    joined.clip_names = first.clip_names + second.clip_names
    joined.run_group = np.repeat([0, 1], [len(first.run_starts), len(second.run_starts)])
    joined.group_shares = (1.0 - share, share)
    return joined


def join_commands(first: CommandSource, second: CommandSource) -> CommandSource:
    """Append a command to another, as :func:`join_libraries` does with their libraries.

    Where one has fewer variants than the other, its own are repeated: variant v of the result shows variant v modulo
    their number.

    Args:
        first: Its library frames and segments keep their numbers.
        second: A command of the same kind (codes, or frames with the same look-ahead).

    Raises:
        UserError: If their codes are not of one size.
    """
    assert (first.codes is None) == (second.codes is None) and (first.qpos is None) == (second.qpos is None)
    variants = max(first.variants, second.variants)
    assert variants % first.variants == 0 and variants % second.variants == 0
    segments, phase, codes = None, None, None
    if first.segment is not None and second.segment is not None:
        segments = np.concatenate((first.segment, second.segment + _segments(first)))
        phase = np.concatenate((_some(first.phase), _some(second.phase)))
    if first.codes is not None and second.codes is not None:
        if first.vocabulary != second.vocabulary or first.codes.shape[2] != second.codes.shape[2]:
            raise UserError(
                f"codes of two kinds: {first.codes.shape[2]} tokens of {first.vocabulary} values and "
                f"{second.codes.shape[2]} of {second.vocabulary}"
            )
        codes = np.concatenate([_repeated(part.codes, part.variants, variants) for part in (first, second)], axis=1)
    if first.qpos is None:
        return CommandSource(codes=codes, segment=segments, phase=phase, vocabulary=first.vocabulary, variants=variants)
    block = len(first.qpos) // first.variants
    return CommandSource(
        qpos=_joined_rows(first.qpos, second.qpos, first.variants, second.variants),
        qvel=_joined_rows(_some(first.qvel), _some(second.qvel), first.variants, second.variants),
        rows=np.concatenate((_some(first.rows), _some(second.rows) + block)),
        codes=codes,
        segment=segments,
        phase=phase,
        vocabulary=first.vocabulary,
        variants=variants,
    )


def _some(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def _segments(command: CommandSource) -> int:
    """Number of segments of a command."""
    if command.codes is not None:
        return command.codes.shape[1]
    return int(_some(command.segment).max()) + 1


def _repeated(
    codes: Int[np.ndarray, "variant segment token"], variants: int, wanted: int
) -> Int[np.ndarray, "wanted segment token"]:
    return np.tile(codes, (wanted // variants, 1, 1))


def _joined_rows(
    first: Float[np.ndarray, "row_a column"], second: Float[np.ndarray, "row_b column"], a: int, b: int
) -> Float[np.ndarray, "row_c column"]:
    """Join frames variant by variant: rows of one variant of both parts come before those of the next."""
    variants = max(a, b)
    first, second = (rows.reshape(n, -1, rows.shape[1]) for rows, n in ((first, a), (second, b)))
    first, second = (np.tile(rows, (variants // len(rows), 1, 1)) for rows in (first, second))
    return np.concatenate((first, second), axis=1).reshape(-1, first.shape[2])


def first_part(library: MotionLibrary, command: CommandSource) -> tuple[MotionLibrary, CommandSource]:
    """Return what was there before anything joined: the first group of runs with the first variant of its command.

    This is what evaluations follow: the data set's motions, each segment with its first draw of codes.
    """
    runs = int((library.run_group == 0).sum())
    frames = int(library.run_stops[runs - 1])
    part = copy.copy(library)
    part._motion = None
    for name in ("qpos", "qvel", "sites", "clip_frame", "run_of"):
        setattr(part, name, getattr(library, name)[:frames])
    for name in ("run_starts", "run_stops", "run_last", "run_clip", "run_group"):
        setattr(part, name, getattr(library, name)[:runs])
    part.clip_names, part.group_shares = library.clip_names[: int(part.run_clip.max()) + 1], (1.0,)
    segment = None if command.segment is None else command.segment[:frames]
    phase = None if command.phase is None else command.phase[:frames]
    codes = command.codes
    if codes is not None and segment is not None:
        codes = codes[:1, : int(segment.max()) + 1]
    if command.qpos is None or command.qvel is None or command.rows is None:
        return part, replace(command, codes=codes, segment=segment, phase=phase, variants=1)
    rows = command.rows[:frames]
    shown = int(rows.max()) + 1
    return part, CommandSource(
        qpos=command.qpos[:shown],
        qvel=command.qvel[:shown],
        rows=rows,
        codes=codes,
        segment=segment,
        phase=phase,
        vocabulary=command.vocabulary,
    )
