"""What people ask for in the browser, until the simulation's own thread takes it up.

The web server calls from many threads; the simulation takes everything that has come in between two control steps. What
is typed is a text to the encoder and nothing else: never executed, never a path.
"""

from __future__ import annotations

import math
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from motionlex.controllers.instructions import SLOWEST
from motionlex.data.errors import UserError

LONGEST_PROMPT = 300
"""Characters of a prompt from the browser."""
FASTEST = 2.0
"""Largest factor of real time."""
HARDEST_PUSH = 1.0
"""Largest change of velocity by a push in either direction [m/s]."""
CAPACITY = 64
"""Requests that wait at most."""


@dataclass(frozen=True, kw_only=True)
class Say:
    """Obey a text."""

    text: str
    """Cleaned prompt."""
    client: int
    """Browser it came from."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """Change the robot's velocity at once."""

    forward: float
    """Change forward [m/s]."""
    left: float
    """Change to the left [m/s]."""


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Begin anew."""


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Stand still, or go on."""

    paused: bool
    """Which of the two."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Run at a factor of real time."""

    factor: float
    """Simulated seconds per real second; 0 stands still."""


@dataclass(frozen=True, kw_only=True)
class Steer:
    """Move at a velocity while obeying the words."""

    velocity: tuple[float, float, float] | None
    """Forward, to the left [m/s], turn to the left [rad/s]; None follows nothing."""


@dataclass(frozen=True, kw_only=True)
class Go:
    """Go to a place."""

    xy: tuple[float, float] | None
    """The place in the world [m]; None goes nowhere."""


Request = Say | Push | Reset | Pause | Speed | Steer | Go


def clean_prompt(text: str) -> str:
    """Return a prompt without control characters and with single spaces.

    Args:
        text: What was typed.

    Raises:
        UserError: If it is too long, or nothing is left.
    """
    if len(text) > LONGEST_PROMPT:
        raise UserError(f"a prompt has at most {LONGEST_PROMPT} characters, got {len(text)}")
    visible = (character for character in " ".join(text.split()) if unicodedata.category(character)[0] != "C")
    words = " ".join("".join(visible).split())
    if not words:
        raise UserError('the prompt is empty: say what the robot should do, e.g. "walk forward"')
    return words


class RateLimit:
    """So many requests in a minute, and so much time between two of the same browser."""

    def __init__(
        self, *, gap_s: float = 0.25, per_minute: int = 200, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with an empty minute.

        Args:
            gap_s: Shortest time between two requests of one browser [s].
            per_minute: Requests of all browsers within any 60 s.
            clock: Time [s].
        """
        self._gap, self._per_minute, self._clock = gap_s, per_minute, clock
        self._times: deque[float] = deque()
        self._last: dict[int, float] = {}

    def refusal(self, client: int) -> str | None:
        """Count a request, or return why it is one too many (it does not count then)."""
        now = self._clock()
        while self._times and self._times[0] <= now - 60.0:
            self._times.popleft()
        self._last = {known: last for known, last in self._last.items() if last > now - self._gap}
        if client in self._last:
            return f"one request in {self._gap:g} s, please: this one came too soon"
        if len(self._times) >= self._per_minute:
            return f"more than {self._per_minute} requests in a minute: try again soon"
        self._times.append(now)
        self._last[client] = now
        return None


class Requests:
    """A queue from any threads (:class:`motionlex.envs.web_panel.Listener`) to the simulation's one."""

    def __init__(self, limit: RateLimit | None = None) -> None:
        """Begin empty.

        Args:
            limit: How often prompts, pushes and resets are taken together; None means the default.
        """
        self._limit = RateLimit() if limit is None else limit
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()

    def say(self, text: str, client: int) -> str | None:
        """Queue a prompt; return why it is refused."""
        try:
            words = clean_prompt(text)
        except UserError as error:
            return str(error)
        return self._put(Say(text=words, client=client), client)

    def push(self, forward: float, left: float, client: int) -> str | None:
        """Queue a push [m/s]; return why it is refused."""
        if not all(math.isfinite(part) and abs(part) <= HARDEST_PUSH for part in (forward, left)):
            return f"a push is at most {HARDEST_PUSH:g} m/s in either direction"
        return self._put(Push(forward=forward, left=left), client)

    def reset(self, client: int) -> str | None:
        """Queue a new beginning; return why it is refused."""
        return self._put(Reset(), client)

    def pause(self, paused: bool) -> None:
        """Queue standing still or going on."""
        self._replace(Pause(paused=paused))

    def speed(self, factor: float) -> None:
        """Queue a factor of real time; brought into its range, ignored if it is no number."""
        if math.isfinite(factor):
            self._replace(Speed(factor=min(max(factor, SLOWEST), FASTEST) if factor > 0.0 else 0.0))

    def steer(self, velocity: tuple[float, float, float] | None) -> None:
        """Queue a velocity, or none; ignored if it is made of anything but numbers."""
        if velocity is None or all(map(math.isfinite, velocity)):
            self._replace(Steer(velocity=velocity))

    def go_to(self, xy: tuple[float, float] | None) -> None:
        """Queue a place, or none; ignored if it is made of anything but numbers."""
        if xy is None or all(map(math.isfinite, xy)):
            self._replace(Go(xy=xy))

    def take(self) -> list[Request]:
        """Return what has come in, in order, and forget it."""
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
        return waiting

    def wait(self, seconds: float) -> bool:
        """Wait until something is there; return whether it is.

        Args:
            seconds: For how long at most [s].
        """
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._waiting), timeout=seconds)

    def _put(self, request: Request, client: int) -> str | None:
        with self._changed:
            if len(self._waiting) >= CAPACITY:
                return "the simulation is busy: try again soon"
            refusal = self._limit.refusal(client)
            if refusal is None:
                self._waiting.append(request)
                self._changed.notify_all()
            return refusal

    def _replace(self, request: Request) -> None:
        """Queue a request that makes earlier ones of its kind pointless: their number is bounded by itself."""
        with self._changed:
            self._waiting = deque(other for other in self._waiting if type(other) is not type(request))
            self._waiting.append(request)
            self._changed.notify_all()


__all__ = [
    "Go", "Pause", "Push", "RateLimit", "Request", "Requests", "Reset", "Say", "Speed", "Steer", "clean_prompt",
]  # fmt: skip
