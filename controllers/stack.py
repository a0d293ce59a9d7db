"""The whole stack: a text command becomes codes, codes become a plan, the plan becomes torques in MuJoCo.

While one segment runs, the next is chosen and decoded on a thread of its own: what was said and where the robot was
``lead_s`` before the segment begins decide it. A new command therefore begins at most one segment and ``lead_s`` later,
and motors never wait for words.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.bundle import Bundle, bundle_encoder, load_bundle, nearest_action, resolve_bundle
from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.com_path import ComPath, VelocityCommand
from motionlex.controllers.drafting import Drafting
from motionlex.controllers.episode import is_down
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.path_leading import leading_path
from motionlex.controllers.placement import Placement, clamp_anchor
from motionlex.controllers.planner import DesiredPath, Planner, Segment
from motionlex.controllers.recovery import Recovery
from motionlex.controllers.stack_state import LONGEST_TEXT, REST, Command, StackConfig, State
from motionlex.controllers.text import Encoder, TextFunction
from motionlex.controllers.tracker import Tracker
from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot

logger = logging.getLogger(__name__)


class Stack:
    """A simulated robot that obeys text.

    Example:
        >>> stack = Stack.from_bundle("builtin")                # doctest: +SKIP
        >>> stack.command("walk forward")                       # doctest: +SKIP
        >>> for _ in range(250): state = stack.step()           # doctest: +SKIP
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        seed: int = 0,
        encode: TextFunction | None = None,
        sampling: SamplingConfig | None = None,
        config: StackConfig | None = None,
    ) -> None:
        """Put the robot on its feet in the default pose.

        Args:
            bundle: Trained parts.
            seed: Seed of the codes that are drawn.
            encode: Text encoder; the one that the bundle was trained with when None.
            sampling: How codes are drawn; the bundle's own setting when None.
            config: How plan and robot are held together.

        Raises:
            UserError: If the bundle's text encoder is not there, or has changed.
        """
        self.bundle = bundle
        self.hz = bundle.meta.hz
        self.config = StackConfig() if config is None else config
        given = self.config.understood_from
        self.understood_from = bundle.meta.understood_from if given is None else given
        """Cosine similarity to the nearest caption below which a command is not obeyed."""
        self.robot = get_robot(bundle.meta.robot)
        self.kinematics = ForwardKinematics(self.robot)
        self._encoder: Encoder | None = None
        if encode is None:
            self._encoder = bundle_encoder(bundle)
            encode = self._encoder.encode
        self._encode = encode
        sampling = SamplingConfig(**bundle.meta.sampling) if sampling is None else sampling
        self._generator = torch.Generator().manual_seed(seed)
        self._planner = Planner(
            bundle.autoencoder,
            bundle.latent_policy,
            ForwardKinematics(self.robot),  # its own: the planner works on another thread
            hz=self.hz,
            sampling=sampling,
            generator=self._generator,
            blend_frames=self.config.blend_frames,
        )
        self.tracker = Tracker(bundle.low_level, self.robot)
        self._getting_up = self._encode([bundle.meta.get_up])[0] if bundle.meta.get_up else None
        self._recovery = Recovery(self.hz, lying_s=self.config.recover_s, rises=self._getting_up is not None)
        self._drafting = Drafting(self._planner, min(round(self.config.lead_s * self.hz), REPLAN_FRAMES - 1))
        self.commands: list[Command] = []
        self.fell = False
        self.time = 0.0
        self.segments = 0
        self._text: Float[Tensor, "piece width"] | None = None
        self._heard: Float[Tensor, "piece width"] | None = None
        self._obeyed: Float[Tensor, "piece width"] | None = None
        self._path: ComPath | VelocityCommand | None = None
        self._start(self._standing(np.zeros(2), 0.0))
        self._origin = self._planner.com.copy()

    @classmethod
    def from_bundle(
        cls,
        name: str = "builtin",
        *,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        config: StackConfig | None = None,
    ) -> Stack:
        """Load a bundle by folder, or the shipped one, and put its robot on its feet.

        Args:
            name: Folder of a bundle, or ``builtin``.
            seed: Seed of the codes that are drawn.
            sampling: How codes are drawn; the bundle's own setting when None.
            config: How plan and robot are held together.

        Raises:
            UserError: If there is no bundle, or it is damaged.
        """
        return cls(load_bundle(resolve_bundle(name)), seed=seed, sampling=sampling, config=config)

    def warm_up(self) -> None:
        """Read the weights of the text encoder now: the first new words would stop a running robot for seconds."""
        if self._encoder is not None:
            self._encoder.load()

    def _standing(self, xy: Float[np.ndarray, " 2"], yaw: float) -> Float[np.ndarray, " coordinate"]:
        """Return the default pose on its feet at a place."""
        root = np.concatenate((xy, [self.robot.standing_height], quaternion.from_yaw(yaw)))
        return np.concatenate((root, self.robot.default_pose))

    @property
    def waited_s(self) -> float:
        """Time that control steps have waited for codes [s]."""
        return self._drafting.waited_s

    @property
    def decided_s(self) -> list[float]:
        """Time that choosing, decoding and placing took, by segment [s]."""
        return self._drafting.decided_s

    @property
    def obeying(self) -> bool:
        """Whether the segment that runs was decided after the latest command."""
        return self._segment is not None and self._obeyed is self._text

    def _start(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Put the robot at rest into a pose, with an empty plan."""
        self._plan_from(qpos)
        self.tracker.reset(qpos)
        self._recovery.clear()
        self._upright = qpos

    def _plan_from(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Begin an empty plan whose frame is the world's, as if a pose had been held for long."""
        self._drafting.discard()
        self._planner.reset(qpos)
        self._placement = Placement(xy=np.zeros(2), yaw=0.0)
        self._segment: Segment | None = None
        self._frames = (np.zeros((0, 26)), np.zeros((0, 25)))
        self._cursor = 0

    def reset(self) -> None:
        """Put the robot on its feet where it began; commands, time and path begin anew, draws of codes go on."""
        self._start(self._standing(np.zeros(2), 0.0))
        self.commands, self.fell, self.time, self.segments = [], False, 0.0, 0
        self._drafting.waited_s = 0.0
        self._text = self._path = None

    @property
    def qpos(self) -> Float[np.ndarray, " coordinate"]:
        """Measured positions."""
        return self.tracker.qpos

    @property
    def planned_qpos(self) -> Float[np.ndarray, " coordinate"]:
        """Positions that are planned for now, in the world."""
        return self._frames[0][self._cursor] if self._segment is not None else self.qpos

    @property
    def plan(self) -> Float[np.ndarray, "frame coordinate"]:
        """Positions that are planned from now to the end of the running segment, in the world; none without one."""
        return self._frames[0][self._cursor :]

    @property
    def com(self) -> Float[np.ndarray, " 2"]:
        """Measured centre of mass [m]."""
        return self.kinematics(self.qpos[None]).com[0, :2]

    @property
    def heading(self) -> float:
        """Measured heading [rad]."""
        return float(quaternion.yaw(self.qpos[None, 3:7])[0])

    @property
    def path(self) -> ComPath | VelocityCommand | None:
        """What the centre of mass is to follow."""
        return self._path

    @property
    def start_com(self) -> Float[np.ndarray, " 2"]:
        """Where the centre of mass was at the start [m]: origin of desired paths."""
        return self._origin

    def command(self, text: str, com_path: ComPath | None = None) -> Command:
        """Obey a text from the next segment on: at the latest after one segment and ``lead_s``.

        Args:
            text: Any words; those after 1,000 characters are not read.
            com_path: As for :meth:`follow`; None leaves what that was given.

        Returns:
            The command with the nearest known action. Where even that is too far, the robot stands still.

        Raises:
            UserError: If the text is empty.
        """
        words = text[:LONGEST_TEXT].strip()
        if not words:
            raise UserError('the command is empty: say what the robot should do, e.g. "walk forward"')
        embedding = self._encode([words])[0]
        action, similarity = nearest_action(embedding[0], self.bundle.captions)
        understood = similarity >= self.understood_from
        self._text = embedding if understood else self._encode([REST])[0]
        if com_path is not None:
            self.follow(com_path)
        command = Command(text=text, action=action, similarity=similarity, start_s=self.time, understood=understood)
        self.commands.append(command)
        return command

    def follow(self, path: ComPath | None) -> ComPath | None:
        """Let the centre of mass follow a path from now on.

        Args:
            path: Its time 0 is now, its origin where the centre of mass is now, and its x axis the present heading. It
                takes longer where it is faster than the motions that the autoencoder has seen; None ends any path.

        Returns:
            What is followed, in time since the start and relative to where the robot started.
        """
        if path is None:
            self._path = None
            return None
        begun = path.limited(self.bundle.autoencoder.statistics).begun(self.time, self.com - self._origin, self.heading)
        self._path = begun
        return begun

    def forget(self) -> None:
        """Obey no words any more: from the next segment on the path alone says what to do."""
        self._text = None

    def steer(self, forward: float, left: float, turn: float) -> VelocityCommand:
        """Let the robot move at a velocity from here and now on, in the direction that it faces.

        Args:
            forward: Speed forward [m/s].
            left: Speed to the left [m/s].
            turn: Rate of turning to the left [rad/s].

        Returns:
            What is followed: the velocity, limited to what the autoencoder has seen.
        """
        wanted = VelocityCommand(
            velocity=np.array([forward, left]),
            turn=turn,
            start_s=self.time,
            start_xy=self.com - self._origin,
            start_yaw=self.heading,
        )
        allowed = wanted.limited(self.bundle.autoencoder.statistics)
        self._path = allowed
        return allowed

    def reseed(self, seed: int) -> None:
        """Draw codes from another seed from the next segment that is not decided yet on."""
        self._drafting.settle()  # its draws are of the seed before
        self._generator.manual_seed(seed)

    def push(self, velocity: Float[np.ndarray, " 2"]) -> None:
        """Change the root's velocity at once [m/s, world x and y]."""
        self.tracker.push(velocity)

    def step(self) -> State:
        """Advance by one control step and return what it led to.

        Raises:
            UserError: If there is neither a command nor a path.
        """
        if self._segment is None or self._cursor >= REPLAN_FRAMES:
            self._renew()
        assert self._segment is not None
        self.tracker.step(self._frames[0], self._frames[1], self._segment.codes, self._cursor)
        self._cursor += 1
        self.time += 1.0 / self.hz
        planned, event = self.planned_qpos, self._watch()
        if self._segment is None:  # put on its feet, or about to get up: there is no plan until the next step
            codes, frame = np.zeros(0, dtype=np.int64), 0
        else:
            codes, frame = self._segment.codes, self._cursor
            if self._drafting.due(self._cursor):
                # The wishes are made of the plan's end, which committing moves on.
                self._planner.commit(REPLAN_FRAMES)
                self._drafting.begin(*self._wishes(self._drafting.lead))
        return State(
            time=self.time,
            qpos=self.qpos,
            qvel=self.tracker.qvel,
            torque=self.tracker.torque,
            planned_qpos=planned,
            codes=codes,
            frame=frame,
            event=event,
        )

    def _wishes(self, ahead: int) -> tuple[Float[Tensor, "piece width"], DesiredPath | None]:
        """Return text and path for a segment that begins some frames from now."""
        if self._recovery.rising and self._getting_up is not None:
            return self._getting_up, None
        if self._text is None and self._path is None:
            raise UserError("the stack has no command yet: call Stack.command(text) before Stack.step()")
        self._heard = self._text
        text = torch.zeros(1, self.bundle.latent_policy.config.text) if self._text is None else self._text
        return text, self._desired_path(ahead)

    def _renew(self) -> None:
        """Begin the next segment: the drafted one, or one that is decided now."""
        segment = self._drafting.take()
        if segment is None:
            self._planner.commit(self._cursor)
        self._follow_the_robot()
        if segment is None:
            segment = self._drafting.decide(*self._wishes(0))
        self._segment, self._obeyed = segment, self._heard
        self._frames = self._placement.state(segment.qpos, segment.qvel)
        self._cursor = 0
        self.segments += 1

    def _watch(self) -> str | None:
        """Notice falls and divergence, and let the robot get up or put it on its feet again."""
        if not self.tracker.finite:
            logger.warning("%.2f s: the simulation diverged; the robot is put back on its feet", self.time)
            self.fell = True
            self._stand_up()
            return "diverged"
        down = is_down(self.qpos)
        if not down and not self._recovery.rising:
            self._upright = self.qpos
        event = self._recovery.watch(down=down, planned=is_down(self.planned_qpos))
        self.fell |= event == "fell"
        if event == "stood up":
            self._stand_up()
        elif event == "gets up":
            self._plan_from(self.qpos)
        return event

    def _stand_up(self) -> None:
        """Put the robot on its feet where it was upright last; the command holds on."""
        last = self._upright
        self._start(self._standing(last[:2], float(quaternion.yaw(last[None, 3:7])[0])))

    def _follow_the_robot(self) -> None:
        """Move the plan rigidly until planned and measured root are within the limits."""
        plan_xy, plan_yaw = self._planner.anchor
        world_xy = self._placement.points(plan_xy[None])[0]
        measured = self.qpos
        xy, yaw = clamp_anchor(
            world_xy,
            plan_yaw + self._placement.yaw,
            measured[:2],
            self.heading,
            max_offset=self.config.max_offset,
            max_turn=self.config.max_turn,
        )
        self._placement = Placement.carrying(plan_xy, plan_yaw, xy, yaw)

    def _desired_path(self, ahead: int = 0) -> DesiredPath | None:
        """The desired path of the frames after the next ``ahead`` ones, in the plan frame."""
        if self._path is None:
            return None
        return leading_path(
            self._path,
            now_s=self.time,
            start_s=self.time + ahead / self.hz,
            hz=self.hz,
            origin=self._origin,
            robot=(self.com, self.heading),
            plan=(self._planner.com, self._planner.anchor[1]),
            placement=self._placement,
            config=self.config,
        )
