"""What becomes of a robot whose servos simply follow the reference: the rollout of a policy that does nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from motionlex.envs.batched import BatchedTracking
from motionlex.envs.simulator import initial_time_state
from motionlex.envs.task import TrackingTask

_WORLDS = 64


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """Rollouts with zero actions, each from exactly one frame of the reference."""

    frames: Int[np.ndarray, " start"]
    """Library frames of the starts."""
    steps: Int[np.ndarray, " start"]
    """Control steps until termination, or until time or motion were over."""
    terminated: Bool[np.ndarray, " start"]
    """Whether it was termination."""


def roll_out_open_loop(
    task: TrackingTask, frames: Int[np.ndarray, " start"], *, seconds: float, threads: int = 1
) -> OpenLoop:
    """Start robots exactly on the reference and let them do nothing but follow its next frames.

    Args:
        task: What is followed and when a robot has lost it.
        frames: Where to start.
        seconds: Longest rollout [s].
        threads: Physics threads.
    """
    count = min(_WORLDS, len(frames))
    env = BatchedTracking(task, worlds=count, threads=threads, generator=np.random.default_rng(0))
    limit = round(seconds * task.config.hz)
    steps, terminated = np.zeros(len(frames), dtype=np.int64), np.zeros(len(frames), dtype=bool)
    running, waiting, busy = np.arange(count), count, np.ones(count, dtype=bool)
    nothing = np.zeros((count, task.actions))
    env.reset_to(frames[running])
    while busy.any():
        applied = env.simulate(task.control(env.episodes, nothing))
        result = task.advance(env.episodes, env.qpos, env.qvel, nothing, applied)
        steps[running[busy]] += 1
        over = result.terminated | result.truncated | (steps[running] >= limit)
        terminated[running[busy & result.terminated]] = True
        rows = np.flatnonzero(over | ~busy)
        for row in rows[busy[rows]]:
            if waiting < len(frames):
                running[row], waiting = waiting, waiting + 1
            else:
                busy[row] = False
        if len(rows):  # those without a task stand at their start
            env.state[rows] = initial_time_state(*task.start(env.episodes, rows, frames[running[rows]]))
    env.close()
    return OpenLoop(frames=frames, steps=steps, terminated=terminated)
