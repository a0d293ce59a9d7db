"""Speed of the batched environment, as ratios measured in one run on one machine."""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable
from functools import partial

import mujoco
import numpy as np
from mujoco import rollout
from stable_baselines3.common.vec_env import SubprocVecEnv

from motionlex.data.clip import MotionClip
from motionlex.data.datasets import FASTEST_HZ
from motionlex.data.errors import check_number
from motionlex.data.robots import get_robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.simulator import task_model
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.tracking import H1Track

logger = logging.getLogger(__name__)


def benchmark_task(hz: float) -> TrackingTask:
    """Return a task of its own making: ten seconds of shallow knee bends, no files needed."""
    check_number("--hz", hz, at_least=1, at_most=FASTEST_HZ)
    robot = get_robot("h1")
    time_s = np.arange(round(10.0 * hz)) / hz
    bend = 0.15 * (1.0 - np.cos(2.0 * np.pi * 0.5 * time_s))
    qpos = np.zeros((len(time_s), 7 + len(robot.joints)))
    qpos[:, 2], qpos[:, 3], qpos[:, 7:] = robot.standing_height, 1.0, robot.default_pose
    for name, factor in (("hip_flexion", -0.5), ("knee_angle", 1.0), ("ankle_angle", -0.5)):
        for side in "lr":
            qpos[:, 7 + robot.joint_names.index(f"{name}_{side}")] += factor * bend
    qpos[:, 2] -= 0.8 * (np.cos(0.2) - np.cos(0.2 + 0.5 * bend))
    clip = MotionClip(name="knee_bends", qpos=qpos, hz=hz)
    return TrackingTask(robot, MotionLibrary([clip], robot, hz), TaskConfig(hz=hz))


def benchmark_env(
    hz: float = 50.0, *, worlds: int = 256, threads: int | None = None, seconds: float = 4.0
) -> dict[str, float | int | None]:
    """Time the batched environment, raw physics of the same worlds, and one process per environment.

    Args:
        hz: Control rate [1/s].
        worlds: Robots of the batch.
        threads: Physics threads and processes; None takes the cores.
        seconds: Time spent on each measurement [s].

    Returns:
        ``env_steps_per_s`` (control steps with observations, rewards and resets), ``raw_steps_per_s``
        (``mujoco.rollout`` alone), ``subproc_steps_per_s`` (stable-baselines3's SubprocVecEnv), their ratios,
        ``loco_mujoco_steps_per_s`` (None: not measured here), ``threads``, ``hz``.
    """
    count = threads or os.cpu_count() or 1
    task = benchmark_task(hz)
    env = BatchedTracking(task, worlds=worlds, threads=count, generator=np.random.default_rng(0))
    env.reset()
    batched, raw = _batched_and_raw_rate(env, count, seconds)
    env.close()
    subproc = _subproc_rate(hz, count, seconds)
    if importlib.util.find_spec("loco_mujoco") is not None:
        logger.info("loco-mujoco is installed; its environment is not timed here yet")
    return {
        "env_steps_per_s": batched,
        "raw_steps_per_s": raw,
        "subproc_steps_per_s": subproc,
        "loco_mujoco_steps_per_s": None,
        "env_over_raw": batched / raw,
        "env_over_subproc": batched / subproc,
        "threads": count,
        "worlds": worlds,
        "hz": hz,
    }


def _rate(step: Callable[[int], object], robots: int, seconds: float) -> float:
    """Return control steps of single robots per second."""
    for index in range(3):
        step(index)
    begin, index = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        step(index)
        index += 1
    return index * robots / spent


def _batched_and_raw_rate(env: BatchedTracking, threads: int, seconds: float) -> tuple[float, float]:
    """Time the environment and mujoco.rollout on the very states and targets it went through, in turns."""
    task = env.task
    model = task_model(task.robot, task.config)
    data = [mujoco.MjData(model) for _ in range(threads)]
    actions = np.random.default_rng(1).normal(0.0, 0.1, (16, env.num_envs, task.actions))
    spent, count = np.zeros(2), 0
    with rollout.Rollout(nthread=threads if threads > 1 else 0) as pool:
        while spent.max() < seconds:
            seen = []
            for action in actions:
                ctrl = np.repeat(task.control(env.episodes, action)[:, None], env.physics_steps, axis=1)
                seen.append((env.state.copy(), ctrl))
                begin = time.perf_counter()
                env.step(action)
                spent[0] += time.perf_counter() - begin
            begin = time.perf_counter()
            for state, ctrl in seen:
                pool.rollout(model, data, state, ctrl)
            spent[1] += time.perf_counter() - begin
            count += len(actions) * env.num_envs
    return count / spent[0], count / spent[1]


def _make_env(hz: float) -> H1Track:
    return H1Track(benchmark_task(hz))


def _subproc_rate(hz: float, processes: int, seconds: float) -> float:
    """Time one environment per process."""
    env = SubprocVecEnv([partial(_make_env, hz) for _ in range(processes)])
    env.reset()
    action = np.zeros((processes, env.action_space.shape[0]))
    rate = _rate(lambda _: env.step(action), processes, seconds)
    env.close()
    return rate
