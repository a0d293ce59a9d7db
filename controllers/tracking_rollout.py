"""Deterministic rollouts of a low-level policy: where they start, and what is measured on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from motionlex.controllers.tracking_metrics import (
    KEY_POINT_LIMIT,
    StepRecord,
    heading_error,
    is_down,
    key_point_errors,
    root_drift,
    step_measures,
    transport_cost,
)
from motionlex.envs.alignment import tracking_errors
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.checks import bounded_actions
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.rewards import BodyState
from motionlex.envs.simulator import initial_time_state
from motionlex.envs.soles import Soles
from motionlex.envs.task import TrackingTask

LAST_START = 10
"""Frames before the end of a run after which nothing starts."""
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
    recorder = _Recorder(env, complete)
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


class _Recorder:
    """Sums of the measures while a batch runs."""

    def __init__(self, env: BatchedTracking, complete: bool) -> None:
        self._env, self._task, self._complete = env, env.task, complete
        self._soles = Soles(env.task.robot)
        self._sums: dict[str, Array] = {}
        self._weights: dict[str, Array] = {}
        count = env.num_envs
        self._way, self._reference_way = np.zeros(count), np.zeros(count)
        self._drift, self._turned = np.zeros(count), np.zeros(count)
        self._earlier: Array | None = None
        self._begun: Array = env.state.copy()

    def before(self) -> None:
        """Keep what the step will change."""
        self._begun = self._env.state.copy()
        self._earlier = self._task.library.at(self._env.episodes.frame).qpos[:, :2]

    def state(self, reference: BodyState, seen: Bool[Array, " env"]) -> BodyState:
        """Return the measured state; robots out of the game get the reference's, which is always made of numbers."""
        qpos = np.where(seen[:, None], self._env.qpos, reference.qpos)
        qvel = np.where(seen[:, None], self._env.qvel, reference.qvel)
        if not self._complete:
            return BodyState(qpos=qpos, qvel=qvel, sites=self._task.kinematics(qpos))
        motion = self._task.kinematics.states(qpos, qvel)
        return BodyState(qpos=qpos, qvel=qvel, sites=motion.position, motion=motion)

    def add(self, state: BodyState, reference: BodyState, kept: Bool[Array, " env"]) -> None:
        """Add one control step of the robots that are still measured."""
        if not self._complete:
            local = key_point_errors(state, reference)[1]
            self._gather({"keypoint_error_local_mm": (local, np.ones(len(local)))}, kept)
            return
        assert state.motion is not None and self._earlier is not None
        torque, speed, limit = self._motors()
        slide, contact = self._soles.sliding(state.motion)
        record = StepRecord(
            state=state,
            reference=reference,
            torque=torque,
            speed=speed,
            torque_limit=limit,
            slide=slide,
            contact=contact,
        )
        self._gather(step_measures(record), kept)
        moved = np.linalg.norm(state.qpos[:, :2] - self._begun[:, 1:3], axis=1)
        self._way += np.where(kept, moved, 0.0)
        self._reference_way += np.where(kept, np.linalg.norm(reference.qpos[:, :2] - self._earlier, axis=1), 0.0)
        self._drift = np.where(kept, root_drift(state, reference), self._drift)
        self._turned = np.where(kept, heading_error(state, reference), self._turned)

    def totals(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return sums and weights of all measures."""
        sums, weights = dict(self._sums), dict(self._weights)
        if self._complete:
            frames = weights["energy_j_per_s"]
            for name, last in (("root_drift_m", self._drift), ("heading_drift_rad", self._turned)):
                sums[name], weights[name] = last, (frames > 0) * 1.0
            sums["cost_of_transport"], weights["cost_of_transport"] = transport_cost(
                sums["energy_j_per_s"],
                self._way,
                self._reference_way,
                frames,
                hz=self._task.config.hz,
                mass=self._task.robot.mass,
            )
        return sums, weights

    def _gather(self, pairs: dict[str, tuple[Array, Array]], kept: Bool[Array, " env"]) -> None:
        for name, (value, weight) in pairs.items():
            none = np.zeros(len(kept))
            self._sums[name] = self._sums.get(name, none) + np.where(kept, value, 0.0)
            self._weights[name] = self._weights.get(name, none) + np.where(kept, weight, 0.0)

    def _motors(self) -> tuple[Array, Array, Array]:
        """Return torques [N m] and hinge velocities [rad/s] when every physics step begins, and the limits [N m]."""
        env, task, drawn = self._env, self._task, self._env.disturbances.parameters
        limit = task.robot.torque_limit[None] * (1.0 if drawn is None else drawn.strength)
        states = np.nan_to_num(np.concatenate((self._begun[:, None], env.passed[:, :-1]), axis=1))
        qpos, qvel = states[..., 1 : 1 + env.qpos.shape[1]], states[..., 1 + env.qpos.shape[1] :]
        steps = range(states.shape[1])
        shares = [task.motors.torque_share(env.held[:, k], qpos[:, k], qvel[:, k], parameters=drawn) for k in steps]
        return np.stack(shares, axis=1) * limit[:, None], qvel[..., 6:], limit


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
