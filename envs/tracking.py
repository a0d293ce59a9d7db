"""``motionlex/H1Track-v0``: one robot that follows a motion, as a gymnasium environment."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

from motionlex.data.datasets import load_dataset
from motionlex.data.robots import get_robot
from motionlex.envs.checks import bounded_actions, check_frames
from motionlex.envs.disturbances import Disturbances
from motionlex.envs.episodes import Episodes
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.simulator import Simulator
from motionlex.envs.start_sampler import StartSampler
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig

Info = dict[str, float | int | bool]


class H1Track(gymnasium.Env):
    """Follow a reference motion; observation, reward and end are :class:`motionlex.envs.task.TrackingTask`'s.

    ``reset(options={"frame": t})`` starts exactly at library frame t, without noise.
    """

    metadata: dict[str, object] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (as gymnasium has it)
    """What gymnasium wants to know; every instance has ``render_fps`` of its own task's rate [1/s]."""

    def __init__(self, task: TrackingTask | None = None, render_mode: str | None = None) -> None:
        """Make the environment.

        Args:
            task: What to do; None follows the built-in motions at 50 Hz.
            render_mode: None or ``"rgb_array"``.
        """
        if task is None:
            robot, config = get_robot("h1"), TaskConfig()
            clips = load_dataset("builtin", None, hz=config.hz).train
            task = TrackingTask(robot, MotionLibrary(clips, robot, config.hz), config)
        self.task, self.render_mode = task, render_mode
        self.metadata = {**type(self).metadata, "render_fps": task.config.hz}
        self.simulator = Simulator(task.robot, task.config)
        self.sampler = StartSampler(task.library)
        self.episodes = Episodes.empty(1, task.actions)
        self.disturbances = Disturbances(task, [self.simulator.model])
        self._held = np.zeros((1, self.simulator.substeps, task.actions))
        limit = np.full(task.actions, task.action_limit, dtype=np.float32)
        self.action_space = spaces.Box(-limit, limit, dtype=np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (task.observation_size,), np.float32)
        self._renderer: object | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[Float[np.ndarray, " feature"], Info]:
        """Start an episode at a sampled, perturbed frame, or exactly at ``options["frame"]``.

        Raises:
            UserError: If that frame is not one of the library.
        """
        super().reset(seed=seed)
        row, task, generator = np.zeros(1, dtype=np.int64), self.task, self.np_random
        if options and "frame" in options:
            frames = np.array([options["frame"]], dtype=np.int64)
            check_frames(task.library, frames)
            qpos, qvel = task.start(self.episodes, row, frames)
        else:
            frames = self.sampler.sample(generator.random((2, 1)))
            state = task.start(self.episodes, row, frames, generator.integers(task.command.variants, size=1))
            qpos, qvel = task.perturb(*state, generator.standard_normal((1, task.start_draws)))
        self.disturbances.begin(row, qpos, generator)
        self.simulator.reset(qpos[0], qvel[0])
        return self._observe(), {"frame": int(frames[0])}

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[Float[np.ndarray, " feature"], float, bool, bool, Info]:
        """Hold the action for one control period (or until the motors follow, where the task delays them).

        Raises:
            UserError: If the action has another shape or is not made of numbers.
        """
        task, simulator = self.task, self.simulator
        bounded = bounded_actions(np.asarray(action)[None], (1, task.actions), task.action_limit)
        ctrl = self.disturbances.delayed(task.control(self.episodes, bounded), self._held)
        if self.disturbances.ranges.delayed:
            simulator.play(self._held[0])
        else:
            simulator.step(ctrl[0])
        # Views: the reference takes the place of a state that blew up, kicks act on the simulation itself.
        qpos, qvel = simulator.data.qpos[None], simulator.data.qvel[None]
        result = task.advance(self.episodes, qpos, qvel, bounded, ctrl, self.disturbances.parameters)
        self.disturbances.strike(qvel, self.np_random)
        if result.terminated[0] or result.truncated[0]:
            self.sampler.update(self.episodes.start, self.episodes.frame, result.terminated)
        info: Info = {"frame": int(self.episodes.frame[0]), "diverged": bool(result.diverged[0])}
        return (
            self._observe(),
            float(result.reward[0]),
            bool(result.terminated[0]),
            bool(result.truncated[0]),
            info,
        )

    def render(self) -> np.ndarray | None:
        """Return the present picture (height, width, 3) under ``"rgb_array"``."""
        if self.render_mode != "rgb_array":
            return None
        from motionlex.envs.viewer import make_painter

        if self._renderer is None:
            self._renderer = make_painter(self.simulator.model)
        self.simulator.place_bodies()
        return self._renderer.paint(self.simulator.data)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observe(self) -> Float[np.ndarray, " feature"]:
        observation = self.task.observe(self.simulator.qpos[None], self.simulator.qvel[None], self.episodes)
        return self.disturbances.measure(observation, self.disturbances.errors)[0].astype(np.float32)
