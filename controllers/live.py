"""Time that runs by itself: a session on a thread of its own, told what to do by the terminal and by viewers."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from motionlex.controllers.console import Answer, Console
from motionlex.controllers.session import PAUSE_S, Session

WAKE_S = 0.5
"""Time between two attempts to wake somebody up [s]: CPython misses signals between a prompt and the wait for a key."""
MOST_WAITING = 64
"""Lines that may wait; more are refused, so that nobody can flood the robot."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    text: str
    trusted: bool
    answer: Future[Answer]


class Live:
    """Runs a session in its viewers' time until it is told to stop, or those who watch leave.

    Control steps go on while words are embedded and recordings are written; what is asked for after words, wherever, is
    done after them.

    Screens are opened, used and closed by the thread (OpenGL contexts belong to one).
    """

    def __init__(self, make: Callable[[], Console], *, on_end: Callable[[], object] = lambda: None) -> None:
        """Prepare; :meth:`start` begins.

        Args:
            make: Makes the console with its session, on the thread.
            on_end: Called on the thread when it ends by itself, by an error or because a window was closed, e.g. to
                wake somebody up; again and again until :meth:`stop`, since one who is woken may not hear it at once.
        """
        self._make, self._on_end = make, on_end
        self._lines: queue.Queue[_Line] = queue.Queue(maxsize=MOST_WAITING)
        self._held: _Line | None = None  # its words are being embedded
        self._stop, self._ended, self._ready = threading.Event(), threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._console: Console | None = None
        self._thread = threading.Thread(target=self._run, name="simulation", daemon=True)

    def start(self) -> Console:
        """Begin, and return the console when the robot stands; its thread alone may use it.

        Raises:
            UserError: If the session could not begin.
            KeyboardInterrupt: If interrupted before it has; it is ended.
        """
        try:
            self._thread.start()
            self._ready.wait()
        except KeyboardInterrupt:
            self.stop()
            raise
        if self._console is None:
            self.stop()
        assert self._console is not None
        return self._console

    def submit(self, line: str, *, trusted: bool = True) -> Future[Answer]:
        """Hand in a line from any thread; its answer comes between two control steps.

        Args:
            line: What was typed.
            trusted: Whether it may name files and leave, see :meth:`Console.handle`.
        """
        waiting = _Line(text=line, trusted=trusted, answer=Future())
        try:
            self._lines.put_nowait(waiting)
        except queue.Full:
            waiting.answer.set_result(Answer(text="too many commands at once", failed=True))
        if self._ended.is_set():
            self._turn_away()
        return waiting.answer

    def wait(self) -> None:
        """Wait until the session ends by itself."""
        while not self._ended.wait(1.0):
            pass

    def stop(self) -> None:
        """End the session, finish its screens, and raise what went wrong on its thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            console = self._make()
            try:
                self._console = console
                self._ready.set()
                while not (self._stop.is_set() or console.session.display.abandoned):
                    self._advance(console)
            finally:
                console.session.close()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
            self._ready.set()
            if self._held is not None:
                self._held.answer.set_result(_too_late())
            self._turn_away()
            while self._console is not None and not self._stop.is_set():  # who waits in start() is told there
                self._on_end()
                self._stop.wait(WAKE_S)

    def _advance(self, console: Console) -> None:
        """Answer what was handed in, then take one control step, or wait if time stands still."""
        session = console.session
        session.tell_saved()
        if self._held is None:
            session.display.obey(session)
        while (line := self._next(session)) is not None:
            self._held = line
            if not console.ready(line.text, trusted=line.trusted):
                break
            self._held = None
            self._answer(console, line)
            if self._stop.is_set():
                return
        if not session.display.paused:
            session.step(waits=not session.display.in_real_time)

    def _next(self, session: Session) -> _Line | None:
        """Return the line to be answered next, if it is its turn."""
        if self._held is not None or session.listening:  # to a viewer
            return self._held
        try:
            return self._lines.get(timeout=PAUSE_S) if session.display.paused else self._lines.get_nowait()
        except queue.Empty:
            return None

    def _answer(self, console: Console, line: _Line) -> None:
        """Obey one line; whoever waits for its answer gets one, whatever happens."""
        answer = _too_late()
        try:
            answer = console.handle(line.text, trusted=line.trusted)
        finally:
            if answer.leave:
                self._stop.set()
            elif answer.text and "\n" not in answer.text:
                console.session.display.tell(answer.text)
            line.answer.set_result(answer)

    def _turn_away(self) -> None:
        """Answer the lines that came too late."""
        while True:
            try:
                late = self._lines.get_nowait()
            except queue.Empty:
                return
            late.answer.set_result(_too_late())


def _too_late() -> Answer:
    return Answer(text="the simulation has ended", leave=True, failed=True)


def wake_terminal() -> None:
    """Interrupt a main thread that waits for a line, as Ctrl-C would."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
