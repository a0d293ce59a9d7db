"""The whole stack: a text command becomes codes, codes become a plan, the plan becomes torques in MuJoCo.

While one segment runs, the next is chosen and decoded on a thread of its own: what was said and where the robot was
``lead_s`` before the segment begins decide it. A new command therefore begins at most one segment and ``lead_s`` later.
A segment that is late is waited for, or, where time does not wait, the running one goes on meanwhile, and a command
begins that much later.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.bundle import Bundle, load_bundle, resolve_bundle
from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.com_path import ComPath, VelocityCommand
from motionlex.controllers.course import Course
from motionlex.controllers.drafting import Drafting
from motionlex.controllers.episode import is_down
from motionlex.controllers.goal import Goal
from motionlex.controllers.hearing import Hearing
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.path_leading import leading_path
from motionlex.controllers.planner import DesiredPath, Planner
from motionlex.controllers.recovery import Recovery
from motionlex.controllers.running_plan import Root, RunningPlan
from motionlex.controllers.stack_state import Command, StackConfig, State
from motionlex.controllers.text import TextFunction
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
        self.hearing = Hearing(bundle, encode, self.config.understood_from)
        """What words are taken for."""
        self.robot = get_robot(bundle.meta.robot)
        self.kinematics = ForwardKinematics(self.robot)
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
        self._plan = RunningPlan(self.config)
        self.tracker = Tracker(bundle.low_level, self.robot)
        self._getting_up = self.hearing.embed(bundle.meta.get_up) if bundle.meta.get_up else None
        self._recovery = Recovery(self.hz, lying_s=self.config.recover_s, rises=self._getting_up is not None)
        self.drafting = Drafting(self._planner, min(round(self.config.lead_s * self.hz), REPLAN_FRAMES - 1))
        """Decides segments ahead of time, and knows how long that took."""
        self.commands: list[Command] = []
        self.fell = False
        self.time = 0.0
        self.segments = 0
        self._text: Float[Tensor, "piece width"] | None = None
        self._heard = self._obeyed = 0
        self._course = Course(bundle.autoencoder.statistics)
        self._resting = False
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

    def _standing(self, xy: Float[np.ndarray, " 2"], yaw: float) -> Float[np.ndarray, " coordinate"]:
        """Return the default pose on its feet at a place."""
        root = np.concatenate((xy, [self.robot.standing_height], quaternion.from_yaw(yaw)))
        return np.concatenate((root, self.robot.default_pose))

    @property
    def obeying(self) -> bool:
        """Whether the segment that runs was decided after the latest command."""
        return self._plan.segment is not None and self._obeyed == len(self.commands)

    def _start(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Put the robot at rest into a pose, with an empty plan."""
        self._plan_from(qpos)
        self.tracker.reset(qpos)
        self._recovery.clear()
        self._upright = qpos

    def _plan_from(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Begin an empty plan whose frame is the world's, as if a pose had been held for long."""
        self.drafting.discard()
        self._planner.reset(qpos)
        self._plan.clear()

    def reset(self) -> None:
        """Put the robot on its feet where it began; commands, time and path begin anew, draws of codes go on."""
        self._start(self._standing(np.zeros(2), 0.0))
        self.commands, self.fell, self.time, self.segments = [], False, 0.0, 0
        self.drafting.waited_s = 0.0
        self._text, self._resting = None, False
        self._course.clear()

    @property
    def qpos(self) -> Float[np.ndarray, " coordinate"]:
        """Measured positions."""
        return self.tracker.qpos

    @property
    def planned_qpos(self) -> Float[np.ndarray, " coordinate"]:
        """Positions that are planned for now, in the world."""
        return self._plan.rest[0] if self._plan.segment is not None else self.qpos

    @property
    def plan(self) -> Float[np.ndarray, "frame coordinate"]:
        """Positions that are planned from now to the end of the running segment, in the world; none without one."""
        return self._plan.rest

    @property
    def com(self) -> Float[np.ndarray, " 2"]:
        """Measured centre of mass [m]."""
        return self.kinematics(self.qpos[None]).com[0, :2]

    @property
    def heading(self) -> float:
        """Measured heading [rad]."""
        return float(quaternion.yaw(self.qpos[None, 3:7])[0])

    @property
    def _root(self) -> Root:
        """Measured root in the world."""
        return self.qpos[:2], self.heading

    @property
    def _now(self) -> tuple[float, Float[np.ndarray, " 2"], float]:
        """Time, place and heading as a course counts them."""
        return self.time, self.com - self._origin, self.heading

    @property
    def path(self) -> ComPath | VelocityCommand | None:
        """What the centre of mass is to follow."""
        return self._course.path

    @property
    def goal(self) -> Float[np.ndarray, " 2"] | None:
        """Where the centre of mass is to go, in the world [m]."""
        return None if self._course.goal is None else self._course.goal.xy + self._origin

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
            The command with the nearest known action. Where even that is too far, the robot stands still, or goes on
            along a path that has not ended.

        Raises:
            UserError: If the text is empty.
        """
        heard = self.hearing.hear(text, self.time)
        self._text, self._resting = heard.text, heard.resting
        if com_path is not None:
            self.follow(com_path)
        elif heard.resting:
            self._course.halt(self.time)
        self.commands.append(heard.command)
        return heard.command

    def follow(self, path: ComPath | None) -> ComPath | None:
        """Let the centre of mass follow a path from now on.

        Args:
            path: Its time 0 is now, its origin where the centre of mass is now, and its x axis the present heading. It
                takes longer where it is faster than the motions that the autoencoder has seen; None ends any path,
                velocity or goal.

        Returns:
            What is followed, in time since the start and relative to where the robot started.
        """
        if path is None:
            self._course.clear()
            return None
        return self._course.follow(path, *self._now)

    def go_to(self, x: float, y: float) -> None:
        """Let the robot go to a place and stay there. Words that came before are over, later ones hold beside it.

        Args:
            x: Where the centre of mass is to be, in the world [m].
            y: The same, to the left of where the robot faced at the start [m].

        Raises:
            UserError: If the place is not finite, or too far away.
        """
        self._course.go_to(Goal(xy=np.array([x, y]) - self._origin), *self._now)
        self._text, self._resting = self.hearing.rest, True

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
        return self._course.steer(forward, left, turn, *self._now)

    def reseed(self, seed: int) -> None:
        """Draw codes from another seed from the next segment that is not decided yet on."""
        self.drafting.settle()  # its draws are of the seed before
        self._generator.manual_seed(seed)

    def push(self, velocity: Float[np.ndarray, " 2"]) -> None:
        """Change the root's velocity at once [m/s, world x and y]."""
        self.tracker.push(velocity)

    def step(self, *, waits: bool = True) -> State:
        """Advance by one control step and return what it led to.

        Args:
            waits: Whether the step waits for a segment that is late, so that what happens does not depend on the
                machine. If not, the running one goes on meanwhile for ``running_plan.MOST_LATE`` frames at most: for
                robots whose time does not wait.

        Raises:
            UserError: If there is neither a command nor a path.
        """
        plan = self._plan
        if plan.over and (waits or not (self.drafting.working and plan.can_go_on)):
            self._renew()
        assert plan.segment is not None
        self.tracker.step(*plan.frames, plan.segment.codes, plan.cursor)
        plan.cursor += 1
        self.time += 1.0 / self.hz
        planned, event = self.planned_qpos, self._watch()
        if plan.segment is None:  # put on its feet, or about to get up: there is no plan until the next step
            codes, frame = np.zeros(0, dtype=np.int64), 0
        else:
            codes, frame = plan.segment.codes, plan.cursor
            if self.drafting.due(plan.cursor):
                # The wishes are made of the plan's end, which committing moves on.
                self._planner.commit(REPLAN_FRAMES)
                self.drafting.begin(*self._wishes(REPLAN_FRAMES - plan.cursor))
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
        path = self._desired_path(ahead)
        if self._text is None and path is None:
            raise UserError("the stack has no command yet: call Stack.command(text) before Stack.step()")
        self._heard = len(self.commands)
        if self._text is None or (self._resting and path is not None):  # who is to go somewhere does not stand
            return torch.zeros(1, self.bundle.latent_policy.config.text), path
        return self._text, path

    def _renew(self) -> None:
        """Begin the next segment: the drafted one, or one that is decided now."""
        segment = self.drafting.take()
        if segment is not None and self._plan.cursor > REPLAN_FRAMES:
            self._plan.take_over(segment, self._root)
        else:
            if segment is None:
                self._planner.commit(self._plan.cursor)
            self._plan.follow(self._planner.anchor, self._root)
            self._plan.begin(self.drafting.decide(*self._wishes(0)) if segment is None else segment)
        self._obeyed = self._heard
        self.segments += 1

    def _watch(self) -> str | None:
        """Notice falls and divergence, and let the robot get up or put it on its feet again, see :meth:`_stand_up`."""
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
        """Put the robot on its feet at its last good place: where it was upright last, with the heading it had there.

        It is its place that it gets back, not its state: it stands in the default pose at rest, and its plan begins
        anew. Command, path and time go on.
        """
        last = self._upright
        self._start(self._standing(last[:2], float(quaternion.yaw(last[None, 3:7])[0])))

    def _desired_path(self, ahead: int = 0) -> DesiredPath | None:
        """The desired path of the frames after the next ``ahead`` ones, in the plan frame."""
        if self._course.path is None:
            return None
        time, xy, heading = self._now
        self._course.update(time, xy, heading)
        return leading_path(
            self._course.path,
            now_s=time,
            start_s=time + ahead / self.hz,
            hz=self.hz,
            origin=self._origin,
            robot=(xy + self._origin, heading),
            plan=(self._planner.com, self._planner.anchor[1]),
            placement=self._plan.placement,
            config=self.config,
        )
