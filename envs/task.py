"""The tracking task as pure bookkeeping on arrays: shared by one robot, many robots and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
from motionlex.envs.kinematics import SiteKinematics
from motionlex.envs.observations import latent_observation, tracking_observation
from motionlex.envs.reference import CommandSource, MotionLibrary, reference_command
from motionlex.envs.rewards import (
    BodyState,
    DeepMimicWeights,
    deepmimic_reward,
    loco_mujoco_reward,
)
from motionlex.envs.terminations import TerminationLimits, diverged, lost

Goal = Literal["latent", "decoded", "reference"]
Reward = Literal["deepmimic", "loco_mujoco"]


@dataclass(frozen=True, kw_only=True)
class StartNoise:
    """Standard deviations added to the reference state at the start of an episode."""

    joint: float = 0.05
    """Hinge angles [rad]."""
    joint_velocity: float = 0.2
    """Hinge velocities [rad/s]."""
    position: float = 0.02
    """Horizontal root position [m]."""
    orientation: float = 0.05
    """Root orientation, rotation vector [rad]."""
    velocity: float = 0.1
    """Root linear [m/s] and angular [rad/s] velocity."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Everything that defines the task besides the motions."""

    hz: float = 50.0
    """Control rate [1/s]."""
    timestep: float = 0.005
    """Physics step [s]."""
    goal: Goal = "reference"
    """What the policy is told: data-set frames, decoded frames, or codes."""
    control: Literal["pd", "torque"] = "pd"
    """Motors: position servos or torques."""
    reward: Reward = "deepmimic"
    """Which reward."""
    ahead: tuple[int, ...] = (1, 8)
    """Command frames shown, in control steps from now."""
    action_limit: float = 4.0
    """Bound of every action under pd (1 under torque)."""
    residual_scale: float = 0.3
    """PD target = command + this [rad] times the action (goals reference and decoded)."""
    absolute_scale: float = 0.5
    """PD target = default pose + this [rad] times the action (goal latent)."""
    episode_s: float = 10.0
    """Longest episode [s]."""
    limits: TerminationLimits = field(default_factory=TerminationLimits)
    """Early termination."""
    noise: StartNoise = field(default_factory=StartNoise)
    """Perturbation of start states."""
    weights: DeepMimicWeights = field(default_factory=DeepMimicWeights)
    """Weights of the deepmimic reward."""
    push_speed: float = 0.0
    """Largest horizontal velocity kick [m/s]; 0 switches kicks off."""
    push_interval_s: float = 3.0
    """Mean time between kicks [s]."""
    privileged_critic: bool = True
    """With goal latent, append the reference observation for the critic alone."""

    def __post_init__(self) -> None:
        for name in ("hz", "timestep", "action_limit", "episode_s", "push_interval_s"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(kw_only=True)
class Episodes:
    """Bookkeeping of the running episodes, one row per robot."""

    frame: Int[np.ndarray, " env"]
    """Library frame of the present."""
    start: Int[np.ndarray, " env"]
    """Library frame of the start."""
    last_action: Float[np.ndarray, "env action"]
    """Action of the step before, zero at the start."""

    @classmethod
    def empty(cls, count: int, actions: int) -> Episodes:
        """Make bookkeeping for ``count`` robots."""
        frames = np.zeros(count, dtype=np.int64)
        return cls(frame=frames, start=frames.copy(), last_action=np.zeros((count, actions)))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one control step gave."""

    reward: Float[np.ndarray, " env"]
    """Reward."""
    terminated: Bool[np.ndarray, " env"]
    """The reference was lost or the simulation diverged."""
    truncated: Bool[np.ndarray, " env"]
    """The episode's time or its motion is over; the value of the next state counts."""
    diverged: Bool[np.ndarray, " env"]
    """The simulation blew up."""


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
            library: Motions to follow, at ``config.hz``.
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
        self.kinematics = SiteKinematics(robot)
        self.actions = len(robot.joints)
        self.torso_joint = robot.joint_names.index("back_bkz") if "back_bkz" in robot.joint_names else 0
        self.episode_steps = round(config.episode_s * config.hz)
        self._last = library.last_frame
        probe = self.observe(library.qpos[:1], library.qvel[:1], Episodes.empty(1, self.actions), privileged=False)
        self.policy_size = probe.shape[1]
        self.observation_size = self.observe(library.qpos[:1], library.qvel[:1], Episodes.empty(1, self.actions)).shape[
            1
        ]

    @property
    def action_limit(self) -> float:
        """Bound of every action."""
        return self.config.action_limit if self.config.control == "pd" else 1.0

    @property
    def root_relative(self) -> bool:
        """Whether the reference is moved under the robot: codes say nothing about the place in the world."""
        return self.config.goal == "latent"

    def start(
        self, episodes: Episodes, rows: Int[np.ndarray, " row"], frames: Int[np.ndarray, " row"]
    ) -> tuple[Float[np.ndarray, "row coordinate"], Float[np.ndarray, "row velocity"]]:
        """Begin episodes at library frames and return the exact reference states."""
        episodes.frame[rows] = frames
        episodes.start[rows] = frames
        episodes.last_action[rows] = 0.0
        return self.library.qpos[frames].copy(), self.library.qvel[frames].copy()

    def perturb(
        self,
        qpos: Float[np.ndarray, "row coordinate"],
        qvel: Float[np.ndarray, "row velocity"],
        generator: np.random.Generator,
    ) -> tuple[Float[np.ndarray, "row coordinate"], Float[np.ndarray, "row velocity"]]:
        """Add start noise; hinges stay inside their limits (or where the reference already was outside)."""
        noise, rows, hinges = self.config.noise, len(qpos), self.actions
        draw = generator.standard_normal((rows, 2 * hinges + 11))
        qpos, qvel = qpos.copy(), qvel.copy()
        clean = qpos[:, 7:]
        moved = clean + noise.joint * draw[:, :hinges]
        qpos[:, 7:] = np.clip(moved, np.minimum(self.robot.lower, clean), np.maximum(self.robot.upper, clean))
        qvel[:, 6:] += noise.joint_velocity * draw[:, hinges : 2 * hinges]
        qpos[:, :2] += noise.position * draw[:, 2 * hinges : 2 * hinges + 2]
        turn = quaternion.from_rotvec(noise.orientation * draw[:, 2 * hinges + 2 : 2 * hinges + 5])
        qpos[:, 3:7] = quaternion.multiply(qpos[:, 3:7], turn)
        qvel[:, :6] += noise.velocity * draw[:, 2 * hinges + 5 :]
        return qpos, qvel

    def control(self, episodes: Episodes, action: Float[np.ndarray, "env action"]) -> Float[np.ndarray, "env actuator"]:
        """Turn bounded actions into ctrl: servo targets [rad] or torques [N m].

        With goal latent the servos move around ONE fixed pose, so that the motion can come only from the codes.
        """
        config = self.config
        if config.control == "torque":
            return action * self.robot.torque_limit
        if config.goal == "latent":
            return self.robot.default_pose + config.absolute_scale * action
        return self._command_hinges(episodes.frame) + config.residual_scale * action

    def advance(
        self,
        episodes: Episodes,
        qpos: Float[np.ndarray, "env coordinate"],
        qvel: Float[np.ndarray, "env velocity"],
        action: Float[np.ndarray, "env action"],
    ) -> StepResult:
        """Score the states that a control step reached and move the bookkeeping one frame on."""
        bad = diverged(qpos, qvel)
        if bad.any():
            qpos, qvel = self._repaired(episodes, qpos, qvel, bad)
        state = BodyState(qpos=qpos, qvel=qvel, sites=self.kinematics(qpos))
        episodes.frame += 1
        reference = self.reference(episodes.frame, qpos)
        reward = self.reward(state, reference, action, episodes.last_action)
        height, angle, distance = tracking_errors(state, reference)
        terminated = lost(height, angle, distance, self.config.limits) | bad
        over = (episodes.frame - episodes.start >= self.episode_steps) | (episodes.frame >= self._last[episodes.frame])
        episodes.last_action = action.copy()
        return StepResult(
            reward=np.where(bad, 0.0, reward), terminated=terminated, truncated=over & ~terminated, diverged=bad
        )

    def reference(self, frame: Int[np.ndarray, " env"], qpos: Float[np.ndarray, "env coordinate"]) -> BodyState:
        """Return the reference at some frames; for goal latent moved under the robot (x, y and heading)."""
        reference = self.library.at(frame)
        return move_under(reference, qpos) if self.root_relative else reference

    def reward(
        self,
        state: BodyState,
        reference: BodyState,
        action: Float[np.ndarray, "env action"],
        last_action: Float[np.ndarray, "env action"],
    ) -> Float[np.ndarray, " env"]:
        """Return the configured reward."""
        if self.config.reward == "deepmimic":
            return deepmimic_reward(state, reference, action, last_action, self.config.weights)
        anchor = self.robot.sites.index(self.robot.anchor_site)
        others = tuple(
            i for i, name in enumerate(self.robot.sites) if name not in (self.robot.anchor_site, self.robot.head_site)
        )
        return self.config.weights.scale * loco_mujoco_reward(state, reference, anchor=anchor, sites=others)

    def observe(
        self,
        qpos: Float[np.ndarray, "env coordinate"],
        qvel: Float[np.ndarray, "env velocity"],
        episodes: Episodes,
        *,
        privileged: bool = True,
    ) -> Float[np.ndarray, "env feature"]:
        """Return observations; with ``privileged`` and goal latent, the reference follows for the critic."""
        frame, action = episodes.frame, episodes.last_action
        bad = diverged(qpos, qvel)
        if bad.any():
            qpos, qvel = self._repaired(episodes, qpos, qvel, bad)
        if self.config.goal != "latent":
            command = self.command
            assert command.qpos is not None and command.qvel is not None and command.rows is not None
            rows = command.rows[frame]
            return tracking_observation(qpos, qvel, action, command.qpos[rows], command.qvel[rows])
        codes, phase = self.codes_at(frame)
        seen = latent_observation(qpos, qvel, action, codes, phase, self.torso_joint)
        if not (privileged and self.config.privileged_critic):
            return seen
        return np.concatenate((seen, self._privileged(qpos, qvel, frame, action)), axis=1)

    def codes_at(
        self, frame: Int[np.ndarray, " env"]
    ) -> tuple[Int[np.ndarray, "env token"], Float[np.ndarray, " env"]]:
        """Return codes and phase shown at some frames."""
        command = self.command
        assert command.codes is not None and command.segment is not None and command.phase is not None
        return command.codes[command.segment[frame]], command.phase[frame]

    def _privileged(
        self,
        qpos: Float[np.ndarray, "env coordinate"],
        qvel: Float[np.ndarray, "env velocity"],
        frame: Int[np.ndarray, " env"],
        action: Float[np.ndarray, "env action"],
    ) -> Float[np.ndarray, "env feature"]:
        """Observation of the reference moved under the robot: one shift for all frames ahead, taken at the present."""
        now = self.library.at(frame)
        goals = []
        for ahead in self.config.ahead:
            later = self.library.at(np.minimum(frame + ahead, self._last[frame]))
            goals.append(_shift(later, now.qpos, qpos))
        return tracking_observation(
            qpos,
            qvel,
            action,
            np.stack([g.qpos for g in goals], axis=1),
            np.stack([g.qvel for g in goals], axis=1),
        )

    def _command_hinges(self, frame: Int[np.ndarray, " env"]) -> Float[np.ndarray, "env joint"]:
        command = self.command
        assert command.qpos is not None and command.rows is not None
        return command.qpos[command.rows[frame, 0], 7:]

    def _repaired(
        self,
        episodes: Episodes,
        qpos: Float[np.ndarray, "env coordinate"],
        qvel: Float[np.ndarray, "env velocity"],
        bad: Bool[np.ndarray, " env"],
    ) -> tuple[Float[np.ndarray, "env coordinate"], Float[np.ndarray, "env velocity"]]:
        """Put the reference in place of states that are no numbers; those episodes end anyway."""
        reference = self.library.at(episodes.frame)
        return np.where(bad[:, None], reference.qpos, qpos), np.where(bad[:, None], reference.qvel, qvel)


def tracking_errors(
    state: BodyState, reference: BodyState
) -> tuple[Float[np.ndarray, " env"], Float[np.ndarray, " env"], Float[np.ndarray, " env"]]:
    """Return root height error [m], root angle [rad] and mean key-point distance [m]."""
    height = np.abs(state.qpos[:, 2] - reference.qpos[:, 2])
    angle = quaternion.angle_between(reference.qpos[:, 3:7], state.qpos[:, 3:7])
    distance = np.sqrt(((state.sites - reference.sites) ** 2).sum(axis=2)).mean(axis=1)
    return height, angle, distance


def move_under(reference: BodyState, qpos: Float[np.ndarray, "env coordinate"]) -> BodyState:
    """Move the reference to the robot's x, y and heading; height, tilt and motion stay."""
    return _shift(reference, reference.qpos, qpos)


def _shift(
    reference: BodyState, anchor: Float[np.ndarray, "env coordinate"], target: Float[np.ndarray, "env coordinate"]
) -> BodyState:
    """Apply to ``reference`` the planar motion that takes the anchor's place and heading to the target's."""
    turn = quaternion.from_yaw(quaternion.yaw(target[:, 3:7]) - quaternion.yaw(anchor[:, 3:7]))
    matrix = quaternion.to_matrix(turn)
    offset = np.zeros((len(target), 3))
    offset[:, :2] = target[:, :2]
    origin = np.zeros((len(target), 3))
    origin[:, :2] = anchor[:, :2]
    qpos, qvel = reference.qpos.copy(), reference.qvel.copy()
    qpos[:, :3] = (matrix * (qpos[:, :3] - origin)[:, None, :]).sum(-1) + offset
    qpos[:, 3:7] = quaternion.multiply(turn, qpos[:, 3:7])
    qvel[:, :3] = (matrix * qvel[:, None, :3]).sum(-1)
    sites = (matrix[:, None] * (reference.sites - origin[:, None])[:, :, None, :]).sum(-1) + offset[:, None]
    return BodyState(qpos=qpos, qvel=qvel, sites=sites)
