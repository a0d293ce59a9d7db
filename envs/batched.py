"""Many tracking robots on ``mujoco.rollout`` threads behind stable-baselines3's VecEnv interface."""

from __future__ import annotations

import copy
import logging

import mujoco
import numpy as np
from gymnasium import spaces
from jaxtyping import Float, Int
from mujoco import rollout

from motionlex.data.errors import UserError
from motionlex.envs.checks import bounded_actions, check_batch, check_frames
from motionlex.envs.disturbances import Disturbances
from motionlex.envs.episodes import Episodes, StepResult
from motionlex.envs.shared_vec_env import SharedVecEnv
from motionlex.envs.simulator import initial_time_state, substeps, task_model
from motionlex.envs.start_sampler import StartSampler
from motionlex.envs.task import TrackingTask

logger = logging.getLogger(__name__)
Array = np.ndarray
_CHUNK = 4
"""Worlds that a thread takes at once; small, so that all threads finish together."""


class BatchedTracking(SharedVecEnv):
    """The task of :class:`motionlex.envs.tracking.H1Track`, many times, with the same numbers."""

    def __init__(
        self,
        task: TrackingTask,
        *,
        worlds: int,
        threads: int,
        generator: np.random.Generator,
        model: mujoco.MjModel | None = None,
    ) -> None:
        """Start the threads.

        Args:
            task: What to do.
            worlds: Number of robots.
            threads: Physics threads; they live as long as this object.
            generator: Source of start frames, noise and everything else that is drawn.
            model: Physics in place of the robot's own model, see :mod:`motionlex.envs.transfer`.

        Raises:
            UserError: If there is no robot or no thread.
        """
        check_batch(worlds, threads)
        limit = np.full(task.actions, task.action_limit, dtype=np.float32)
        self.render_mode = None
        super().__init__(
            worlds,
            spaces.Box(-np.inf, np.inf, (task.observation_size,), np.float32),
            spaces.Box(-limit, limit, dtype=np.float32),
        )
        self.task, self.generator = task, generator
        self.sampler = StartSampler(task.library)
        self.episodes = Episodes.empty(worlds, task.actions)
        self.steps = np.zeros(worlds, dtype=np.int64)
        self.returns = np.zeros(worlds)
        self.state: Float[Array, "env state"] = np.zeros(
            (worlds, 1 + task.library.qpos.shape[1] + task.library.qvel.shape[1])
        )
        self.diverged = 0
        """Simulations that blew up so far."""
        model = task_model(task.robot, task.config) if model is None else model
        differ = task.config.randomisation.physical
        self.models = [copy.copy(model) for _ in range(worlds)] if differ else [model] * worlds
        """One model per world; the same one everywhere unless robots differ."""
        self.disturbances = Disturbances(task, self.models)
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        self._pool = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.physics_steps = substeps(task.config.hz, task.config.timestep)
        self._coordinates = model.nq
        self.held: Float[Array, "env physics actuator"] = np.zeros((worlds, self.physics_steps, model.nu))
        """What the motors were told in every physics step of the last control period."""
        self.passed: Float[Array, "env physics state"] = np.zeros((worlds, self.physics_steps, self.state.shape[1]))
        """States after every physics step of the last control period: time, positions, velocities."""
        self._sensors = np.zeros((worlds, self.physics_steps, model.nsensordata))
        self._actions: Float[Array, "env action"] = np.zeros((worlds, task.actions))
        self._no_info: dict[str, object] = {}
        self._next_report = 1

    @property
    def qpos(self) -> Float[Array, "env coordinate"]:
        """Positions of all robots."""
        return self.state[:, 1 : 1 + self._coordinates]

    @property
    def qvel(self) -> Float[Array, "env velocity"]:
        """Velocities of all robots."""
        return self.state[:, 1 + self._coordinates :]

    def reset(self) -> Float[Array, "env feature"]:
        """Start every robot from a sampled, perturbed frame; :meth:`seed` before it makes all draws repeatable."""
        if self._seeds[0] is not None:
            self.generator = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self._restart(np.arange(self.num_envs))
        return self.observe()

    def reset_to(self, frames: Int[Array, " env"]) -> Float[Array, "env feature"]:
        """Start every robot exactly at the given library frames, without noise; robots may differ all the same.

        Raises:
            UserError: If there is not one frame per robot, or a frame is none of the library's.
        """
        if frames.shape != (self.num_envs,):
            raise UserError(f"got {len(frames)} start frames for {self.num_envs} robots")
        check_frames(self.task.library, frames)
        rows = np.arange(self.num_envs)
        self._place(rows, *self.task.start(self.episodes, rows, frames))
        return self.observe()

    def observe(self) -> Float[Array, "env feature"]:
        """Return the present observations; asking twice gives the same numbers."""
        return self._seen(self.state, self.episodes, self.disturbances.errors)

    def step_async(self, actions: Float[Array, "env action"]) -> None:
        """Keep the actions for :meth:`step_wait`.

        Raises:
            UserError: If they have another shape or are not made of numbers.
        """
        task = self.task
        self._actions = bounded_actions(np.asarray(actions), (self.num_envs, task.actions), task.action_limit)

    def simulate(self, ctrl: Float[Array, "env actuator"]) -> Float[Array, "env actuator"]:
        """Take one control period in every world and return what the motors were told last.

        That is ``ctrl`` unless the task delays it; :attr:`held` has what they were told in every physics step.
        """
        applied = self.disturbances.delayed(ctrl, self.held)
        # The checks and allocations of the library's call would cost a tenth of the physics; shapes are ours.
        self._pool.rollout(
            self.models,
            self._data,
            self.state,
            self.held,
            skip_checks=True,
            nstep=self.physics_steps,
            state=self.passed,
            sensordata=self._sensors,
            chunk_size=_CHUNK,
        )
        self.state[:] = self.passed[:, -1]
        return applied

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, object]]]:
        """Advance all robots by one control step; finished episodes restart at once."""
        task, action = self.task, self._actions
        applied = self.simulate(task.control(self.episodes, action))
        result = task.advance(
            self.episodes, self.qpos, self.qvel, action, applied, parameters=self.disturbances.parameters
        )
        self.steps += 1
        self.returns += result.reward
        self.disturbances.strike(self.qvel, self.generator)
        done = result.terminated | result.truncated
        infos = [self._no_info] * self.num_envs
        rows = np.flatnonzero(done)
        observation = self._renew(rows, result, infos) if len(rows) else self.observe()
        return observation, result.reward, done, infos

    def _renew(
        self, rows: Int[Array, " row"], result: StepResult, infos: list[dict[str, object]]
    ) -> Float[Array, "env feature"]:
        """Restart finished episodes, tell about them in ``infos``, and return the observations after it."""
        self._count_diverged(int(result.diverged.sum()))
        ended, state, errors = self.episodes.rows(rows), self.state[rows], self.disturbances.errors[rows]
        lengths, returns = self.steps[rows], self.returns[rows]
        self.sampler.update(ended.start, ended.frame, result.terminated[rows])
        self._restart(rows)
        # Ends and beginnings in one call, since calls on a few rows cost almost as much as calls on hundreds.
        seen = self._seen(
            np.concatenate((self.state, state)),
            self.episodes.and_then(ended),
            np.concatenate((self.disturbances.errors, errors)),
        )
        for index, row in enumerate(rows):
            infos[row] = {
                "terminal_observation": seen[self.num_envs + index],
                "TimeLimit.truncated": bool(result.truncated[row]),
                "episode": {"r": float(returns[index]), "l": int(lengths[index]), "t": 0.0},
            }
        return seen[: self.num_envs]

    def _seen(
        self, state: Float[Array, "row state"], episodes: Episodes, errors: Float[Array, "row measured"]
    ) -> Float[Array, "row feature"]:
        first = 1 + self._coordinates
        exact = self.task.observe(state[:, 1:first], state[:, first:], episodes)
        return self.disturbances.measure(exact, errors).astype(np.float32)

    def _count_diverged(self, count: int) -> None:
        """Count simulations that blew up; tell at the first one and whenever their number has doubled."""
        self.diverged += count
        if self.diverged >= self._next_report:
            self._next_report = 2 * self.diverged
            logger.warning("%d simulation(s) blew up so far; their worlds were restarted", self.diverged)

    def _restart(self, rows: Int[Array, " row"]) -> None:
        task = self.task
        frames = self.sampler.sample(self.generator.random((2, len(rows))))
        variants = self.generator.integers(task.command.variants, size=len(rows))
        qpos, qvel = task.start(self.episodes, rows, frames, variants)
        self._place(rows, *task.perturb(qpos, qvel, self.generator.standard_normal((len(rows), task.start_draws))))

    def _place(
        self, rows: Int[Array, " row"], qpos: Float[Array, "row coordinate"], qvel: Float[Array, "row velocity"]
    ) -> None:
        self.state[rows] = initial_time_state(qpos, qvel)
        self.disturbances.begin(rows, qpos, self.generator)
        self.steps[rows] = 0
        self.returns[rows] = 0.0

    def snapshot(self) -> dict[str, Array]:
        """Return copies of everything that determines the future besides the generator: for exact resume."""
        return {
            "state": self.state.copy(),
            **self.episodes.snapshot(),
            "steps": self.steps.copy(),
            "returns": self.returns.copy(),
            "failure": self.sampler.failure.copy(),
            "diverged": np.array([self.diverged]),
            **self.disturbances.snapshot(),
        }

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take back what :meth:`snapshot` gave.

        Raises:
            ValueError: If it is of an older version, or of other motions.
        """
        if arrays["failure"].shape != self.sampler.failure.shape:
            raise ValueError(f"failure averages {arrays['failure'].shape}, wanted {self.sampler.failure.shape}")
        self.state = arrays["state"].copy()
        self.episodes = Episodes.restored(arrays)
        self.steps, self.returns = arrays["steps"].copy(), arrays["returns"].copy()
        self.sampler.failure = arrays["failure"].copy()
        self.diverged = int(arrays["diverged"][0])
        self.disturbances.restore(arrays)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()
