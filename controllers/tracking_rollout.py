"""Deterministic rollouts of a low-level policy: who is still measured, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from motionlex.controllers.rollout_recorder import Recorder
from motionlex.controllers.tracking_metrics import KEY_POINT_LIMIT, is_down
from motionlex.envs.alignment import tracking_errors
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.checks import bounded_actions
from motionlex.envs.simulator import initial_time_state
from motionlex.envs.task import TrackingTask

_FORGIVEN_S = 0.5
"""A robot may be down if its reference is within this time [s]."""

Array = np.ndarray


@runtime_checkable
class Policy(Protocol):
    """Anything that acts; LowLevelPolicy does."""

    def act(self, observation: Float[np.ndarray, "env feature"]) -> Float[np.ndarray, "env action"]:
        """Return deterministic actions."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What rollouts gave, one entry per episode."""

    frames: Int[np.ndarray, " episode"]
    """Library frame of the start."""
    failed: Bool[np.ndarray, " episode"]
    """Terminated by the task's own rules."""
    failed_keypoint: Bool[np.ndarray, " episode"]
    """Mean key-point error above 0.5 m (goal latent: with the reference moved under the robot), or a fall."""
    failed_keypoint_world: Bool[np.ndarray, " episode"]
    """The same rule with the reference where the library has it, whatever the goal."""
    steps: Float[np.ndarray, " episode"]
    """Control steps survived under the task's own rules; the step that fails is none of them."""
    possible: Float[np.ndarray, " episode"]
    """Control steps until the motion ends or the horizon is reached: what full success would give."""
    sums: dict[str, Float[np.ndarray, " episode"]]
    """Sums of the measures over the frames before termination."""
    weights: dict[str, Float[np.ndarray, " episode"]]
    """Their weights."""


def place(env: BatchedTracking, frames: Int[np.ndarray, " env"], generator: np.random.Generator | None) -> None:
    """Start every robot at a library frame, with the task's start noise where a generator is given."""
    env.reset_to(frames)
    if generator is not None:
        task = env.task
        draw = generator.standard_normal((len(frames), task.start_draws))
        env.state[:] = initial_time_state(*task.perturb(env.qpos, env.qvel, draw))


def roll_out(policy: Policy, env: BatchedTracking, horizon: int, *, complete: bool = True) -> Outcome:
    """Run every robot of a placed batch to the end of its episode.

    The reference that a step is scored against is read before the step: it is the state that the step is meant to
    reach. Terminated robots go on, unmeasured, until they also fail by the rule of other projects, both under the robot
    and in the world; finished ones stand at their start, unseen.

    Args:
        policy: Acts on observations.
        env: Robots at their starts.
        horizon: Control steps of the longest episode.
        complete: Measure everything; else only what a trainer asks for now and then (local key-point error).
    """
    task, start = env.task, env.episodes.frame.copy()
    recorder = Recorder(env, complete)
    alive, others_alive = np.ones(len(start), dtype=bool), np.full((2, len(start)), complete)
    failed, others_failed = np.zeros(len(start), dtype=bool), np.zeros((2, len(start)), dtype=bool)
    steps = np.zeros(len(start))
    forgiven = _reference_down(task) if complete else np.zeros(task.library.frames, dtype=bool)
    for _ in range(horizon):
        action = bounded_actions(policy.act(env.observe()), (len(start), task.actions), task.action_limit)
        ahead = np.minimum(env.episodes.frame + 1, task.library.last_frame[env.episodes.frame])
        reference = task.library.at(ahead)
        recorder.before()
        applied = env.simulate(task.control(env.episodes, action))
        drawn = env.disturbances.parameters
        result = task.advance(env.episodes, env.qpos, env.qvel, action, applied, parameters=drawn)
        state = recorder.state(reference, alive | others_alive.any(axis=0))
        recorder.add(state, reference, alive & ~result.terminated)
        env.disturbances.strike(env.qvel, env.generator)
        steps += alive & ~result.terminated
        failed |= alive & result.terminated
        if complete:
            compared = (task.reference(env.episodes.frame, state.qpos), reference)
            lost = np.stack([tracking_errors(state, other)[2] > KEY_POINT_LIMIT for other in compared])
            fallen = is_down(state.qpos) & ~forgiven[env.episodes.frame]
            others_failed |= others_alive & (lost | fallen | result.diverged)
        over = env.episodes.frame >= task.library.last_frame[env.episodes.frame]
        alive &= ~(result.terminated | over)
        others_alive &= ~(others_failed | over)
        going = alive | others_alive.any(axis=0)
        _freeze(env, ~going, start)
        if not going.any():
            break
    sums, weights = recorder.totals()
    return Outcome(
        frames=start,
        failed=failed,
        failed_keypoint=others_failed[0],
        failed_keypoint_world=others_failed[1],
        steps=steps,
        possible=1.0 * np.minimum(task.library.last_frame[start] - start, horizon),
        sums=sums,
        weights=weights,
    )


def _reference_down(task: TrackingTask) -> Bool[Array, " frame"]:
    """Tell at which frames the motion itself is down, half a second before or after included."""
    library, reach = task.library, round(_FORGIVEN_S * task.config.hz)
    count = np.concatenate(([0], np.cumsum(is_down(library.qpos))))
    frame = np.arange(library.frames)
    first = np.maximum(frame - reach, library.run_starts[library.run_of])
    last = np.minimum(frame + reach, library.last_frame)
    return count[last + 1] > count[first]


def _freeze(env: BatchedTracking, rows: Bool[Array, " env"], frames: Int[Array, " env"]) -> None:
    """Put finished robots back to their start, so that they neither diverge nor run past their motion."""
    index = np.flatnonzero(rows)
    if len(index):
        env.state[index] = initial_time_state(*env.task.start(env.episodes, index, frames[index]))


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Lay the episodes of several batches end to end."""
    first = outcomes[0]
    return Outcome(
        frames=np.concatenate([o.frames for o in outcomes]),
        failed=np.concatenate([o.failed for o in outcomes]),
        failed_keypoint=np.concatenate([o.failed_keypoint for o in outcomes]),
        failed_keypoint_world=np.concatenate([o.failed_keypoint_world for o in outcomes]),
        steps=np.concatenate([o.steps for o in outcomes]),
        possible=np.concatenate([o.possible for o in outcomes]),
        sums={name: np.concatenate([o.sums[name] for o in outcomes]) for name in first.sums},
        weights={name: np.concatenate([o.weights[name] for o in outcomes]) for name in first.weights},
    )
