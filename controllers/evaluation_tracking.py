"""How well a low-level policy follows its motions: deterministic rollouts from stratified starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from motionlex.data.robots import Robot
from motionlex.envs.alignment import move_under
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.reference import CommandSource, MotionLibrary
from motionlex.envs.rewards import BodyState
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig

Report = dict[str, float | int | str | list[dict[str, float | int | str]]]


@runtime_checkable
class Policy(Protocol):
    """Anything that acts; LowLevelPolicy does."""

    def act(self, observation: Float[np.ndarray, "env feature"]) -> Float[np.ndarray, "env action"]:
        """Return deterministic actions."""
        ...


def stratified_starts(library: MotionLibrary, per_run: int, horizon: int) -> Int[np.ndarray, " start"]:
    """Return evenly spaced starts of every run, those that leave ``horizon`` frames where the run is long enough."""
    starts = []
    for a, stop in zip(library.run_starts, library.run_stops, strict=True):
        latest = max(a, stop - 1 - horizon)
        starts.append(np.unique(np.linspace(a, latest, per_run).astype(np.int64)))
    return np.concatenate(starts)


def key_point_errors(
    state: BodyState, reference: BodyState
) -> tuple[Float[np.ndarray, " env"], Float[np.ndarray, " env"], Float[np.ndarray, " env"]]:
    """Return mean key-point distance in the world [mm], with roots aligned [mm], mean joint error [rad].

    Aligned means that the reference is moved to the robot's x, y and heading and both are then compared relative to
    their root's height as well.
    """
    world = np.sqrt(((state.sites - reference.sites) ** 2).sum(-1)).mean(-1)
    moved = move_under(reference, state.qpos)
    lift = (state.qpos[:, 2] - moved.qpos[:, 2])[:, None, None] * np.array([0.0, 0.0, 1.0])
    local = np.sqrt(((state.sites - moved.sites - lift) ** 2).sum(-1)).mean(-1)
    joint = np.abs(state.qpos[:, 7:] - reference.qpos[:, 7:]).mean(-1)
    return 1e3 * world, 1e3 * local, joint


def evaluate_tracking(
    policy: Policy,
    library: MotionLibrary,
    command: CommandSource | None,
    *,
    robot: Robot,
    config: TaskConfig,
    per_run: int = 3,
    seconds: float = 10.0,
    threads: int = 1,
    starts: Sequence[int] | None = None,
) -> Report:
    """Roll the policy out without noise and compare with the library.

    An episode succeeds if it is not terminated within ``seconds`` or until its motion ends. Errors are means over the
    frames before termination, weighted by frame; the reference of a step is read before the step is taken.

    Args:
        policy: The policy.
        library: Motions to follow.
        command: What the policy sees; None shows the library.
        robot: The robot.
        config: The task; its own episode length, noise and kicks are ignored.
        per_run: Starts per stretch of valid frames.
        seconds: Longest rollout [s].
        threads: Physics threads.
        starts: Library frames to start at; None spreads ``per_run`` over every run.

    Returns:
        ``success_rate``, ``mean_survival_s``, ``keypoint_error_local_mm``, ``keypoint_error_global_mm``,
        ``joint_error_rad``, ``episodes``, ``hz`` and ``clips``: the same per clip.
    """
    from dataclasses import replace

    config = replace(config, episode_s=seconds, randomisation=Randomisation(), privileged_critic=False)
    task = TrackingTask(robot, library, config, command)
    horizon = round(seconds * config.hz)
    frames = stratified_starts(library, per_run, horizon) if starts is None else np.asarray(starts, dtype=np.int64)
    outcome = _rollout(policy, task, frames, horizon, threads)
    clips = []
    owner = library.clip_of(frames)
    for index in np.unique(owner):
        rows = owner == index
        clips.append({"clip": library.clip_names[index], **_summary(outcome, rows, config.hz)})
    return {**_summary(outcome, np.ones(len(frames), dtype=bool), config.hz), "hz": config.hz, "clips": clips}


def _rollout(
    policy: Policy, task: TrackingTask, frames: Int[np.ndarray, " env"], horizon: int, threads: int
) -> dict[str, Float[np.ndarray, " env"] | Bool[np.ndarray, " env"]]:
    """Run every episode to its end; finished robots keep stepping unseen."""
    env = BatchedTracking(task, worlds=len(frames), threads=threads, generator=np.random.default_rng(0))
    env.reset_to(frames)
    alive = np.ones(len(frames), dtype=bool)
    failed = np.zeros(len(frames), dtype=bool)
    survived = np.zeros(len(frames))
    sums = np.zeros((4, len(frames)))
    for _ in range(horizon):
        action = np.clip(policy.act(env.observe()), -task.action_limit, task.action_limit)
        ahead = np.minimum(env.episodes.frame + 1, task.library.last_frame[env.episodes.frame])
        reference = task.library.at(ahead)  # read before the step: what this step is meant to reach
        ctrl = task.control(env.episodes, action)
        env.simulate(ctrl)
        result = task.advance(env.episodes, env.qpos, env.qvel, action, ctrl)
        kept = alive & ~result.terminated
        state = BodyState(
            qpos=env.qpos, qvel=env.qvel, sites=task.kinematics(np.where(kept[:, None], env.qpos, reference.qpos))
        )
        errors = key_point_errors(state, reference)
        for row, error in enumerate((*errors, np.ones(len(frames)))):
            sums[row] += np.where(kept, error, 0.0)
        survived += alive
        failed |= alive & result.terminated
        alive &= ~(result.terminated | result.truncated)
        _freeze(env, ~alive, frames)
        if not alive.any():
            break
    env.close()
    return {
        "failed": failed,
        "steps": survived,
        "world": sums[0],
        "local": sums[1],
        "joint": sums[2],
        "frames": sums[3],
    }


def _freeze(env: BatchedTracking, rows: Bool[np.ndarray, " env"], frames: Int[np.ndarray, " env"]) -> None:
    """Put finished robots back to their start, so that they neither diverge nor run past their motion."""
    index = np.flatnonzero(rows)
    if len(index):
        qpos, qvel = env.task.start(env.episodes, index, frames[index])
        env.state[index] = np.concatenate((np.zeros((len(index), 1)), qpos, qvel), axis=1)


def _summary(
    outcome: dict[str, Float[np.ndarray, " env"] | Bool[np.ndarray, " env"]], rows: Bool[np.ndarray, " env"], hz: float
) -> dict[str, float | int]:
    frames = max(float(outcome["frames"][rows].sum()), 1.0)
    return {
        "success_rate": float(1.0 - outcome["failed"][rows].mean()),
        "mean_survival_s": float(outcome["steps"][rows].mean() / hz),
        "keypoint_error_local_mm": float(outcome["local"][rows].sum() / frames),
        "keypoint_error_global_mm": float(outcome["world"][rows].sum() / frames),
        "joint_error_rad": float(outcome["joint"][rows].sum() / frames),
        "episodes": int(rows.sum()),
    }
