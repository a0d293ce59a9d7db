"""Who takes turns in ``benchmark env`` on threads: our batch and raw physics on what the batch went through."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import mujoco
import numpy as np
from jaxtyping import Float
from mujoco import rollout

from motionlex.envs.batched import BatchedTracking
from motionlex.envs.simulator import task_model

ACTION = 0.1
"""Standard deviation of the random actions that all get."""
_SIZES = (32, 64, 128, 256, 512, 1024)
"""Batch sizes that raw physics may choose from, besides the environment's."""
_CHUNKS = (None, 4)
"""Worlds a thread takes at once: the library's own choice, and that of our environment."""


class Tally:
    """Steps made and time spent."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.steps = 0.0
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Control steps of single robots per second."""
        return self.steps / self.seconds


class Contestant(Tally, ABC):
    """Something that makes control steps and counts them."""

    @abstractmethod
    def turn(self, seconds: float) -> None:
        """Run for about this long [s]."""

    @abstractmethod
    def close(self) -> None:
        """Free threads and processes."""


class BatchedContestant(Contestant):
    """Our environment; it remembers the last states and motor commands for raw physics."""

    def __init__(self, env: BatchedTracking) -> None:
        """Warm it up."""
        super().__init__()
        self.env = env
        self._actions = np.random.default_rng(1).normal(0.0, ACTION, (16, env.num_envs, env.task.actions))
        self.seen: list[tuple[Float[np.ndarray, "env state"], Float[np.ndarray, "env actuator"]]] = []
        env.reset()
        for action in self._actions:
            self._step(action)

    def turn(self, seconds: float) -> None:
        """Step with random actions."""
        until = self.seconds + seconds
        while self.seconds < until:
            for action in self._actions:
                self.seconds += self._step(action)
                self.steps += self.env.num_envs

    def close(self) -> None:
        """Stop the threads."""
        self.env.close()

    def _step(self, action: Float[np.ndarray, "env action"]) -> float:
        """Take one step and return the time it took [s]; what raw physics needs is copied outside of it."""
        env = self.env
        ctrl = env.task.control(env.episodes, action)
        self.seen = [*self.seen[1 - len(self._actions) :], (env.state.copy(), ctrl)]
        begin = time.perf_counter()
        env.step(action)
        return time.perf_counter() - begin


class RawContestant(Contestant):
    """``mujoco.rollout`` on what our environment went through: same model and steps, outputs allocated beforehand."""

    def __init__(self, source: BatchedContestant, threads: int) -> None:
        """Start the threads.

        Args:
            source: Whose states and motor commands are taken.
            threads: Physics threads.
        """
        super().__init__()
        self._source, self._physics_steps = source, source.env.physics_steps
        self._model = task_model(source.env.task.robot, source.env.task.config)
        self._data = [mujoco.MjData(self._model) for _ in range(threads)]
        self._pool = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.worlds, self._chunk = source.env.num_envs, _CHUNKS[0]

    def choose(self, seconds: float) -> None:
        """Find the batch size and chunk with the highest rate, trying each for ``seconds`` [s], twice."""
        rows = sum(len(state) for state, _ in self._source.seen)
        sizes = sorted({self.worlds, *(size for size in _SIZES if size <= rows)})
        tries = {(size, chunk): Tally() for size in sizes for chunk in _CHUNKS}
        for _ in range(2):
            for (size, chunk), tally in tries.items():
                self._run(tally, seconds, size, chunk)
        self.worlds, self._chunk = max(tries, key=lambda pair: tries[pair].rate)

    def turn(self, seconds: float) -> None:
        """Simulate the environment's last states."""
        self._run(self, seconds, self.worlds, self._chunk)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()

    def _run(self, tally: Tally, seconds: float, worlds: int, chunk: int | None) -> None:
        states, targets = (np.concatenate(rows) for rows in zip(*self._source.seen))
        held = np.ascontiguousarray(np.repeat(targets[:, None], self._physics_steps, axis=1))
        models = [self._model] * worlds
        outputs = {
            "state": np.zeros((worlds, self._physics_steps, states.shape[1])),
            "sensordata": np.zeros((worlds, self._physics_steps, self._model.nsensordata)),
        }
        until, place = tally.seconds + seconds, 0
        while tally.seconds < until:
            rows = slice(place, place + worlds)
            begin = time.perf_counter()
            self._pool.rollout(
                models,
                self._data,
                states[rows],
                held[rows],
                skip_checks=True,
                nstep=self._physics_steps,
                chunk_size=chunk,
                **outputs,
            )
            tally.seconds += time.perf_counter() - begin
            tally.steps += worlds
            place = place + worlds if place + 2 * worlds <= len(states) else 0
