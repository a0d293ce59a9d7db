"""Who tells a session what to do: a script, or somebody at a prompt, with or without time that runs by itself."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from motionlex.controllers.console import Console
from motionlex.controllers.instructions import Instruction
from motionlex.controllers.live import Live, wake_terminal
from motionlex.controllers.prompt import Prompt, history_file
from motionlex.controllers.session import Session
from motionlex.data.errors import UserError

logger = logging.getLogger(__name__)
GREETING = 'Say what the robot should do, e.g. "walk forward" or "wave:3". Tab suggests, :help explains, :quit leaves.'
NewSession = Callable[[Callable[[str], None]], Session]
"""Makes a session that tells a function what happens by itself; to be called on the thread that will run it."""


def run_script(console: Console, instructions: Sequence[Instruction]) -> None:
    """Obey instructions one after the other and finish the session's files, also after Ctrl-C or SIGTERM.

    Closing MuJoCo's window ends them.

    Raises:
        UserError: If one cannot be obeyed, or the user stops.
    """
    session = console.session
    try:
        with _terminated_like_interrupted():
            for instruction in instructions:
                answer = console.obey(instruction)
                if session.display.abandoned:
                    logger.info("the window was closed after %.2f s of simulation", session.time)
                if answer.leave or session.display.abandoned:
                    return
                session.announce(answer.text)
    except KeyboardInterrupt:
        raise UserError(f"stopped by the user after {session.time:.2f} s of simulation") from None
    finally:
        session.close()


def ask(seconds: float | None, seed: int, new_session: NewSession) -> Session:
    """Ask in the terminal; words are obeyed for their seconds before the next question.

    Args:
        seconds: Duration of words without one of their own [s]; None means 5.
        seed: Seed of bundles that are loaded later.
        new_session: Makes the session.

    Returns:
        The finished session.
    """
    session = new_session(print)
    console = Console(session, seconds=seconds, seed=seed)
    try:
        with _terminated_like_interrupted(), _prompt(lambda: console.sentences) as prompt:
            while (line := prompt.ask()) is not None:
                answer = console.handle(line)
                if answer.text:
                    print(answer.text)
                if answer.leave:
                    break
    except KeyboardInterrupt:
        print("stopped")
    finally:
        session.close()
    return session


def ask_live(seed: int, new_session: NewSession) -> Session:
    """Ask in the terminal while time runs by itself; without a terminal, only viewers ask, until Ctrl-C or SIGTERM.

    Closing MuJoCo's window ends it too.

    Args:
        seed: Seed of bundles that are loaded later.
        new_session: Makes the session, on the thread that runs it.

    Returns:
        The finished session.
    """
    speaker: list[Callable[[str], None]] = [logger.info]
    asked = sys.stdin is not None and sys.stdin.isatty()
    live = Live(
        lambda: Console(new_session(lambda text: speaker[0](text)), live=True, seed=seed),
        on_end=wake_terminal if asked else lambda: None,
    )
    with _terminated_like_interrupted():
        console = live.start()
        try:
            if asked:
                with _prompt(lambda: console.sentences) as prompt:
                    speaker[0] = prompt.say
                    _pass_on(prompt, live)
            else:
                live.wait()
        except KeyboardInterrupt:
            logger.info("stopped")
        finally:
            speaker[0] = logger.info
            live.stop()
    return console.session


def _pass_on(prompt: Prompt, live: Live) -> None:
    """Hand lines to a session that runs by itself, until one of the two ends."""
    while (line := prompt.ask()) is not None:
        answer = live.submit(line).result()
        if answer.text:
            print(answer.text)
        if answer.leave:
            return


@contextmanager
def _prompt(sentences: Callable[[], Sequence[str]]) -> Iterator[Prompt]:
    """Greet, and remember what was typed in the end."""
    prompt = Prompt(sentences, history_file(os.environ))
    print(GREETING)
    try:
        yield prompt
    finally:
        prompt.close()


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a lost terminal, end the simulation as Ctrl-C does: files are finished."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
