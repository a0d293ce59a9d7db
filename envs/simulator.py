"""One simulated robot, stepped at the control rate, with every physics step open to a recorder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from xml.etree import ElementTree

import mujoco
import numpy as np
from jaxtyping import Float

from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
from motionlex.envs.task_config import TaskConfig

logger = logging.getLogger(__name__)

Recorder = Callable[[mujoco.MjData], None]


def substeps(hz: float, timestep: float) -> int:
    """Return how many physics steps make one control step.

    Args:
        hz: Control rate [1/s].
        timestep: Physics step [s].

    Raises:
        UserError: If the control period is not a whole number of physics steps.
    """
    count = round(1.0 / (hz * timestep))
    if count < 1 or abs(count * hz * timestep - 1.0) > 1e-6:
        raise UserError(f"--hz {hz:g}: the control period must be a whole number of {timestep * 1e3:g} ms steps")
    return count


def task_model_xml(robot: Robot, config: TaskConfig) -> str:
    """Write the model that a task is about as text: its motors, physics step and solver settings."""
    text = robot.model_xml(
        control=config.control,
        timestep=config.timestep,
        iterations=config.iterations,
        ls_iterations=config.ls_iterations,
    )
    tree = ElementTree.fromstring(text)
    option = tree.find("option")
    assert option is not None, "the robot's text says the physics step at least where it is not MuJoCo's own"
    for name in ("integrator", "solver", "cone", "tolerance"):
        option.set(name, str(getattr(config, name)))
    return ElementTree.tostring(tree, encoding="unicode")


def task_model(robot: Robot, config: TaskConfig) -> mujoco.MjModel:
    """Compile the model that a task is about, from its text."""
    log_warnings()
    return mujoco.MjModel.from_xml_string(task_model_xml(robot, config))


def log_warnings() -> None:
    """Send MuJoCo's warnings to our log (level debug) instead of stderr and a file in the user's working folder.

    Simulations that blow up are counted and told about by the environments; one line each would drown a training.
    A handler that somebody else installed stays.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_warning)


def _log_warning(message: str) -> None:
    logger.debug("MuJoCo: %s", message)


def initial_time_state(
    qpos: Float[np.ndarray, "env coordinate"], qvel: Float[np.ndarray, "env velocity"]
) -> Float[np.ndarray, "env state"]:
    """Stack time 0, positions and velocities as MuJoCo's FULLPHYSICS state of a model without activations."""
    return np.concatenate((np.zeros((len(qpos), 1)), qpos, qvel), axis=1)


class Simulator:
    """One robot in MuJoCo.

    The models carry no warm start, so the state (qpos, qvel) and ctrl determine the next state exactly: replaying
    recorded ctrl through plain ``mj_step`` from the recorded start gives the same numbers, and so does
    ``mujoco.rollout`` in :mod:`motionlex.envs.batched`.
    """

    def __init__(self, robot: Robot, config: TaskConfig | None = None) -> None:
        """Compile the model.

        Args:
            robot: What to simulate.
            config: Motors, rates and solver settings; None takes those of the default task (servos at 50 Hz).
        """
        config = config or TaskConfig()
        self.robot = robot
        self.hz = config.hz
        self.model = task_model(robot, config)
        self.data = mujoco.MjData(self.model)
        self.substeps = substeps(config.hz, config.timestep)
        self.recorders: list[Recorder] = []
        """Called with the data after every physics step; ctrl is the one that was applied."""
        self.interventions: list[Recorder] = []
        """Called with the data after the state was changed by anything but physics: a reset or a push."""

    @property
    def qpos(self) -> Float[np.ndarray, " coordinate"]:
        """Copy of the positions: root [m], quaternion, hinges [rad]."""
        return self.data.qpos.copy()

    @property
    def qvel(self) -> Float[np.ndarray, " velocity"]:
        """Copy of the velocities: root world linear [m/s], root body angular [rad/s], hinges [rad/s]."""
        return self.data.qvel.copy()

    @property
    def time(self) -> float:
        """Simulated time since the reset [s]."""
        return float(self.data.time)

    @property
    def finite(self) -> bool:
        """Whether the state is still made of finite numbers."""
        return bool(np.isfinite(self.data.qpos).all() and np.isfinite(self.data.qvel).all())

    def place_bodies(self) -> None:
        """Move bodies and geoms to where the positions put them, for pictures: a step leaves them one behind."""
        mujoco.mj_kinematics(self.model, self.data)

    def reset(self, qpos: Float[np.ndarray, " coordinate"], qvel: Float[np.ndarray, " velocity"]) -> None:
        """Put the robot into a state at time 0 and update what depends on it."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = qpos
        self.data.qvel[:] = qvel
        mujoco.mj_forward(self.model, self.data)
        self._tell()

    def push(self, velocity: Float[np.ndarray, " 2"]) -> None:
        """Change the root's velocity at once [m/s, world x and y].

        Raises:
            UserError: If it is no finite number.
        """
        if not np.isfinite(velocity).all():
            raise UserError(f"a push must be made of finite numbers, got {velocity}")
        self.data.qvel[:2] += velocity
        self._tell()

    def _tell(self) -> None:
        for intervened in self.interventions:
            intervened(self.data)

    @property
    def torque(self) -> Float[np.ndarray, " actuator"]:
        """Copy of the motor torques of the last physics step [N m]."""
        return self.data.actuator_force.copy()

    def step(self, ctrl: Float[np.ndarray, " actuator"]) -> None:
        """Hold ctrl for one control period."""
        if self.recorders:
            self.play(np.tile(ctrl, (self.substeps, 1)))
            return
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=self.substeps)

    def play(self, ctrl: Float[np.ndarray, "physics actuator"]) -> None:
        """Take one physics step with each row of ctrl."""
        for row in ctrl:
            self.data.ctrl[:] = row
            mujoco.mj_step(self.model, self.data)
            for record in self.recorders:
                record(self.data)
