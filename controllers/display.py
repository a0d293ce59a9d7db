"""What looks at a session: films see every control step, people watch in their time and ask for things."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from motionlex.controllers.session import Session
    from motionlex.controllers.stack_state import State


@runtime_checkable
class Screen(Protocol):
    """Something that is shown every control step."""

    def show(self) -> None:
        """Show the present state."""

    def close(self) -> None:
        """Finish."""


@runtime_checkable
class Viewer(Protocol):
    """Something that people watch, and through which they may ask for things."""

    def draw(self, state: State | None) -> None:
        """Show what a control step led to, or the robot where it was put (None); returns at once."""

    def tell(self, text: str) -> None:
        """Show words, where there is a place for them."""

    def show_controls(self, *, paused: bool, speed: float) -> None:
        """Show how time runs."""

    def obey(self, session: Session) -> None:
        """Do to the session what was asked for since the last call."""

    def close(self) -> None:
        """Finish."""


class Display:
    """Films and viewers of one robot, and the time of those who watch."""

    def __init__(self, films: tuple[Screen, ...] = (), viewers: tuple[Viewer, ...] = ()) -> None:
        """Begin with screens that are open.

        Args:
            films: They see every control step, as fast as the steps come.
            viewers: They see the robot in their time.
        """
        self.films, self.viewers = films, viewers
        self.speed = 1.0
        """Simulated seconds per real second for viewers; 0 is as fast as possible."""
        self.paused = False
        """Whether time stands still for those who watch."""
        self.abandoned = False
        """Whether somebody closed what they watched in, as one does who has seen enough."""
        self._due = time.perf_counter()

    @property
    def in_real_time(self) -> bool:
        """Whether time runs no faster for those who watch than it does: then it waits for no machine that is late."""
        return bool(self.viewers) and 0.0 < self.speed <= 1.0

    def run_at(self, *, speed: float | None = None, paused: bool | None = None) -> None:
        """Change how time runs.

        Args:
            speed: Factor of real time; None leaves it.
            paused: Whether it stands still; None leaves it.
        """
        self.speed = self.speed if speed is None else speed
        self.paused = self.paused if paused is None else paused
        for viewer in self.viewers:
            viewer.show_controls(paused=self.paused, speed=self.speed)

    def draw(self, state: State) -> None:
        """Show what a control step led to."""
        for film in self.films:
            film.show()
        for viewer in self.viewers:
            viewer.draw(state)

    def show_place(self) -> None:
        """Show those who watch where the robot was put, since that may be for long if time stands still."""
        for viewer in self.viewers:
            viewer.draw(None)

    def pace(self, period_s: float) -> None:
        """Wait until a control step is over for those who watch; time that was lost is not caught up with.

        Args:
            period_s: Simulated time of a control step [s].
        """
        if not self.viewers:
            return
        now = time.perf_counter()
        self._due = max(self._due + (period_s / self.speed if self.speed > 0 else 0.0), now)
        time.sleep(max(0.0, self._due - now))

    def tell(self, text: str) -> None:
        """Show words to those who watch."""
        for viewer in self.viewers:
            viewer.tell(text)

    def obey(self, session: Session) -> None:
        """Do to the session what those who watch asked for."""
        for viewer in self.viewers:
            viewer.obey(session)

    def close(self) -> None:
        """Finish everything, even if one of them fails."""
        with ExitStack() as closing:
            for screen in (*self.films, *self.viewers):
                closing.callback(screen.close)
        self.films, self.viewers = (), ()
