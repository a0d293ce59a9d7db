"""Who takes turns in ``benchmark env``: our batch on threads, and raw physics on what the batch went through."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

import mujoco
import numpy as np
from jaxtyping import Float
from mujoco import rollout

from motionlex.data.robots import Robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.simulator import substeps, task_model
from motionlex.envs.task_config import TaskConfig

ACTION = 0.1
"""Standard deviation of the random actions that all get."""
_REMEMBERED = 16
"""Steps of our environment that raw physics goes through."""
_WARM_UP = 5
"""So many times as many are made before: about as long as an episode lasts under such actions."""
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
        self._actions = np.random.default_rng(1).normal(0.0, ACTION, (_REMEMBERED, env.num_envs, env.task.actions))
        self.restarts = 0
        """Episodes that ended in all turns."""
        self.seen: list[tuple[Float[np.ndarray, "env state"], Float[np.ndarray, "env actuator"]]] = []
        env.reset()
        for _ in range(_WARM_UP):
            for action in self._actions:
                self._step(action)
        self.restarts = 0

    def turn(self, seconds: float) -> None:
        """Step with random actions."""
        until = self.seconds + seconds
        while self.seconds < until:
            for action in self._actions:
                self.seconds += self._step(action)
                self.steps += self.env.num_envs

    @property
    def restarts_per_step(self) -> float:
        """Mean number of robots that were restarted in a step of the batch."""
        return self.restarts * self.env.num_envs / self.steps

    def experience(self) -> tuple[Float[np.ndarray, "row state"], Float[np.ndarray, "row actuator"]]:
        """Return the last states and the motor commands given there."""
        states, targets = zip(*self.seen)
        return np.concatenate(states), np.concatenate(targets)

    def close(self) -> None:
        """Stop the threads."""
        self.env.close()

    def _step(self, action: Float[np.ndarray, "env action"]) -> float:
        """Take one step and return the time it took [s]; what raw physics needs is copied outside of it."""
        env = self.env
        ctrl = env.task.control(env.episodes, action)
        self.seen = [*self.seen[1 - len(self._actions) :], (env.state.copy(), ctrl)]
        begin = time.perf_counter()
        done = env.step(action)[2]
        spent = time.perf_counter() - begin
        self.restarts += int(done.sum())
        return spent


class RawPhysics:
    """``mujoco.rollout`` with outputs allocated beforehand, in batches of any size."""

    def __init__(self, robot: Robot, config: TaskConfig, threads: int) -> None:
        """Start the threads.

        Args:
            robot: What is simulated.
            config: Motors and time steps.
            threads: Physics threads.
        """
        self._steps, self._threads = substeps(config.hz, config.timestep), threads
        self._model = task_model(robot, config)
        self._data = [mujoco.MjData(self._model) for _ in range(threads)]
        self._pool = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.worlds, self._chunk = 1, _CHUNKS[0]
        self.load(np.zeros((1, 1 + self._model.nq + self._model.nv)), np.zeros((1, self._model.nu)))

    def load(self, states: Float[np.ndarray, "row state"], targets: Float[np.ndarray, "row actuator"]) -> None:
        """Take what is to be simulated."""
        self._states = np.ascontiguousarray(states)
        self._held = np.repeat(targets[:, None], self._steps, axis=1)
        self._allocate()

    def choose(self, worlds: int, seconds: float) -> None:
        """Find the best batch size, ``worlds`` or a usual one, and chunk; each is tried for ``seconds`` [s], twice."""
        rows = len(self._states)
        sizes = sorted({min(worlds, rows), *(size for size in _SIZES if size <= rows)})
        chunks = _CHUNKS if self._threads > 1 else _CHUNKS[:1]
        tries = {(size, chunk): Tally() for size in sizes for chunk in chunks}
        for _ in range(2):
            for (self.worlds, self._chunk), tally in tries.items():
                self._allocate()
                self.run(tally, seconds)
        self.worlds, self._chunk = max(tries, key=lambda pair: tries[pair].rate)
        self._allocate()

    def run(self, tally: Tally, seconds: float) -> None:
        """Simulate for this long [s]."""
        until = tally.seconds + seconds
        while tally.seconds < until:
            steps, spent = self.step()
            tally.steps, tally.seconds = tally.steps + steps, tally.seconds + spent

    def step(self) -> tuple[int, float]:
        """Simulate one batch; returns its size and the time of the library's call [s]."""
        rows = slice(self._place, self._place + self.worlds)
        begin = time.perf_counter()
        self._pool.rollout(
            self._models,
            self._data,
            self._states[rows],
            self._held[rows],
            skip_checks=True,
            nstep=self._steps,
            chunk_size=self._chunk,
            state=self._passed,
            sensordata=self._sensors,
        )
        spent = time.perf_counter() - begin
        self._place = rows.stop if rows.stop + self.worlds <= len(self._states) else 0
        return self.worlds, spent

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()

    def _allocate(self) -> None:
        self._place = 0
        self._models = [self._model] * self.worlds
        self._passed = np.zeros((self.worlds, self._steps, self._states.shape[1]))
        self._sensors = np.zeros((self.worlds, self._steps, self._model.nsensordata))


class RawContestant(Contestant):
    """Raw physics on what our environment went through, on threads."""

    def __init__(self, source: BatchedContestant, threads: int) -> None:
        """Start the threads.

        Args:
            source: Whose states and motor commands are taken.
            threads: Physics threads.
        """
        super().__init__()
        self._source = source
        self._physics = RawPhysics(source.env.task.robot, source.env.task.config, threads)

    @property
    def worlds(self) -> int:
        """Batch size in use."""
        return self._physics.worlds

    def choose(self, seconds: float) -> None:
        """Find the batch size and chunk with the highest rate, trying each for ``seconds`` [s], twice."""
        self._physics.load(*self._source.experience())
        self._physics.choose(self._source.env.num_envs, seconds)

    def turn(self, seconds: float) -> None:
        """Simulate the environment's last states."""
        self._physics.load(*self._source.experience())
        self._physics.run(self, seconds)

    def close(self) -> None:
        """Stop the threads."""
        self._physics.close()


class RawStepper:
    """A share of the raw physics, on the process's one thread, at the batch size that is best there."""

    def __init__(
        self,
        robot: Robot,
        config: TaskConfig,
        states: Float[np.ndarray, "row state"],
        targets: Float[np.ndarray, "row actuator"],
        processes: int,
        seconds: float,
        index: int,
    ) -> None:
        """Take every so many-th state and find the batch size.

        Args:
            robot: What is simulated.
            config: Motors and time steps.
            states: What our environment went through.
            targets: The motor commands there.
            processes: How many processes share them.
            seconds: Length of a try of one batch size [s].
            index: Number of the process.
        """
        self.physics = RawPhysics(robot, config, threads=1)
        own = slice(index % len(states), None, processes)
        self.physics.load(states[own], targets[own])
        self.physics.choose(max(1, len(states) // (_REMEMBERED * processes)), seconds)

    def step(self) -> tuple[int, float]:
        """Simulate one batch."""
        return self.physics.step()
