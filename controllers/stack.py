"""The whole stack: a text command becomes codes, codes become a plan, the plan becomes torques in MuJoCo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.bundle import Bundle, nearest_action
from motionlex.controllers.com_path import ComPath
from motionlex.controllers.conditions import WINDOW
from motionlex.controllers.episode import is_down
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.latent_policy import SamplingConfig
from motionlex.controllers.placement import Placement, clamp_anchor
from motionlex.controllers.planner import DesiredPath, Planner, Segment
from motionlex.controllers.text import TextEncoder, TextFunction
from motionlex.controllers.tracker import Tracker
from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """How plan and robot are held together."""

    max_offset: float = 0.15
    """Largest distance between planned and measured root when a segment is placed [m]."""
    max_turn: float = 0.2
    """Largest difference between planned and measured heading when a segment is placed [rad]."""
    blend_frames: int = 4
    """Frames over which a new segment fades in."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that the stack obeys."""

    text: str
    """What was said."""
    action: str
    """Nearest known action; shown to people, used by no controller."""
    similarity: float
    """Cosine similarity to the nearest caption of that action."""
    start_s: float
    """Time at which it was given [s]."""


class Stack:
    """A simulated robot that obeys text.

    Example:
        >>> stack = Stack(load_bundle(builtin_bundle()))        # doctest: +SKIP
        >>> stack.command("walk forward")                       # doctest: +SKIP
        >>> for _ in range(250): stack.step()                   # doctest: +SKIP
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
            encode: Text encoder; the frozen BERT when None.
            sampling: How codes are drawn; the bundle's own setting when None.
            config: How plan and robot are held together.
        """
        self.bundle = bundle
        self.hz = bundle.meta.hz
        self.config = StackConfig() if config is None else config
        self.robot = get_robot(bundle.meta.robot)
        self.kinematics = ForwardKinematics(self.robot)
        self._encode = TextEncoder().encode if encode is None else encode
        sampling = SamplingConfig(**bundle.meta.sampling) if sampling is None else sampling
        self._planner = Planner(
            bundle.autoencoder,
            bundle.latent_policy,
            self.kinematics,
            hz=self.hz,
            sampling=sampling,
            generator=torch.Generator().manual_seed(seed),
            blend_frames=self.config.blend_frames,
        )
        self.tracker = Tracker(bundle.low_level, self.robot)
        self.commands: list[Command] = []
        self.fell = False
        self.time = 0.0
        self.segments = 0
        self._text: Float[Tensor, " width"] | None = None
        self._path: ComPath | None = None
        self._start()

    def _start(self) -> None:
        qpos = np.zeros(7 + len(self.robot.joints))
        qpos[2], qpos[3] = self.robot.standing_height, 1.0
        qpos[7:] = self.robot.default_pose
        self._planner.reset(qpos)
        self.tracker.reset(qpos)
        self._origin = self._planner.com.copy()
        self._placement = Placement(xy=np.zeros(2), yaw=0.0)
        self._segment: Segment | None = None
        self._frames = (np.zeros((0, 26)), np.zeros((0, 25)))
        self._cursor, self._stale = 0, True

    @property
    def qpos(self) -> Float[np.ndarray, " coordinate"]:
        """Measured positions."""
        return self.tracker.qpos

    @property
    def planned_qpos(self) -> Float[np.ndarray, " coordinate"]:
        """Positions that are planned for now, in the world."""
        return self._frames[0][self._cursor] if self._segment is not None else self.qpos

    @property
    def com(self) -> Float[np.ndarray, " 2"]:
        """Measured centre of mass [m]."""
        return self.kinematics(self.qpos[None]).com[0, :2]

    @property
    def start_com(self) -> Float[np.ndarray, " 2"]:
        """Where the centre of mass was at the start [m]: origin of desired paths."""
        return self._origin

    def command(self, text: str) -> Command:
        """Obey a text from the next control step on; the segment that runs is given up.

        Args:
            text: Any words.

        Returns:
            The command with the nearest known action.
        """
        embedding = self._encode([text])[0]
        action, similarity = nearest_action(embedding, self.bundle.captions)
        self._text = embedding
        self._stale = True
        command = Command(text=text, action=action, similarity=similarity, start_s=self.time)
        self.commands.append(command)
        return command

    def follow(self, path: ComPath | None) -> None:
        """Let the centre of mass follow a path that began at the start of the simulation, or no longer."""
        self._path = path

    def step(self) -> None:
        """Advance by one control step."""
        if self._stale or self._cursor >= REPLAN_FRAMES:
            self._replan()
        assert self._segment is not None
        self.tracker.step(self._frames[0], self._frames[1], self._segment.codes, self._cursor)
        self._cursor += 1
        self.time += 1.0 / self.hz
        if is_down(self.qpos) and not is_down(self.planned_qpos):
            self.fell = True

    def _replan(self) -> None:
        if self._text is None:
            raise UserError("the stack has no command yet: call Stack.command(text) before Stack.step()")
        self._planner.commit(self._cursor)
        self._follow_the_robot()
        self._segment = self._planner.replan(self._text, self._desired_path())
        self._frames = self._placement.state(self._segment.qpos, self._segment.qvel)
        self._cursor, self._stale = 0, False
        self.segments += 1

    def _follow_the_robot(self) -> None:
        """Move the plan rigidly until planned and measured root are within the limits."""
        plan_xy, plan_yaw = self._planner.anchor
        world_xy = self._placement.points(plan_xy[None])[0]
        measured = self.qpos
        if not np.isfinite(measured).all():
            return  # the simulation has diverged, which counts as a fall
        measured_yaw = float(quaternion.yaw(measured[None, 3:7])[0])
        xy, yaw = clamp_anchor(
            world_xy,
            plan_yaw + self._placement.yaw,
            measured[:2],
            measured_yaw,
            max_offset=self.config.max_offset,
            max_turn=self.config.max_turn,
        )
        self._placement = Placement.carrying(plan_xy, plan_yaw, xy, yaw)

    def _desired_path(self) -> DesiredPath | None:
        """The desired path of the next frames, in the plan frame."""
        if self._path is None:
            return None
        xy, yaw = self._path.at(self.time + np.arange(1, WINDOW + 1) / self.hz)
        return DesiredPath(
            xy=self._placement.points_to_plan(xy + self._origin),
            yaw=None if self._path.yaw is None else yaw - self._placement.yaw,
        )
