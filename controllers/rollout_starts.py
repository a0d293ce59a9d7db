"""Library frames at which the rollouts of an evaluation start."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from motionlex.envs.reference import MotionLibrary

LAST_START = 10
"""Frames before the end of a run after which nothing starts."""


def stratified_starts(library: MotionLibrary, per_run: int, horizon: int) -> Int[np.ndarray, " start"]:
    """Return evenly spaced starts of every run, those that leave ``horizon`` frames where the run is long enough."""
    starts = []
    for a, stop in zip(library.run_starts, library.run_stops, strict=True):
        latest = max(a, stop - 1 - horizon)
        starts.append(np.unique(np.linspace(a, latest, per_run).astype(np.int64)))
    return np.concatenate(starts)


def repeated_starts(
    library: MotionLibrary,
    frames: Int[np.ndarray, " start"],
    repeats: int,
    within: int,
    horizon: int,
    *,
    distinct: bool,
) -> Int[np.ndarray, " episode"]:
    """Return ``repeats`` starts for each frame, spread over ``within`` frames but with full length where that can be.

    They lie from the frame on. Where that would leave less than ``horizon`` they lie before it instead, as far as its
    run goes back; in a run that is hardly longer than the horizon they crowd in its first frames: with ``distinct`` in
    the first ``repeats`` of them, else in those that leave the horizon. Where no start leaves it, the run being too
    short, the spread stays. None comes later than ten frames before the end of its run.

    Args:
        library: The motions.
        frames: Starts.
        repeats: Episodes per start; those of one frame follow each other.
        within: Longest spread [frames].
        horizon: Frames of a full-length episode.
        distinct: Whether episodes from the same frame would be the same episode.
    """
    if repeats == 1:
        return frames.copy()
    last, earliest = library.last_frame[frames], library.run_starts[library.run_of[frames]]
    spare = last - horizon - frames
    enough = spare >= 0
    first = np.where(enough, np.maximum(earliest, frames - np.maximum(within - spare, 0)), frames)
    room = np.clip(last - LAST_START - first, 0, within)
    kept = np.maximum(last - horizon - first, repeats - 1 if distinct else 0)
    room = np.where(enough, np.minimum(room, kept), room)
    share = np.linspace(0.0, 1.0, repeats)
    return (first[:, None] + np.round(room[:, None] * share).astype(np.int64)).reshape(-1)


def spread_starts(library: MotionLibrary, episodes: int, horizon: int, within: int) -> Int[np.ndarray, " episode"]:
    """Return starts spread evenly over the frames that leave ``horizon`` or are among the first ``within`` of a run.

    Long runs get more of them than short ones; every run counts at least its first frames.
    """
    pool = np.concatenate(
        [
            np.arange(a, max(a + 1, min(max(a + within, stop - 1 - horizon), stop - LAST_START)))
            for a, stop in zip(library.run_starts, library.run_stops, strict=True)
        ]
    )
    return pool[np.linspace(0, len(pool) - 1, episodes).astype(np.int64)]
