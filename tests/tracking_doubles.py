"""Hand-made motions, and robots that replay them instead of obeying physics."""

import numpy as np

from motionlex.controllers import evaluation_tracking
from motionlex.controllers.evaluation_tracking import evaluate_tracking
from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.robots import get_robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.simulator import initial_time_state
from motionlex.envs.task_config import TaskConfig

ROBOT = get_robot("h1")
HZ = 50.0
STEP_MM = 1000.0 / HZ
"""Way per control step at 1 m/s [mm]."""
MICROMETRE = 1e-3
"""Key points of the library are kept in single precision: metres with seven digits [mm]."""
SHORT = 0.2
"""Rollouts of ten control steps: kinematics repeat themselves [s]."""


class Still:
    """Acts by doing nothing."""

    def act(self, observation):
        return np.zeros((len(observation), 19))


class Constant:
    """Always the same action."""

    def __init__(self, action):
        self.action = np.asarray(action, dtype=float)

    def act(self, observation):
        return np.tile(self.action, (len(observation), 1))


def standing(frames=101):
    qpos = np.zeros((frames, 26))
    qpos[:, 2], qpos[:, 3], qpos[:, 7:] = ROBOT.standing_height, 1.0, ROBOT.default_pose
    return qpos


def moving(*, velocity=(0.0, 0.0), turn=0.0, hinge=0.0, frames=101, name="walk1"):
    """Constant root velocity [m/s], heading rate [rad/s] and hinge rate [rad/s], the pose in the middle the default."""
    qpos = standing(frames)
    time = np.arange(frames) / HZ
    qpos[:, :2] = time[:, None] * np.asarray(velocity)
    qpos[:, 3:7] = quaternion.from_yaw(turn * time)
    qpos[:, 7:] += hinge * (time[:, None] - time.mean())
    return MotionClip(name=name, qpos=qpos, hz=HZ)


def library_of(*clips):
    return MotionLibrary(clips, ROBOT, HZ)


def replaying(monkeypatch):
    """Put kinematics in place of physics: the robot is where ``change`` says, ``lag`` frames late."""

    def install(change=lambda qpos, qvel: (qpos, qvel), lag=0):
        class Replay(BatchedTracking):
            def simulate(self, ctrl):
                library, episodes = self.task.library, self.episodes
                row = np.clip(episodes.frame + 1 - lag, 0, library.last_frame[episodes.frame])
                self.state[:] = initial_time_state(*change(library.qpos[row].copy(), library.qvel[row].copy()))
                self.passed[:] = self.state[:, None]
                self.held[:] = ctrl[:, None]
                return ctrl

        monkeypatch.setattr(evaluation_tracking, "BatchedTracking", Replay)

    return install


def measured(library, *, policy=None, command=None, **options):
    task = {key: options.pop(key) for key in ("goal", "control", "limits") if key in options}
    options = {"per_run": 1, "seconds": SHORT, **options}
    return evaluate_tracking(policy or Still(), library, command, robot=ROBOT, config=TaskConfig(**task), **options)


ERRORS = (
    *("keypoint_error_local_mm", "keypoint_error_global_mm", "joint_error_rad"),
    *("joint_velocity_error_rad_s", "root_drift_m", "heading_drift_rad"),
)
