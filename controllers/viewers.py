"""Viewers of a session: the page in the browser with its wishes, and MuJoCo's window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from motionlex.controllers.com_path import VelocityCommand
from motionlex.controllers.console import describe, describe_steering
from motionlex.controllers.web_requests import CAPACITY, FASTEST, Go, Pause, Push, Request, Reset, Say, Speed, Steer
from motionlex.controllers.web_session import WebSession
from motionlex.data.errors import UserError
from motionlex.envs.steering import LET_GO, WINDOW_KEYS, Velocity, pressed
from motionlex.envs.viewer import NativeViewer

if TYPE_CHECKING:
    from motionlex.controllers.session import Session
    from motionlex.controllers.stack import Stack
    from motionlex.controllers.stack_state import State


class WebPage:
    """The page. What is typed there is words for the robot, never a colon command."""

    def __init__(self, stack: Stack, *, host: str, port: int) -> None:
        """Open the page.

        Args:
            stack: What to show.
            host: Address to serve at.
            port: Port to serve at; the next free one is taken if it is in use.

        Raises:
            UserError: If the address is not ours or no port is free.
        """
        self._web = WebSession(stack, host=host, port=port)
        self.url = self._web.url
        """Address to open in a browser."""
        self._waiting: deque[Request] = deque()
        self._limited = ""

    def draw(self, state: State | None) -> None:
        """Show what a control step led to, or the robot where it was put (None)."""
        self._web.draw(state)

    def tell(self, text: str) -> None:
        """Show words above the older ones."""
        self._web.tell(text)

    def show_controls(self, *, paused: bool, speed: float) -> None:
        """Show how time runs; the page's slider ends at some speed, and at its beginning the robot stands still."""
        self._web.show_controls(paused=paused, speed=min(speed, FASTEST) if speed > 0.0 else FASTEST)

    def obey(self, session: Session) -> None:
        """Do what was asked for on the page, in order; from words on that are still being embedded, another time."""
        if not self._waiting:
            self._waiting.extend(self._web.requests.take())
        while self._waiting:
            request = self._waiting[0]
            if isinstance(request, Say) and not session.ready(request.text):
                break
            self._waiting.popleft()
            try:
                self._obey(request, session)
            except UserError as error:
                self.tell(str(error))
        if session.display.paused:
            self._web.show_wishes()

    def _obey(self, request: Request, session: Session) -> None:
        if isinstance(request, Say):
            given = session.command(request.text)
            session.announce(describe(given, session.time, session.stack))
        elif isinstance(request, Push):
            heading = session.stack.heading
            cosine, sine = np.cos(heading), np.sin(heading)
            forward, left = request.forward, request.left
            session.push(float(cosine * forward - sine * left), float(sine * forward + cosine * left))
            session.announce(f"pushed by {forward:g} m/s forward, {left:g} m/s to the left")
        elif isinstance(request, Reset):
            session.reset()
            self._web.draw(None)
            session.announce("the robot stands where it began")
        elif isinstance(request, Steer):
            if request.velocity is not None:
                self._limited = steer(session, request.velocity, self._limited, self.tell)
            elif isinstance(session.stack.path, VelocityCommand):  # whose box is cleared lets go of nothing else
                session.let_go()
        elif isinstance(request, Go):
            if request.xy is not None:
                session.go_to(*request.xy)
                session.announce(f"goes to ({request.xy[0]:.1f}, {request.xy[1]:.1f}) m")
            elif session.stack.goal is not None:
                session.let_go()
        elif isinstance(request, Pause):
            session.display.run_at(paused=request.paused)
        elif isinstance(request, Speed):  # where the page's slider says 0, the robot stands still
            session.display.run_at(speed=request.factor or None, paused=request.factor == 0.0)

    def close(self) -> None:
        """Stop serving the page."""
        self._web.close()


def steer(session: Session, velocity: Velocity, limited: str, tell: Callable[[str], None]) -> str:
    """Let the robot move at a velocity, and say once how it was limited; returns what was said last.

    Args:
        session: Whose robot.
        velocity: Forward, to the left [m/s], turn [rad/s].
        limited: What was said last, since sliders ask many times a second.
        tell: Told of limits.
    """
    got = session.steer(*velocity)
    words = describe_steering(got, velocity) if got.numbers != velocity else ""
    if words and words != limited:
        tell(words)
    return words


class Window:
    """MuJoCo's own window: to look at, and to steer by the arrow keys."""

    def __init__(self, stack: Stack) -> None:
        """Open the window.

        Raises:
            UserError: If there is no display.
        """
        self._keys: deque[int] = deque(maxlen=CAPACITY)  # the window calls from a thread of its own
        self._limited = ""
        self._window = NativeViewer(stack.tracker.simulator, self._keys.append)

    def draw(self, state: State | None) -> None:
        """Draw the present state."""
        self._window.show()

    def tell(self, text: str) -> None:
        """Do nothing: the terminal tells."""

    def show_controls(self, *, paused: bool, speed: float) -> None:
        """Do nothing: there are none."""

    def obey(self, session: Session) -> None:
        """Steer as the keys say: arrows walk and turn, home and end step aside, insert lets go; closing it leaves."""
        session.display.abandoned |= self._window.closed
        while self._keys:
            name = WINDOW_KEYS.get(self._keys.popleft())
            path = session.stack.path
            if name == LET_GO:
                session.let_go()
            elif name is not None:
                before = path.numbers if isinstance(path, VelocityCommand) else (0.0, 0.0, 0.0)
                self._limited = steer(session, pressed(before, name), self._limited, session.announce)

    def close(self) -> None:
        """Close the window."""
        self._window.close()
