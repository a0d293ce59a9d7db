"""LocoMuJoCo's own environment behind gymnasium's interface, where loco-mujoco is installed (extra ``[loco]``).

Its own code is everything that runs in a step: class ``UnitreeH1`` with its physics, default observation,
``MimicReward``, termination (``RootPoseTrajTerminalStateHandler``), start (``TrajInitialStateHandler``) and trajectory
handler, made with the arguments that its ``ImitationFactory`` would pass. What is not its own code, since the release
1.0.0 on PyPI is incomplete:

* ``loco_mujoco.smpl.utils`` is missing, and with it no environment can be imported; only motion retargeting uses it.
  An empty stand-in takes its place.
* The factory itself cannot be imported (it wants the missing LAFAN1 loader), so the trajectory goes to the
  environment's ``load_trajectory`` directly, from a file in its format that we write.
* The robot's model is missing, so it is named by the user or is ours.

Three settings are ours: the trajectory is kept in numpy arrays, because jax ones slow single steps; start frames are
drawn by this environment's generator instead of numpy's global one; and MuJoCo's warnings are no exceptions.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Protocol

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

from motionlex.data.clip import MotionClip
from motionlex.data.datasets.loco_mujoco import write_clips
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
from motionlex.envs.simulator import substeps, task_model_xml
from motionlex.envs.task_config import TaskConfig

MODEL_VARIABLE = "MOTIONLEX_H1_REFERENCE"
"""Environment variable that names LocoMuJoCo's model of the H1 (its ``unitree_h1/h1.xml``)."""
_MISSING = "loco_mujoco.smpl.utils"


@dataclass(frozen=True, kw_only=True)
class LocoPhysics:
    """Model and time steps of an environment of LocoMuJoCo's; the default steps are its own."""

    model: str
    """The model as text, or the path of its file."""
    timestep: float = 0.001
    """Physics step [s]."""
    substeps: int = 10
    """Physics steps per control step."""

    @property
    def hz(self) -> float:
        """Control rate [1/s]."""
        return 1.0 / (self.timestep * self.substeps)

    @classmethod
    def own(cls) -> LocoPhysics:
        """Return LocoMuJoCo's defaults: its meshes, 1 ms x 10.

        Raises:
            UserError: If the environment variable names no model.
        """
        path = os.environ.get(MODEL_VARIABLE, "")
        if not Path(path).is_file():
            raise UserError(f"{MODEL_VARIABLE} must name LocoMuJoCo's unitree_h1/h1.xml, got {path or 'nothing'}")
        return cls(model=path)

    @classmethod
    def of_task(cls, robot: Robot, config: TaskConfig) -> LocoPhysics:
        """Return a task's physics: the same bodies, contacts, solver and steps, with torque motors as it wants them."""
        text = task_model_xml(robot, replace(config, control="torque"))
        return cls(model=text, timestep=config.timestep, substeps=substeps(config.hz, config.timestep))

    def spec(self) -> mujoco.MjSpec:
        """Return the model, to be compiled by LocoMuJoCo."""
        if self.model.lstrip().startswith("<"):
            return mujoco.MjSpec.from_string(self.model)
        return mujoco.MjSpec.from_file(self.model)


class _LocoEnv(Protocol):
    """What is used of LocoMuJoCo's environments."""

    th: _Handler
    model: mujoco.MjModel
    data: mujoco.MjData
    mdp_info: _Info

    def reset(self) -> np.ndarray: ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Mapping[str, object]]: ...


class _Handler(Protocol):
    n_trajectories: int
    fixed_start_conf: tuple[int, int]
    random_start: bool
    use_fixed_start: bool

    def len_trajectory(self, traj_ind: int) -> int: ...


class _Info(Protocol):
    observation_space: _Box
    action_space: _Box


class _Box(Protocol):
    shape: tuple[int, ...]


class LocoMimic(gymnasium.Env):
    """One H1 that follows a clip in LocoMuJoCo's environment."""

    metadata: ClassVar[dict[str, object]] = {"render_modes": []}

    def __init__(
        self,
        clip: MotionClip,
        physics: LocoPhysics,
        *,
        goal: str = "NoGoal",
        reward: Mapping[str, float | list[str]] | None = None,
    ) -> None:
        """Make its environment.

        Args:
            clip: What to follow, at ``physics.hz`` (it would interpolate any other rate).
            physics: Model and time steps.
            goal: Its goal class; its default shows no goal, ``GoalTrajMimic`` the reference.
            reward: Parameters of its ``MimicReward``; None takes its defaults.

        Raises:
            UserError: If loco-mujoco is not installed or its environment cannot be imported.
        """
        library = load_library()
        spec = physics.spec()
        motors = [motor.name for motor in spec.actuators]
        self.loco: _LocoEnv = library.UnitreeH1(
            spec=spec,
            timestep=physics.timestep,
            n_substeps=physics.substeps,
            actuation_spec=None if "back_bkz_actuator" in motors else motors,
            reward_type="MimicReward",
            reward_params=dict(reward or {}),
            goal_type=goal,
            init_state_type="TrajInitialStateHandler",
            terminal_state_type="RootPoseTrajTerminalStateHandler",
        )
        mujoco.set_mju_user_warning(None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{clip.name}.npz"
            write_clips(path, [clip])
            trajectory = importlib.import_module("loco_mujoco.trajectory").Trajectory.load(str(path), backend=np)
        self.loco.load_trajectory(traj=trajectory, warn=False)
        self.loco.th.to_numpy()
        self.loco.th.random_start, self.loco.th.use_fixed_start = False, True
        info = self.loco.mdp_info
        self.observation_space = spaces.Box(-np.inf, np.inf, info.observation_space.shape, np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, info.action_space.shape, np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[Float[np.ndarray, " feature"], dict[str, object]]:
        """Start at a frame drawn uniformly, or at ``options["frame"]``."""
        super().reset(seed=seed)
        handler = self.loco.th
        frame = (options or {}).get("frame", self.np_random.integers(handler.len_trajectory(0)))
        handler.fixed_start_conf = (0, int(frame))
        return np.asarray(self.loco.reset()), {}

    def step(
        self, action: Float[np.ndarray, " action"]
    ) -> tuple[Float[np.ndarray, " feature"], float, bool, bool, dict[str, object]]:
        """Hold the action, in [-1, 1] of the motor limits, for one control period."""
        observation, reward, absorbing, done, _ = self.loco.step(action)
        return observation, float(reward), bool(absorbing), bool(done) and not absorbing, {}


def installed() -> bool:
    """Tell whether loco-mujoco is there."""
    return importlib.util.find_spec("loco_mujoco") is not None


def load_library() -> ModuleType:
    """Import the module of LocoMuJoCo's H1, with a stand-in for what its release forgot.

    Raises:
        UserError: If it is not installed or cannot be imported.
    """
    if not installed():
        raise UserError("loco-mujoco is not installed: pip install 'motionlex[loco]' (an environment of its own)")
    said = io.StringIO()  # it prints the errors of its own imports
    try:
        with contextlib.redirect_stdout(said):
            importlib.import_module("loco_mujoco")
            _stand_in()
            return importlib.import_module("loco_mujoco.environments.humanoids.unitreeH1")
    except ImportError as error:
        raise UserError(f"loco-mujoco's H1 cannot be imported: {error}") from error


def _stand_in() -> None:
    """Put empty modules where the release has none, unless a complete installation has them."""
    if _MISSING in sys.modules or importlib.util.find_spec(_MISSING) is not None:
        return
    package, smoothing = ModuleType(_MISSING), ModuleType(f"{_MISSING}.smoothing")
    package.__path__ = []
    smoothing.gaussian_filter_1d_batch = _not_there
    sys.modules[_MISSING], sys.modules[smoothing.__name__] = package, smoothing


def _not_there(*_: object) -> None:
    raise NotImplementedError("loco-mujoco's release lacks loco_mujoco.smpl.utils; retargeting cannot work")
