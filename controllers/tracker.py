"""The low-level policy at run time: planned frames or codes and the robot's own state -> motors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.data.robots import Robot
from motionlex.envs.observations import latent_observation, tracking_observation
from motionlex.envs.simulator import Simulator, task_model_xml
from motionlex.envs.terminations import diverged


class Tracker:
    """One simulated robot under a low-level policy; sees and does exactly what it saw and did in training."""

    def __init__(self, policy: LowLevelPolicy, robot: Robot) -> None:
        """Build the simulation that the policy was trained in.

        Args:
            policy: Trained low-level policy with the task it was trained on.
            robot: The robot.
        """
        self.policy, self.robot, self.task = policy, robot, policy.task
        self.simulator = Simulator(robot, self.task)
        self._torso = robot.joint_names.index("back_bkz") if "back_bkz" in robot.joint_names else 0
        self._last_action = np.zeros(len(robot.joints))

    @property
    def model_xml(self) -> str:
        """The simulated model as text."""
        return task_model_xml(self.robot, self.task)

    @property
    def qpos(self) -> Float[np.ndarray, " coordinate"]:
        """Measured positions."""
        return self.simulator.qpos

    @property
    def qvel(self) -> Float[np.ndarray, " velocity"]:
        """Measured velocities."""
        return self.simulator.qvel

    @property
    def torque(self) -> Float[np.ndarray, " actuator"]:
        """Motor torques of the last physics step [N m]."""
        return self.simulator.torque

    @property
    def finite(self) -> bool:
        """Whether the simulation is still made of finite numbers, none of them absurd."""
        return not bool(diverged(self.simulator.qpos[None], self.simulator.qvel[None])[0])

    def push(self, velocity: Float[np.ndarray, " 2"]) -> None:
        """Change the root's velocity at once [m/s, world x and y].

        Raises:
            UserError: If it is no finite number.
        """
        self.simulator.push(velocity)

    def reset(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Put the robot at rest into a pose."""
        self.simulator.reset(qpos, np.zeros(6 + len(self.robot.joints)))
        self._last_action = np.zeros(len(self.robot.joints))

    def step(
        self,
        plan_qpos: Float[np.ndarray, "frame coordinate"],
        plan_qvel: Float[np.ndarray, "frame velocity"],
        codes: Int[np.ndarray, " token"],
        frame: int,
    ) -> None:
        """Advance by one control step.

        Args:
            plan_qpos: Frames of the running segment, in the world.
            plan_qvel: Their velocities.
            codes: Codes of the running segment.
            frame: Frame of the segment that is planned for now.
        """
        action = self.policy.act(self._observe(plan_qpos, plan_qvel, codes, frame))[0]
        limit = self.task.action_limit if self.task.control == "pd" else 1.0
        action = np.clip(action, -limit, limit)
        self.simulator.step(self._ctrl(action, plan_qpos, frame))
        self._last_action = action

    def _observe(
        self,
        plan_qpos: Float[np.ndarray, "frame coordinate"],
        plan_qvel: Float[np.ndarray, "frame velocity"],
        codes: Int[np.ndarray, " token"],
        frame: int,
    ) -> Float[np.ndarray, "1 feature"]:
        qpos, qvel, last = self.simulator.qpos[None], self.simulator.qvel[None], self._last_action[None]
        if self.task.goal == "latent":
            phase = np.array([frame / REPLAN_FRAMES])
            return latent_observation(qpos, qvel, last, codes[None], phase, self._torso)
        rows = np.minimum(frame + np.array(self.task.ahead), len(plan_qpos) - 1)
        return tracking_observation(qpos, qvel, last, plan_qpos[None, rows], plan_qvel[None, rows])

    def _ctrl(
        self, action: Float[np.ndarray, " action"], plan_qpos: Float[np.ndarray, "frame coordinate"], frame: int
    ) -> Float[np.ndarray, " actuator"]:
        """Turn an action into servo targets [rad] or torques [N m], as the training task does."""
        if self.task.control == "torque":
            return action * self.robot.torque_limit
        if self.task.goal == "latent":
            return self.robot.default_pose + self.task.absolute_scale * action
        ahead = min(frame + self.task.ahead[0], len(plan_qpos) - 1)
        return plan_qpos[ahead, 7:] + self.task.residual_scale * action
