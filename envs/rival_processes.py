"""Who takes turns in ``benchmark env`` in processes: stable-baselines3's SubprocVecEnv and LocoMuJoCo's environment."""

from __future__ import annotations

import multiprocessing
import os
import time
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv

from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
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


class LocoContestant(Contestant):
    """LocoMuJoCo's environment, as many processes as we have threads; resets are not counted, in its favour."""

    def __init__(self, clip: MotionClip, physics: LocoPhysics, processes: int) -> None:
        """Start the processes and wait until all are ready.

        Args:
            clip: The motion, at the environment's rate.
            physics: Model and time steps.
            processes: Number of environments.

        Raises:
            UserError: If one cannot be made.
        """
        super().__init__()
        context = multiprocessing.get_context("spawn")  # jax and forks do not go together
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for index in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_serve_loco, args=(there, clip, physics, index), daemon=True)
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
        for pipe in self._pipes:
            pipe.send(seconds)
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
                raise UserError(f"LocoMuJoCo's environment did not answer within {_PATIENCE_S:g} s")
            answer = pipe.recv()
        except _GONE as error:
            raise _lost_process("LocoMuJoCo's environments", self._processes) from error
        if isinstance(answer, str):
            self.close()
            raise UserError(answer)
        return answer


def _single(clip: MotionClip, robot: Robot, config: TaskConfig) -> H1Track:
    return H1Track(TrackingTask(robot, MotionLibrary([clip], robot, config.hz), config))


def _serve_loco(pipe: Connection, clip: MotionClip, physics: LocoPhysics, seed: int) -> None:
    """Make an environment and step it for as many seconds as asked; answers (steps, seconds), or why it cannot."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    draw = np.random.default_rng(seed)
    try:
        env = LocoMimic(clip, physics)
        env.reset(seed=seed)
    except ValueError as error:  # a mistake of the user, or a model that MuJoCo refuses
        pipe.send(f"LocoMuJoCo's environment cannot be made: {error}")
        return
    env.step(np.zeros(env.action_space.shape))
    pipe.send((0, 0.0))
    while True:
        seconds, steps, spent = pipe.recv(), 0, 0.0
        while spent < seconds:
            action = draw.normal(0.0, ACTION, env.action_space.shape)
            begin = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(action)
            spent += time.perf_counter() - begin
            steps += 1
            if terminated or truncated:
                env.reset()
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
