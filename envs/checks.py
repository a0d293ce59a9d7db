"""Mistakes in what an environment is given, found before they reach the physics."""

from __future__ import annotations

import functools
import logging
import os

import numpy as np
from jaxtyping import Float, Int

from motionlex.data.errors import UserError, check_number
from motionlex.envs.reference import MotionLibrary

logger = logging.getLogger(__name__)


def bounded_actions(actions: np.ndarray, shape: tuple[int, int], limit: float) -> Float[np.ndarray, "env action"]:
    """Return actions as float64, limited to [-limit, limit]; infinite ones become the limit.

    Actions that are not numbers are refused, not repaired: they come from a policy that is broken for good, and hiding
    that would train on nonsense. States that are not numbers are the physics' affair and only restart their world.

    Args:
        actions: What the policy gave.
        shape: Robots and actions per robot.
        limit: Bound of every action.

    Raises:
        UserError: On another shape, or NaN.
    """
    if actions.shape != shape:
        raise UserError(
            f"actions have shape {actions.shape}, wanted {shape}: one row per robot, one column per motor"
            if shape[0] > 1
            else f"an action has shape {actions.shape[1:]}, wanted {shape[1:]}: one number per motor"
        )
    bounded = np.clip(np.asarray(actions, dtype=np.float64), -limit, limit)
    bad = np.isnan(bounded)
    if bad.any():
        rows = np.flatnonzero(bad.any(axis=1))
        raise UserError(
            f"the policy gave actions that are not numbers (NaN) for {len(rows)} of {shape[0]} robots, the first is "
            f"robot {rows[0]}: its weights or its observations are broken; go back to a checkpoint"
        )
    return bounded


def check_frames(library: MotionLibrary, frames: Int[np.ndarray, " env"]) -> None:
    """Refuse start frames that the motions do not have, or after which nothing comes.

    Raises:
        UserError: Naming the first one.
    """
    frames = np.asarray(frames)
    if bad := frames[(frames < 0) | (frames >= library.frames)].tolist():
        raise UserError(f"frame {bad[0]} is none of the motions', which have frames 0 to {library.frames - 1}")
    last = np.asarray(library.run_last[library.run_of[frames]].tolist())
    if bad := frames[frames >= last].tolist():
        raise UserError(f"frame {bad[0]} is the last of a motion: there is nothing to follow after it")


def available_cores() -> int:
    """Return how many cores this process may use; fewer than the machine has in containers and under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_batch(worlds: int, threads: int) -> None:
    """Refuse a batch without robots or threads; more threads than cores are allowed, with a warning.

    Raises:
        UserError: If a number is not positive.
    """
    check_number("--worlds", worlds, above=0)
    check_number("--threads", threads, above=0)
    cores = available_cores()
    if threads > cores:
        _warn_of_threads(threads, cores)


def check_crowding(processes: int, threads: int) -> None:
    """Warn where processes of one machine have more threads together than it has cores, and one alone has not.

    The latter is :func:`check_batch`'s affair.

    Args:
        processes: How many there are on this machine.
        threads: Physics threads of each.
    """
    cores = available_cores()
    if threads <= cores < processes * threads:
        logger.warning(
            "%d processes of %d thread(s) share %d core(s): one thread per core is faster", processes, threads, cores
        )


@functools.cache
def _warn_of_threads(threads: int, cores: int) -> None:
    logger.warning("%d physics threads share %d core(s): one per core is faster", threads, cores)
