"""From commands to footsteps: which foot stands where and when, and where the weight is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from motionlex.data.procedural.style import Command, Style

SHIFT_FRAMES = 15
"""Frames in which the weight moves over one foot before the first step."""
SETTLE_FRAMES = 14
"""Frames in which the weight moves back between the feet after the last step."""
STAND_HALF_WIDTH = 0.2
"""Sideways distance of each foot from the middle when standing [m]."""
ON_BOTH_FEET = ("squat", "bow", "dance_sway", "hop")
"""Actions that begin only when both feet stand still."""
MAX_CHANGE = np.array([0.5, 0.3, 1.6])
"""Largest change of velocity from one step to the next [m/s, m/s, rad/s]."""
MAX_STOP = np.array([1.3, 1.0, 4.0])
"""Largest change of velocity in a step that ends a gait [m/s, m/s, rad/s]."""

Pose = Float[np.ndarray, " 3"]


@dataclass(frozen=True, kw_only=True)
class Move:
    """One foot in the air, from its lift to its landing."""

    foot: int
    """0 left, 1 right."""
    lift: int
    """Last frame on the floor."""
    land: int
    """First frame on the floor again."""
    origin: Pose
    """Where it stood: x, y [m], yaw [rad]."""
    target: Pose
    """Where it lands."""
    clearance: float
    """Height of the sole at mid-swing [m]."""
    toe_pitch: float
    """Toe-down pitch early in the swing [rad]."""


@dataclass(frozen=True, kw_only=True)
class FootPlan:
    """The feet over time."""

    position: Float[np.ndarray, "frame 2 3"]
    """Points of the soles under the ankles (left, right) [m]; z is the height above the floor."""
    yaw: Float[np.ndarray, "frame 2"]
    """Headings of the feet [rad]."""
    pitch: Float[np.ndarray, "frame 2"]
    """Toe-down pitches of the feet [rad]."""
    contact: Bool[np.ndarray, "frame 2"]
    """True while a foot stands."""
    left_share: Float[np.ndarray, " frame"]
    """Share of the weight that the left foot carries."""
    ready: tuple[int, ...]
    """For each command the first frame at which both feet stand still for it (its stop if never)."""
    done: tuple[int, ...]
    """For each command the frame at which its last hop has ended, or its stop."""
    moving_style: tuple[tuple[int, Style], ...]
    """Style in force from each frame on, at step boundaries."""


def compose(pose: Pose, offset: tuple[float, float, float] | Pose) -> Pose:
    """Return the planar pose reached from ``pose`` by ``offset`` in its own frame."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    return np.array(
        [pose[0] + c * offset[0] - s * offset[1], pose[1] + s * offset[0] + c * offset[1], pose[2] + offset[2]]
    )


def plan_footsteps(commands: tuple[Command, ...], *, dt: float) -> FootPlan:
    """Plan the steps for a stream of commands.

    A new command is obeyed at the next landing (or at once when standing); gaits approach their speed in
    steps of ``MAX_CHANGE``; actions on the spot begin when the feet are side by side.

    Args:
        commands: Contiguous commands, the first from frame 0.
        dt: Time between frames [s].
    """
    return _Planner(commands, dt).run()


class _Planner:
    def __init__(self, commands: tuple[Command, ...], dt: float) -> None:
        self.commands, self.dt = commands, dt
        self.total = commands[-1].stop
        self.feet = [np.array([0.0, w, 0.0]) for w in (STAND_HALF_WIDTH, -STAND_HALF_WIDTH)]
        self.moves: list[Move] = []
        self.share: list[tuple[int, float]] = [(0, 0.5)]
        self.velocity = np.zeros(3)
        self.holding = True
        self.pace = 25
        self.stance = 1
        self.flying = False
        self.ready = [c.stop for c in commands]
        self.done = [c.stop for c in commands]
        self.styles: list[tuple[int, Style]] = []
        self.last_on_spot: tuple[int, Style] | None = None

    def run(self) -> FootPlan:
        frame, index = 0, 0
        while frame < self.total:
            while self.commands[index].stop <= frame:
                index += 1
            style = self.commands[index].style
            if self.holding and frame < self._release_frame(index):
                frame += 1
            elif style.stepping:
                frame = self._step(style, frame)
            elif not self._aligned():
                frame = self._step(style, frame)
                if self._aligned() and not self._gait_at(frame):
                    frame = self._settle(frame)
            elif not self.holding:
                frame = self._settle(frame)
            else:
                self.ready[index] = min(self.ready[index], frame)
                frame = self._hop(style, frame) if style.flight_frames else frame + 1
                self.done[index] = max(self.done[index], frame)
        return self._sample()

    def _gait_at(self, frame: int) -> bool:
        """Return whether the command in force at a frame is a gait."""
        return any(c.start <= frame < c.stop and c.style.stepping for c in self.commands)

    def _release_frame(self, index: int) -> int:
        """Frame before which the previous action on the spot still winds down."""
        if index == 0 or self.commands[index - 1].style.stepping:
            return 0
        return self.commands[index].start + release_frames(self.commands[index - 1].style)

    def _aligned(self) -> bool:
        left, right = self.feet
        wanted = compose(left, (0.0, -2 * STAND_HALF_WIDTH, 0.0))
        return bool(np.abs(wanted - right).max() < 1e-6)

    def _step(self, style: Style, frame: int) -> int:
        if not self.styles or self.styles[-1][1] is not style:
            self.styles.append((frame, style))
        if self.holding:
            self.stance = self._first_stance(style)
        swing = 1 - self.stance
        side = 1.0 if swing == 0 else -1.0
        width = style.half_width if style.stepping else STAND_HALF_WIDTH
        goal = np.array(style.velocity)
        limit = MAX_CHANGE if style.stepping else _stop_limit(self.velocity)
        self.velocity = self.velocity + np.clip(goal - self.velocity, -limit, limit)
        if style.stepping:
            self.pace = style.step_frames
        frames = style.step_frames if style.stepping else min(style.step_frames, self.pace + 2)
        duration = frames * self.dt
        ahead = np.array([self.velocity[0], 0.0, self.velocity[2]]) * duration
        middle = compose(self.feet[self.stance], (0.0, side * width, 0.0))
        body = compose(compose(middle, (ahead[0] / 2, 0.0, ahead[2] / 2)), (ahead[0] / 2, 0.0, ahead[2] / 2))
        lateral = 2.0 * self.velocity[1] * duration
        extra = lateral if lateral * side > 0 else 0.0
        target = compose(body, (0.0, side * width + extra, 0.0))
        double = SHIFT_FRAMES if self.holding else style.double_frames
        if double < 0 and not self.flying:
            double = 3
        lift = frame + double
        land = lift + frames - max(style.double_frames, 0) if self.holding else frame + frames
        old = self.share[-1][1]
        on = 1.0 if self.stance == 0 else 0.0
        self.share += [(min(frame, lift), old), (max(frame, lift), on)]
        self.moves.append(
            Move(
                foot=swing,
                lift=lift,
                land=land,
                origin=self.feet[swing],
                target=target,
                clearance=style.clearance,
                toe_pitch=style.toe_pitch * _toe_share(style, self.velocity[0]),
            )
        )
        self.feet[swing] = target
        self.holding, self.flying, self.stance = False, style.double_frames < 0, swing
        return land

    def _first_stance(self, style: Style) -> int:
        """Stand on the foot away from the way to go, so that the other can lead."""
        sideways = style.velocity[1] + 0.3 * style.velocity[2]
        if sideways != 0.0:
            return 1 if sideways > 0 else 0
        return 0 if style.mirrored else 1

    def _settle(self, frame: int) -> int:
        self.share += [(frame, self.share[-1][1]), (frame + SETTLE_FRAMES, 0.5)]
        self.holding, self.flying, self.velocity = True, False, np.zeros(3)
        self.styles.append((frame, Style(label="stand")))
        return frame + SETTLE_FRAMES

    def _hop(self, style: Style, frame: int) -> int:
        """One hop: crouch and push, flight, landing."""
        cycle = round(style.period_s / self.dt)
        lift = frame + round(0.5 * cycle)
        land = lift + style.flight_frames
        for foot in (0, 1):
            self.moves.append(
                Move(
                    foot=foot,
                    lift=lift,
                    land=land,
                    origin=self.feet[foot],
                    target=self.feet[foot],
                    clearance=style.clearance,
                    toe_pitch=0.0,
                )
            )
        return frame + cycle

    def _sample(self) -> FootPlan:
        n = self.total
        position, yaw = np.zeros((n, 2, 3)), np.zeros((n, 2))
        pitch, contact = np.zeros((n, 2)), np.ones((n, 2), dtype=bool)
        for foot, y in enumerate((STAND_HALF_WIDTH, -STAND_HALF_WIDTH)):
            position[:, foot, 1] = y
        for move in self.moves:
            t = np.arange(max(move.lift, 0), n)
            s = np.clip((t - move.lift) / (move.land - move.lift), 0.0, 1.0)
            blend = _travel((s - 0.06) / 0.89)
            path = move.origin + blend[:, None] * (move.target - move.origin)
            position[t, move.foot, :2], yaw[t, move.foot] = path[:, :2], path[:, 2]
            position[t, move.foot, 2] = move.clearance * 16 * s**2 * (1 - s) ** 2
            late = np.clip((s - 0.06) / 0.94, 0.0, 1.0)
            pitch[t, move.foot] = move.toe_pitch * late**3 * (1 - late) ** 3 * (1 - 1.45 * late) / 0.00839
            contact[t, move.foot] = (s <= 0.0) | (s >= 1.0)
        keys = np.array(self.share)
        share = np.interp(np.arange(n), keys[:, 0], keys[:, 1])
        return FootPlan(
            position=position,
            yaw=yaw,
            pitch=pitch,
            contact=contact,
            left_share=share,
            ready=tuple(self.ready),
            done=tuple(self.done),
            moving_style=tuple(self.styles),
        )


def _travel(s: Float[np.ndarray, " frame"], ramp: float = 0.4) -> Float[np.ndarray, " frame"]:
    """Return the way from 0 to 1 with a speed that rises and falls smoothly over ``ramp`` of the time."""
    s = np.clip(s, 0.0, 1.0)
    first, last = np.minimum(s / ramp, 1.0), np.minimum((1 - s) / ramp, 1.0)
    rise = ramp * (first**3 - 0.5 * first**4)
    fall = ramp * (0.5 - (last**3 - 0.5 * last**4))
    return (rise + fall + np.clip(s - ramp, 0.0, 1 - 2 * ramp)) / (1 - ramp)


def _stop_limit(velocity: Pose) -> Pose:
    """Walking stops in one step, jogging halves its speed first."""
    fast = abs(velocity[0]) > MAX_STOP[0]
    return np.array([0.5 * abs(velocity[0]) if fast else MAX_STOP[0], *MAX_STOP[1:]])


def _toe_share(style: Style, forward: float) -> float:
    """Toes point down in long and in high steps."""
    return float(np.clip(abs(forward) / 0.6 + (style.clearance - 0.08) / 0.08, 0.0, 1.0))


def release_frames(style: Style) -> int:
    """Frames that an action on the spot needs to wind down before the feet may move."""
    return {"squat": 26, "bow": 26, "dance_sway": 18, "hop": 6}.get(style.label, 0)
