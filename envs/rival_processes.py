"""Who takes turns in ``benchmark env`` in processes.

Our batch shared by processes, as ``train_lowlevel`` runs it; stable-baselines3's SubprocVecEnv; LocoMuJoCo's
environment.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Protocol, runtime_checkable

import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv

from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.contestants import ACTION, Contestant
from motionlex.envs.loco import LocoMimic, LocoPhysics
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.tracking import H1Track

_PATIENCE_S = 120.0
"""How long a process may take to start or to answer [s]."""
_GONE = (EOFError, ConnectionError)
"""What reading from or writing to a dead process raises."""


class SubprocContestant(Contestant):
    """stable-baselines3's SubprocVecEnv, one process per single environment."""

    def __init__(self, clip: MotionClip, robot: Robot, config: TaskConfig, processes: int) -> None:
        """Start the processes.

        Args:
            clip: The motion.
            robot: The robot.
            config: The task; every process makes its own.
            processes: Number of single environments.
        """
        super().__init__()
        self._draw = np.random.default_rng(2)
        self.env = SubprocVecEnv([partial(_single, clip, robot, config)] * processes)
        try:
            self.env.reset()
        except _GONE as error:
            raise self._lost() from error

    def turn(self, seconds: float) -> None:
        """Step with random actions.

        Raises:
            UserError: If a process has ended.
        """
        shape = (self.env.num_envs, *self.env.action_space.shape)
        until = self.seconds + seconds
        while self.seconds < until:
            action = self._draw.normal(0.0, ACTION, shape)
            begin = time.perf_counter()
            try:
                self.env.step(action)
            except _GONE as error:
                raise self._lost() from error
            self.seconds += time.perf_counter() - begin
            self.steps += len(action)

    def close(self) -> None:
        """End the processes."""
        if not self.env.closed and not self.env.waiting:
            self.env.close()

    def _lost(self) -> UserError:
        """End what is left (its own ``close`` would wait for the dead) and say what happened."""
        self.env.closed = True
        return _lost_process("SubprocVecEnv", self.env.processes)


@runtime_checkable
class Stepper(Protocol):
    """What a process runs."""

    def step(self) -> tuple[int, float]:
        """Return how many robots were stepped, and the time that counts [s]."""
        ...


class ProcessContestant(Contestant):
    """The same thing in several processes at once."""

    def __init__(self, whose: str, make: Callable[[int], Stepper], processes: int) -> None:
        """Start the processes and wait until all are ready.

        Args:
            whose: What runs there, for messages.
            make: Makes it from the number of the process; can be pickled.
            processes: How many.

        Raises:
            UserError: If one cannot be made.
        """
        super().__init__()
        self._whose = whose
        context = multiprocessing.get_context("spawn")  # threads of physics, jax and forks do not go together
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for index in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, whose, make, index), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        for pipe in self._pipes:
            self._answer(pipe)

    def turn(self, seconds: float) -> None:
        """Step with random actions, in all processes at once.

        Raises:
            UserError: If a process has ended.
        """
        try:
            for pipe in self._pipes:
                pipe.send(seconds)
        except _GONE as error:
            raise _lost_process(self._whose, self._processes) from error
        answers = [self._answer(pipe) for pipe in self._pipes]
        self.steps += sum(steps for steps, _ in answers)
        self.seconds += sum(spent for _, spent in answers) / len(answers)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()

    def _answer(self, pipe: Connection) -> tuple[int, float]:
        try:
            if not pipe.poll(_PATIENCE_S):
                self.close()
                raise UserError(f"{self._whose} did not answer within {_PATIENCE_S:g} s")
            answer = pipe.recv()
        except _GONE as error:
            raise _lost_process(self._whose, self._processes) from error
        if isinstance(answer, str):
            self.close()
            raise UserError(answer)
        return answer


def _single(clip: MotionClip, robot: Robot, config: TaskConfig) -> H1Track:
    return H1Track(TrackingTask(robot, MotionLibrary([clip], robot, config.hz), config))


class BatchStepper:
    """A share of our batch, on the process's one thread."""

    def __init__(self, clip: MotionClip, robot: Robot, config: TaskConfig, worlds: int, index: int) -> None:
        """Make the environment.

        Args:
            clip: The motion.
            robot: The robot.
            config: The task.
            worlds: Robots of this process.
            index: Number of the process; seeds starts and actions.
        """
        task = TrackingTask(robot, MotionLibrary([clip], robot, config.hz), config)
        self._env = BatchedTracking(task, worlds=worlds, threads=1, generator=np.random.default_rng((0, index)))
        self._actions = np.random.default_rng((1, index)).normal(0.0, ACTION, (16, worlds, task.actions))
        self._next = 0
        self._env.reset()

    def step(self) -> tuple[int, float]:
        """Step with random actions that were drawn before."""
        self._next = (self._next + 1) % len(self._actions)
        begin = time.perf_counter()
        self._env.step(self._actions[self._next])
        return self._env.num_envs, time.perf_counter() - begin


class LocoStepper:
    """LocoMuJoCo's environment; resets are not counted, in its favour."""

    def __init__(self, clip: MotionClip, physics: LocoPhysics, index: int) -> None:
        """Make the environment.

        Args:
            clip: The motion, at the environment's rate.
            physics: Model and time steps.
            index: Number of the process; seeds starts and actions.
        """
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        self._draw = np.random.default_rng(index)
        self._env = LocoMimic(clip, physics)
        self._env.reset(seed=index)

    def step(self) -> tuple[int, float]:
        """Step with a random action."""
        action = self._draw.normal(0.0, ACTION, self._env.action_space.shape)
        begin = time.perf_counter()
        _, _, terminated, truncated, _ = self._env.step(action)
        spent = time.perf_counter() - begin
        if terminated or truncated:
            self._env.reset()
        return 1, spent


def _serve(pipe: Connection, whose: str, make: Callable[[int], Stepper], index: int) -> None:
    """Step for as many seconds as asked; answers (steps, seconds), or why nothing could be made."""
    try:
        stepper = make(index)
    except ValueError as error:  # a mistake of the user, or a model that MuJoCo refuses
        pipe.send(f"{whose} cannot be made: {error}")
        return
    stepper.step()
    pipe.send((0, 0.0))
    with contextlib.suppress(*_GONE):  # whoever asked is gone
        while True:
            seconds, steps, spent = pipe.recv(), 0, 0.0
            while spent < seconds:
                more, took = stepper.step()
                steps, spent = steps + more, spent + took
            pipe.send((steps, spent))


def _lost_process(whose: str, processes: list[BaseProcess]) -> UserError:
    """End the other processes and build the error."""
    time.sleep(0.2)  # until the operating system tells how it ended
    codes = [process.exitcode for process in processes if process.exitcode is not None]
    for process in processes:
        process.kill()
        process.join()
    ended = f"exit code {codes[0]}" if codes else "no exit code"
    hint = "perhaps for want of memory: try fewer --threads"
    return UserError(f"one of {len(processes)} processes of {whose} ended early ({ended}), {hint}")
