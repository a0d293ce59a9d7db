"""Ctrl-C, and the SIGTERM by which clusters take a machine back, that wait for the end of a training step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_OWN = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""What handles a signal where nobody has changed it."""


@contextlib.contextmanager
def postponed_interrupt(*, enabled: bool = True, launched: bool = False) -> Iterator[threading.Event]:
    """Note the first SIGINT or SIGTERM instead of ending at once; a second SIGINT acts at once, as ever.

    SIGTERM is noted however often it comes: launchers send it twice, and whoever insists sends SIGKILL.

    Only the main thread can do so, and only where Python's own handler is in place: whoever ignores a signal or
    handles it otherwise keeps that.

    Args:
        enabled: False leaves the signals alone.
        launched: Whether this is one of several processes: their launcher passes on a SIGINT that the terminal has sent
            to them already, so that a second one says nothing new and is noted, too.

    Yields:
        Set once a signal has come.
    """
    asked = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number, own in _OWN.items() if enabled and main and signal.getsignal(number) is own]

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not launched:
            signal.signal(number, _OWN[number])
        asked.set()

    for number in ours:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in ours:
            signal.signal(number, _OWN[number])
