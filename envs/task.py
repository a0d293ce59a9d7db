"""The tracking task as pure bookkeeping on arrays: one robot, many robots on threads and many on a GPU share it.

The arrays are those of the motion library: numpy's, or torch's on any device (``MotionLibrary.to``).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from motionlex.data.arrays import Array, columns, like, namespace, single
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
from motionlex.envs.alignment import at_place, follow, move_under, planar_pose, shift, tracking_errors
from motionlex.envs.beyond_mimic import beyond_mimic_reward
from motionlex.envs.episodes import Episodes, StepResult
from motionlex.envs.mimic_reward import loco_mujoco_reward
from motionlex.envs.motors import Motors
from motionlex.envs.observations import latent_observation, tracking_observation
from motionlex.envs.randomisation import Parameters
from motionlex.envs.reference import CommandSource, MotionLibrary, reference_command
from motionlex.envs.rewards import BodyState, Transition, deepmimic_reward
from motionlex.envs.start_noise import perturbed, start_draws
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.terminations import diverged, lost, overwrite


class TrackingTask:
    """Control signal, observation, reward and end of episodes."""

    def __init__(
        self,
        robot: Robot,
        library: MotionLibrary,
        config: TaskConfig,
        command: CommandSource | None = None,
    ) -> None:
        """Bind a robot, its motions and what the policy is shown of them.

        Args:
            robot: The robot.
            library: Motions to follow, at ``config.hz``; its arrays decide the kind and device of all others.
            config: The task.
            command: What the policy sees; None shows the library (goal reference only).

        Raises:
            UserError: If the goal needs a command that is not given, or rates differ.
        """
        if abs(library.hz - config.hz) > 1e-9:
            raise UserError(f"the motions have {library.hz:g} Hz and control {config.hz:g} Hz; they must be equal")
        if command is None:
            if config.goal != "reference":
                raise UserError(f"goal {config.goal!r} needs codes: give --vae RUN")
            command = reference_command(library, config.ahead)
        if config.goal == "latent" and command.codes is None:
            raise UserError("goal 'latent' needs a command with codes: give --vae RUN")
        self.robot, self.library, self.config, self.command = robot, library, config, command
        self.kinematics = library.kinematics
        self.actions = len(robot.joints)
        self.torso_joint = robot.joint_names.index("back_bkz") if "back_bkz" in robot.joint_names else 0
        self.end_effectors = tuple(i for i, name in enumerate(robot.sites) if "foot" in name or "hand" in name)
        self.episode_steps = round(config.episode_s * config.hz)
        self._following = 1.0 - math.exp(-1.0 / (config.hold_s * config.hz)) if config.hold_s > 0.0 else 1.0
        self._last = library.last_frame
        self.motors = Motors.of(robot, config.control, library.qpos)
        self._default_pose, self._lower, self._upper = (
            like(library.qpos, constant) for constant in (robot.default_pose, robot.lower, robot.upper)
        )
        self._motion_needed = config.reward != "deepmimic"
        if self._motion_needed:
            library.add_motion()
        first = library.qpos[:1], library.qvel[:1], Episodes.first(library, self.actions)
        self.policy_size = self.observe(*first, privileged=False).shape[1]
        self.observation_size = self.observe(*first).shape[1]

    @property
    def action_limit(self) -> float:
        """Bound of every action."""
        return self.config.action_limit if self.config.control == "pd" else 1.0

    @property
    def root_relative(self) -> bool:
        """Whether the reference is moved under the robot: codes say nothing about the place in the world."""
        return self.config.goal == "latent"

    def start(
        self,
        episodes: Episodes,
        rows: Int[Array, " row"],
        frames: Int[Array, " row"],
        variants: Int[Array, " row"] | int = 0,
    ) -> tuple[Float[Array, "row coordinate"], Float[Array, "row velocity"]]:
        """Begin episodes at library frames and return the exact reference states."""
        episodes.frame[rows] = frames
        episodes.start[rows] = frames
        episodes.variant[rows] = variants
        episodes.last_action[rows] = 0.0
        qpos = self.library.qpos[frames]
        if self.root_relative:
            episodes.place[rows] = planar_pose(qpos)
        return qpos, self.library.qvel[frames]

    @property
    def start_draws(self) -> int:
        """Standard normal numbers that :meth:`perturb` wants per robot."""
        return start_draws(self.actions)

    def perturb(
        self,
        qpos: Float[Array, "row coordinate"],
        qvel: Float[Array, "row velocity"],
        draw: Float[Array, "row draw"],
    ) -> tuple[Float[Array, "row coordinate"], Float[Array, "row velocity"]]:
        """Add start noise to reference states, see :func:`motionlex.envs.start_noise.perturbed`."""
        return perturbed(qpos, qvel, draw, self.config.noise, self._lower, self._upper)

    def control(self, episodes: Episodes, action: Float[Array, "env action"]) -> Float[Array, "env actuator"]:
        """Turn bounded actions into ctrl: servo targets [rad] or torques [N m].

        With goal latent the servos move around ONE fixed pose, so that the motion can come only from the codes.
        """
        config = self.config
        if config.control == "torque":
            return action * self.motors.limit
        if config.goal == "latent":
            return self._default_pose + config.absolute_scale * action
        assert self.command.qpos is not None
        nearest = self.command.rows_at(episodes.frame, episodes.variant)[:, 0]
        return self.command.qpos[nearest, 7:] + config.residual_scale * action

    def advance(
        self,
        episodes: Episodes,
        qpos: Float[Array, "env coordinate"],
        qvel: Float[Array, "env velocity"],
        action: Float[Array, "env action"],
        ctrl: Float[Array, "env actuator"],
        parameters: Parameters | None = None,
    ) -> StepResult:
        """Score the states that a control step reached and move the bookkeeping one frame on.

        Args:
            episodes: Bookkeeping, changed in place.
            qpos: Positions reached; where the simulation blew up the reference takes their place.
            qvel: Velocities reached, likewise.
            action: The bounded action of the step.
            ctrl: What the motors were told last.
            parameters: What was drawn for each robot, if anything was.
        """
        xp, library = namespace(qpos), self.library
        bad = diverged(qpos, qvel)
        if not isinstance(bad, np.ndarray) or bad.any():  # on a GPU the question would cost more than the answer
            overwrite(qpos, qvel, library.at(episodes.frame), bad)
        if self.root_relative:
            motion, frame = library.qpos, episodes.frame
            episodes.place[:] = follow(episodes.place, motion[frame], motion[frame + 1], qpos, self._following)
        episodes.frame += 1
        qpos, qvel = columns(qpos), columns(qvel)
        reference = library.at(episodes.frame)
        step = Transition(
            state=self.state(qpos, qvel),
            reference=at_place(reference, episodes.place) if self.root_relative else reference,
            action=action,
            last_action=episodes.last_action,
            torque=self.motors.torque_share(ctrl, qpos, qvel, parameters),
            lower=self._lower,
            upper=self._upper,
            end_effectors=self.end_effectors,
        )
        reward = self.reward(step)
        near = move_under(reference, qpos) if self.root_relative else reference
        terminated = lost(*tracking_errors(step.state, near), self.config.limits) | bad
        last = library.run_last[library.run_of[episodes.frame]]
        over = (episodes.frame - episodes.start >= self.episode_steps) | (episodes.frame >= last)
        episodes.last_action = xp.asarray(action, copy=True)
        return StepResult(
            reward=xp.where(bad, 0.0, reward), terminated=terminated, truncated=over & ~terminated, diverged=bad
        )

    def state(self, qpos: Float[Array, "env coordinate"], qvel: Float[Array, "env velocity"]) -> BodyState:
        """Return key points with as much of their motion as the reward needs."""
        if not self._motion_needed:
            # Single precision: a micrometre, half the time, and the same bits as the library's.
            return BodyState(qpos=qpos, qvel=qvel, sites=self.kinematics(single(qpos)))
        motion = self.kinematics.states(qpos, qvel)
        return BodyState(qpos=qpos, qvel=qvel, sites=motion.position, motion=motion)

    def reference(self, frame: Int[Array, " env"], qpos: Float[Array, "env coordinate"]) -> BodyState:
        """Return the reference at some frames; for goal latent moved under the robot (x, y and heading)."""
        reference = self.library.at(frame)
        return move_under(reference, qpos) if self.root_relative else reference

    def reward(self, step: Transition) -> Float[Array, " env"]:
        """Return the configured reward."""
        config, robot = self.config, self.robot
        if config.reward == "deepmimic":
            return deepmimic_reward(step, config.weights)
        anchor, head = robot.sites.index(robot.anchor_site), robot.sites.index(robot.head_site)
        sites = tuple(i for i in range(len(robot.sites)) if i != anchor)
        if config.reward == "loco_mujoco":
            return config.weights.scale * loco_mujoco_reward(step, anchor=anchor, sites=sites)
        bodies = tuple(i for i in sites if i != head)
        return config.weights.scale * beyond_mimic_reward(step, anchor=anchor, sites=bodies)

    def observe(
        self,
        qpos: Float[Array, "env coordinate"],
        qvel: Float[Array, "env velocity"],
        episodes: Episodes,
        *,
        privileged: bool = True,
    ) -> Float[Array, "env feature"]:
        """Return observations; with ``privileged`` and goal latent, the reference follows for the critic."""
        action = episodes.last_action
        qpos, qvel = columns(qpos), columns(qvel)
        if self.config.goal != "latent":
            command = self.command
            assert command.qpos is not None and command.qvel is not None
            rows = command.rows_at(episodes.frame, episodes.variant)
            return tracking_observation(qpos, qvel, action, command.qpos[rows], command.qvel[rows])
        codes, phase = self.command.codes_at(episodes.frame, episodes.variant)
        seen = latent_observation(qpos, qvel, action, codes, phase, self.torso_joint)
        if not (privileged and self.config.privileged_critic):
            return seen
        return namespace(qpos).concat((seen, self._privileged(qpos, qvel, episodes)), axis=1)

    def _privileged(
        self, qpos: Float[Array, "env coordinate"], qvel: Float[Array, "env velocity"], episodes: Episodes
    ) -> Float[Array, "env feature"]:
        """Observation of the reference at its place: one shift for all frames ahead, taken at the present."""
        xp, library, frame = namespace(qpos), self.library, episodes.frame
        now, last = planar_pose(library.qpos[frame]), self._last[frame]
        goals = [shift(library.at(xp.minimum(frame + ahead, last)), now, episodes.place) for ahead in self.config.ahead]
        goal_qpos, goal_qvel = xp.stack([g.qpos for g in goals], axis=1), xp.stack([g.qvel for g in goals], axis=1)
        return tracking_observation(qpos, qvel, episodes.last_action, goal_qpos, goal_qvel)
