"""A session: one robot, everything that can be done to it, what is shown of it and what is written down about it.

A session belongs to one thread. The console maps lines to its methods; the terminal and scripts feed the console,
viewers use the same methods.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from motionlex.controllers.com_path import VelocityCommand
from motionlex.controllers.display import Display
from motionlex.controllers.episode import CommandReport
from motionlex.controllers.following import PathWatch
from motionlex.controllers.recording import Recording
from motionlex.controllers.reports import Reports
from motionlex.controllers.saving import Saving
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import REST, Command, State
from motionlex.data.errors import UserError

logger = logging.getLogger(__name__)
Value = str | int | float | bool | None | Sequence[object] | Mapping[str, object]
PAUSE_S = 0.05
"""How often a session that stands still looks for what is asked of it [s]."""
ONE_ROBOT = (
    "another bundle needs other files: leave, and start again with --bundle, or without --video, --gif and --record"
)
EVENTS = {
    "fell": "the robot fell",
    "gets up": "the robot tries to get up",
    "got up": "the robot has got up",
    "stood up": "the robot is put on its feet again",
    "diverged": "the simulation diverged; the robot is put on its feet again",
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something out of the ordinary."""

    time_s: float
    """When, since the session began [s]."""
    event: str
    """A key of ``EVENTS``."""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What a session has beside its robot; by default nothing."""

    display: Callable[[Stack], Display] = lambda stack: Display()
    """Opens what looks at a stack."""
    load: Callable[[str, int], Stack] | None = None
    """Loads the stack of a bundle, from its name and a seed; None where bundles cannot be changed."""
    kept_s: float | None = None
    """Time that the recording reaches back at least [s]; None records nothing, infinity everything."""
    record: Path | None = None
    """File that the recording is written to at the end."""
    say: Callable[[str], None] = logger.info
    """Told of what happens by itself, in words."""


class Session:
    """One robot under commands."""

    def __init__(self, stack: Stack, outside: Outside | None = None) -> None:
        """Begin at a stack's present state.

        Args:
            stack: The robot.
            outside: Screens, files, words.
        """
        self.stack = stack
        self._outside = Outside() if outside is None else outside
        self.fell, self.events, self.wall_s = False, list[Event](), 0.0
        self._start, self._before, self._steps = stack.time, stack.time, 0
        self._reports = Reports()
        self._closed, self._saving = False, Saving()
        self._watch = PathWatch(stack)
        self._begin()

    def _begin(self) -> None:
        """Look at the present stack."""
        kept = self._outside.kept_s
        self._recording = None if kept is None else Recording(self.stack, longest_s=kept)
        self.display = self._outside.display(self.stack)
        self._enter()

    def _enter(self) -> None:
        """Take the robot's present place as the beginning of what is measured."""
        self._origin = self._last = self.stack.qpos
        self._heading, self.turned = self.stack.heading, 0.0
        self._told, self._stands = bool(self.stack.commands), False

    @property
    def time(self) -> float:
        """Simulated time since the session began, resets included [s]."""
        return self._before + self._steps / self.stack.hz

    def announce(self, text: str) -> None:
        """Say something everywhere."""
        self._outside.say(text)
        self.display.tell(text)

    def command(self, text: str) -> Command:
        """Let the robot obey a text until the next one.

        Raises:
            UserError: If the text is empty.
        """
        before = self.stack.path
        given = self.stack.command(text)
        if before is not None and self.stack.path is None:
            self.announce("who stands still goes nowhere: what it followed is given up")
        self._reports.begin(given, time=self.time, qpos=self._last, hz=self.stack.hz)
        self._told = True
        return given

    def ready(self, text: str) -> bool:
        """Tell whether :meth:`command` would obey a text without stopping the robot while it is embedded; ask until so.

        Where time stands still it waits a little for that.
        """
        return self.stack.hearing.ready(text, PAUSE_S if self.display.paused else 0.0)

    @property
    def listening(self) -> bool:
        """Whether a text was asked about that was not obeyed yet; whatever is wished for later comes after it."""
        return self.stack.hearing.listening

    def step(self, *, waits: bool = True) -> State:
        """Advance by one control step.

        Args:
            waits: Whether it may wait for a segment that is late, see :meth:`Stack.step`.
        """
        if not self._told:
            self._rest()
        began = time.perf_counter()
        state = self.stack.step(waits=waits)
        self.wall_s += time.perf_counter() - began
        self._steps += 1
        self._last = state.qpos
        self._reports.add(state.qpos)
        self._measure(state)
        if self._recording is not None:
            self._recording.add(state, self.time)
        began, deciding = time.perf_counter(), self.stack.drafting.working
        self.display.draw(state)
        self.display.pace(1.0 / self.stack.hz)
        if deciding:  # or the next step would have waited longer
            self.wall_s += time.perf_counter() - began
        return state

    def _rest(self) -> None:
        """Let a robot that was told nothing follow its path, if it has one, or stand still."""
        if self.stack.path is not None:
            self.stack.forget()
            self._stands = False
        elif not self._stands:
            self.stack.command(REST)
            self._stands = True

    def run(self, seconds: float) -> None:
        """Advance by some time, one control step at least, obeying those who watch, until they leave."""
        for _ in range(max(1, round(seconds * self.stack.hz))):
            self.step()
            self.display.obey(self)
            while self.display.paused and self.display.viewers and not self.display.abandoned:
                time.sleep(PAUSE_S)
                self.display.obey(self)
            if self.display.abandoned:
                return

    def _measure(self, state: State) -> None:
        """Count turns, follow the path, notice events."""
        heading = self.stack.heading
        self.turned += math.remainder(heading - self._heading, 2 * math.pi)
        self._heading = heading
        self._watch.add(self.stack)
        self.fell |= self.stack.fell
        if state.event is not None:
            self.events.append(Event(time_s=self.time, event=state.event))
            self.announce(f"{self.time:.2f} s: {EVENTS.get(state.event, state.event)}")

    def reset(self) -> None:
        """Put the robot on its feet where it began; it stands until it is told something."""
        if self.stack.path is not None:
            self.announce("the desired path or velocity is given up")
        self._leave()
        self.stack.reset()
        self._enter()
        self.display.show_place()

    def _leave(self) -> None:
        """Close the books of the present robot, before it begins anew."""
        self._reports.finish(self.time)
        self._before, self._steps = self.time, 0
        self._watch.interrupt()

    def push(self, x: float, y: float) -> None:
        """Change the robot's velocity at once [m/s, world x and y]."""
        self.stack.push(np.array([x, y]))

    def steer(self, forward: float, left: float, turn: float) -> VelocityCommand:
        """Let the robot move at a velocity [m/s] and turn rate [rad/s]; returns what it was limited to."""
        return self.stack.steer(forward, left, turn)

    def go_to(self, x: float, y: float) -> None:
        """Let the robot go to a place in the world [m] and stay there; words before that are over.

        Raises:
            UserError: If there is no such place.
        """
        self.stack.go_to(x, y)

    def let_go(self) -> None:
        """Follow no path any more."""
        self.stack.follow(None)

    def change_bundle(self, name: str, seed: int) -> None:
        """Go on with the robot of another bundle, at the start; recordings and screens begin anew with it.

        Raises:
            UserError: If there is no such bundle, it is damaged, or files are being written; the present one stays.
        """
        assert self._outside.load is not None, "this session was made without a way to load bundles"
        if self._outside.record is not None or self.display.films:
            raise UserError(ONE_ROBOT)
        stack = self._outside.load(name, seed)
        self._leave()
        speed, paused = self.display.speed, self.display.paused
        self.display.close()
        self.stack.hearing.close()
        self.stack = stack
        self._begin()
        self.display.run_at(speed=speed, paused=paused)

    def save(self, path: Path) -> Path:
        """Write what was recorded so far, and a table beside it.

        Returns:
            Name of the table.

        Raises:
            OSError: On a full or read-only disk.
        """
        assert self._recording is not None, "this session was made without a recording"
        return self._recording.save(path)

    def save_meanwhile(self, path: Path) -> None:
        """Begin to do what :meth:`save` does while the simulation goes on; :meth:`tell_saved` tells what came of it.

        Raises:
            UserError: If the one before is being written still.
        """
        assert self._recording is not None, "this session was made without a recording"
        self._saving.begin(self._recording, path)

    def tell_saved(self, *, wait: bool = False) -> None:
        """Announce that what was to be saved meanwhile is written, or why it is not; nothing if it is not done yet.

        Args:
            wait: Whether to wait for it.
        """
        if outcome := self._saving.outcome(wait=wait):
            self.announce(outcome)

    def close(self) -> None:
        """Finish films, viewers, the recording and threads; each of them, even if one fails."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as closing:
            closing.callback(self.stack.hearing.close)
            closing.callback(self.display.close)
            if self._outside.record is not None:
                closing.callback(self.save, self._outside.record)
            closing.callback(self.tell_saved, wait=True)

    @property
    def reports(self) -> tuple[CommandReport, ...]:
        """What happened under each command so far; ends the present one's report."""
        return self._reports.finish(self.time)

    def summary(self) -> dict[str, Value]:
        """Return the keys that outside programs rely on, and more: see ``motionlex simulate --json``.

        ``real_time_factor`` counts control steps, what they waited for segments, and pictures only while a segment is
        decided: without them it would have been waited for.
        """
        moved = self._last[:2] - self._origin[:2]
        seconds = self.time - self._start
        return {
            "fell": self.fell,
            "seconds": seconds,
            "real_time_factor": seconds / self.wall_s if self.wall_s > 0 else None,
            "distance_m": float(np.hypot(*moved)),
            "heading_change_deg": float(np.rad2deg(self.turned)),
            "commands": [asdict(report) for report in self.reports],
            "events": [asdict(event) for event in self.events],
            **asdict(self._watch.errors(self.stack.hz)),
        }
