"""Speed of the batched environment, as ratios measured in one run on one machine, in turns."""

from __future__ import annotations

import contextlib
import logging
import os
from functools import partial
from typing import Literal

import numpy as np

from motionlex.data.clip import MotionClip
from motionlex.data.datasets import FASTEST_HZ
from motionlex.data.errors import UserError, check_number
from motionlex.data.robots import get_robot
from motionlex.envs import loco
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.contestants import BatchedContestant, Contestant, RawContestant
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.rival_processes import BatchStepper, LocoStepper, ProcessContestant, SubprocContestant
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import Reward, TaskConfig

Control = Literal["pd", "torque"]
logger = logging.getLogger(__name__)
_TURN_S = 0.5
"""Length of a turn [s]: whatever else slows the machine for a while slows all of them."""


def benchmark_clip(hz: float) -> MotionClip:
    """Return ten seconds of shallow knee bends: no files needed."""
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
    return MotionClip(name="knee_bends", qpos=qpos, hz=hz)


def benchmark_task(hz: float, *, control: Control = "pd", reward: Reward = "deepmimic") -> TrackingTask:
    """Return a task of its own making, see :func:`benchmark_clip`."""
    robot, config = get_robot("h1"), TaskConfig(hz=hz, control=control, reward=reward)
    return TrackingTask(robot, MotionLibrary([benchmark_clip(hz)], robot, hz), config)


def benchmark_env(
    hz: float = 50.0,
    *,
    worlds: int = 1024,
    threads: int | None = None,
    seconds: float = 4.0,
    control: Control = "pd",
    reward: Reward = "deepmimic",
) -> dict[str, float | int | str | None]:
    """Time the batched environment, raw physics of the same worlds, and what others run.

    All take turns of half a second. Rates are control steps of single robots per second.

    Args:
        hz: Control rate [1/s].
        worlds: Robots in all.
        threads: Physics threads, and processes of the others; None takes the cores.
        seconds: Time spent on each measurement [s].
        control: Motors of our environment.
        reward: Its reward.

    Returns:
        ``env_steps_per_s`` (with observations, rewards and resets; the robots shared by one process per thread, as
        ``train_lowlevel`` runs it), ``env_threads_steps_per_s`` (the same in one process), ``raw_steps_per_s``
        (``mujoco.rollout`` alone on the states and targets that the environment went through, at its best batch size
        ``raw_worlds``, nothing allocated), ``subproc_steps_per_s`` (stable-baselines3's SubprocVecEnv),
        ``loco_mujoco_steps_per_s`` (LocoMuJoCo's environment, default observation and MimicReward, its own model,
        1 ms x 10, ``threads`` processes, resets not counted; None without it or its model),
        ``loco_mujoco_steps_per_s_equal_physics`` (the same with our model, time step and sub-steps, torque motors),
        the ratios of ours to each, ``threads``, ``worlds``, ``hz``, ``control``, ``reward``.

    Raises:
        UserError: If a number is out of range, or a process of the others ends early.
    """
    count = _thread_count(threads)
    check_number("--hz", hz, at_least=1, at_most=FASTEST_HZ)
    check_number("--worlds", worlds, at_least=1)
    check_number("--seconds", seconds, above=0)
    task = benchmark_task(hz, control=control, reward=reward)
    with contextlib.ExitStack() as stack:
        env = BatchedTracking(task, worlds=worlds, threads=count, generator=np.random.default_rng(0))
        batched = stack.enter_context(contextlib.closing(BatchedContestant(env)))
        raw = stack.enter_context(contextlib.closing(RawContestant(batched, count)))
        raw.choose(seconds / 32)
        ours: Contestant = batched
        if count > 1:
            make = partial(BatchStepper, benchmark_clip(hz), task.robot, task.config, max(1, worlds // count))
            ours = stack.enter_context(contextlib.closing(ProcessContestant("the environment", make, count)))
        others: dict[str, Contestant] = {}
        others["subproc"] = SubprocContestant(benchmark_clip(hz), task.robot, task.config, count)
        stack.callback(others["subproc"].close)
        for name, physics in _loco_physics(task).items():
            make = partial(LocoStepper, benchmark_clip(physics.hz), physics)
            others[name] = ProcessContestant("LocoMuJoCo's environment", make, count)
            stack.callback(others[name].close)
        take_turns([batched, *([ours] if ours is not batched else []), raw, *others.values()], seconds)
        rates = {"raw": raw.rate, **{name: other.rate for name, other in others.items()}}
    rates = {name: rates.get(name) for name in ("raw", "subproc", "loco_mujoco", "loco_mujoco_equal_physics")}
    return {
        "env_steps_per_s": ours.rate,
        "env_threads_steps_per_s": batched.rate,
        "raw_steps_per_s": rates["raw"],
        "raw_worlds": raw.worlds,
        "subproc_steps_per_s": rates["subproc"],
        "loco_mujoco_steps_per_s": rates["loco_mujoco"],
        "loco_mujoco_steps_per_s_equal_physics": rates["loco_mujoco_equal_physics"],
        **{f"env_over_{name}": ours.rate / rate if rate else None for name, rate in rates.items()},
        "threads": count,
        "worlds": worlds,
        "hz": hz,
        "control": control,
        "reward": reward,
    }


def take_turns(contestants: list[Contestant], seconds: float) -> None:
    """Let each run for ``seconds`` in all [s], in short turns."""
    rounds = max(1, round(seconds / _TURN_S))
    for _ in range(rounds):
        for contestant in contestants:
            contestant.turn(seconds / rounds)


def _thread_count(threads: int | None) -> int:
    """Return the number of threads to use; more than there are cores is allowed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    check_number("--threads", threads, at_least=1)
    if threads is not None and threads > cores:
        logger.warning("--threads %d: only %d cores are there, so threads wait for each other", threads, cores)
    return threads or cores


def _loco_physics(task: TrackingTask) -> dict[str, loco.LocoPhysics]:
    """Return the physics with which LocoMuJoCo's environment can be timed here."""
    if not loco.installed():
        logger.info("loco-mujoco is not installed (extra [loco]), so its environment is not timed")
        return {}
    found = {"loco_mujoco_equal_physics": loco.LocoPhysics.of_task(task.robot, task.config)}
    try:
        found["loco_mujoco"] = loco.LocoPhysics.own()
    except UserError as error:
        logger.info("LocoMuJoCo's own physics are not timed: %s", error)
    return found
