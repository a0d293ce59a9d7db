"""Ctrl-C that waits for the end of a training step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def postponed_interrupt(*, enabled: bool = True) -> Iterator[threading.Event]:
    """Note the first SIGINT instead of raising KeyboardInterrupt; a second one acts at once, as ever.

    Only the main thread can do so, and only where Python's own handler is in place: whoever ignores the signal or
    handles it otherwise keeps that.

    Args:
        enabled: False leaves the signal alone.

    Yields:
        Set once the signal has come.
    """
    asked = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if not (enabled and main and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
