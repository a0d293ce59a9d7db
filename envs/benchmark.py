"""Speed of the batched environment, as ratios measured in one run on one machine, in turns."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

import numpy as np

from motionlex.data.clip import MotionClip
from motionlex.data.datasets import FASTEST_HZ
from motionlex.data.errors import UserError, check_number
from motionlex.data.robots import get_robot
from motionlex.envs import loco
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.checks import available_cores
from motionlex.envs.contestants import BatchedContestant, Contestant, RawContestant, RawStepper
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.rival_processes import BatchStepper, LocoStepper, ProcessContestant, SubprocContestant
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import Reward, TaskConfig

Control = Literal["pd", "torque"]
logger = logging.getLogger(__name__)
_OTHERS = {
    "subproc": "subproc_steps_per_s",
    "loco_mujoco": "loco_mujoco_steps_per_s",
    "loco_mujoco_equal_physics": "loco_mujoco_steps_per_s_equal_physics",
}
"""Keys of the rates of the others."""
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
    seconds: float = 3.0,
    control: Control = "pd",
    reward: Reward = "deepmimic",
) -> dict[str, float | int | str | None]:
    """Time the batched environment, raw physics of the same worlds, and what others run.

    All take turns of half a second, with random actions of standard deviation 0.1: untrained robots fall, so some are
    restarted in every step (``restarts_per_step``), and ours pays for that. Our environment and raw physics are both
    measured as one process with ``threads`` threads and as ``threads`` processes with one thread each; the best of ours
    is compared with the best of raw physics, and one process of each like for like. Rates are control steps of single
    robots per second.

    Args:
        hz: Control rate [1/s].
        worlds: Robots in all.
        threads: Physics threads, or processes; None takes the cores.
        seconds: Time spent on each measurement [s].
        control: Motors of our environment.
        reward: Its reward.

    Returns:
        ``env_steps_per_s`` (with observations, rewards and resets; the faster of both arrangements,
        ``env_arrangement``), ``env_threads_steps_per_s``, ``env_processes_steps_per_s`` (as ``train_lowlevel`` runs
        it), ``restarts_per_step`` (of all ``worlds``), ``raw_steps_per_s`` (``mujoco.rollout`` alone on states and
        targets that the environment went through, nothing allocated; the faster of both arrangements,
        ``raw_arrangement``), ``raw_threads_steps_per_s`` (at its best batch size ``raw_worlds``),
        ``raw_processes_steps_per_s`` (each process at its own best batch size), ``subproc_steps_per_s``
        (stable-baselines3's SubprocVecEnv), ``loco_mujoco_steps_per_s`` (LocoMuJoCo's environment, default
        observation and MimicReward, its own model, 1 ms x 10, ``threads`` processes, resets not counted; None without
        it or its model), ``loco_mujoco_steps_per_s_equal_physics`` (the same with our model, time step and sub-steps,
        torque motors), the ratios of our best to each (``env_over_raw``: best to best),
        ``env_threads_over_raw_threads``, ``threads``, ``worlds``, ``hz``, ``control``, ``reward``. With one thread
        nothing runs in processes of ours: both arrangements are "threads", rates of processes None.

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
        ours: dict[str, Contestant] = {"threads": batched}
        bare: dict[str, Contestant] = {"threads": raw}
        if count > 1:
            for sides, contestant in zip((ours, bare), _in_processes(batched, count, seconds / 32), strict=True):
                sides["processes"] = stack.enter_context(contextlib.closing(contestant))
        others: dict[str, Contestant] = {}
        others["subproc"] = SubprocContestant(benchmark_clip(hz), task.robot, task.config, count)
        stack.callback(others["subproc"].close)
        for name, physics in _loco_physics(task).items():
            make = partial(LocoStepper, benchmark_clip(physics.hz), physics)
            others[name] = ProcessContestant("LocoMuJoCo's environment", make, count)
            stack.callback(others[name].close)
        take_turns([*ours.values(), *bare.values(), *others.values()], seconds)
    env_best, raw_best = (max(sides, key=lambda name: sides[name].rate) for sides in (ours, bare))
    rates = {"raw": bare[raw_best].rate}
    rates |= {name: others[name].rate if name in others else None for name in _OTHERS}
    return {
        "env_steps_per_s": ours[env_best].rate,
        "env_arrangement": env_best,
        **_by_arrangement("env", ours),
        "restarts_per_step": batched.restarts_per_step,
        "raw_steps_per_s": rates["raw"],
        "raw_arrangement": raw_best,
        **_by_arrangement("raw", bare),
        "raw_worlds": raw.worlds,
        **{key: rates[name] for name, key in _OTHERS.items()},
        **{f"env_over_{name}": ours[env_best].rate / rate if rate else None for name, rate in rates.items()},
        "env_threads_over_raw_threads": batched.rate / raw.rate,
        "threads": count,
        "worlds": worlds,
        "hz": hz,
        "control": control,
        "reward": reward,
    }


def _in_processes(batched: BatchedContestant, count: int, seconds: float) -> Iterator[ProcessContestant]:
    """Start our environment, then raw physics on what it went through, in processes of one thread each.

    Args:
        batched: The environment.
        count: Number of processes.
        seconds: Length of a try of one batch size of raw physics [s].
    """
    task, worlds = batched.env.task, batched.env.num_envs
    clip = benchmark_clip(task.config.hz)
    make = partial(BatchStepper, clip, task.robot, task.config, max(1, worlds // count))
    yield ProcessContestant("the environment", make, count)
    bare = partial(RawStepper, task.robot, task.config, *batched.experience(), count, seconds)
    yield ProcessContestant("raw physics", bare, count)


def _by_arrangement(side: str, contestants: Mapping[str, Contestant]) -> dict[str, float | None]:
    found = {name: contestants[name].rate if name in contestants else None for name in ("threads", "processes")}
    return {f"{side}_{name}_steps_per_s": rate for name, rate in found.items()}


def take_turns(contestants: list[Contestant], seconds: float) -> None:
    """Let each run for ``seconds`` in all [s], in short turns."""
    rounds = max(1, round(seconds / _TURN_S))
    for _ in range(rounds):
        for contestant in contestants:
            contestant.turn(seconds / rounds)


def _thread_count(threads: int | None) -> int:
    """Return the number of threads to use; more than there are cores is allowed."""
    cores = available_cores()
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
