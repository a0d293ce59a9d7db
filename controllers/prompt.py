"""The terminal's prompt: history and suggestions by readline where Python has it, plain input elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from motionlex.controllers.instructions import suggestions

try:
    import readline
except ImportError:  # Windows, and some minimal builds
    readline: ModuleType | None = None

PROMPT = "command> "
LONGEST_HISTORY = 1000
"""Lines that are remembered."""


def history_file(environment: Mapping[str, str]) -> Path | None:
    """Return where typed lines are kept: ``$XDG_STATE_HOME/motionlex/history``, else below ``~/.local/state``.

    Args:
        environment: Environment variables.

    Returns:
        The file, or None where there is no home.
    """
    state = environment.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the XDG specification has relative ones ignored
        return Path(state) / "motionlex" / "history"
    try:
        return Path.home() / ".local" / "state" / "motionlex" / "history"
    except RuntimeError:
        return None


class Prompt:
    """Asks for lines."""

    def __init__(self, sentences: Callable[[], Sequence[str]], history: Path | None) -> None:
        """Bind the tab key and read what was typed in earlier sessions; whatever fails is left out silently.

        Args:
            sentences: What the robot knows, for suggestions.
            history: File of typed lines; None keeps none.
        """
        self._sentences, self._history = sentences, history
        self._asking = threading.Event()
        if readline is None:
            return
        self._before = readline.get_completer(), readline.get_completer_delims()
        readline.set_completer(self.complete)
        readline.set_completer_delims("\n")  # whole lines are completed, not words
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
        readline.set_history_length(LONGEST_HISTORY)
        if history is not None:
            with suppress(OSError):
                readline.read_history_file(history)

    def complete(self, text: str, number: int) -> str | None:
        """Return one of the ways in which a text could go on, as readline asks for them."""
        found = suggestions(text, self._sentences())
        return found[number] if number < len(found) else None

    def ask(self) -> str | None:
        """Return the next line, or None when there is none (Ctrl-D, Ctrl-C)."""
        while True:
            self._asking.set()
            try:
                return input(PROMPT)
            except UnicodeDecodeError:
                print("that was not UTF-8 text; type it again")
            except (EOFError, KeyboardInterrupt):
                print()
                return None
            finally:
                self._asking.clear()

    def say(self, text: str) -> None:
        """Print a line; above the prompt, if one is being asked for."""
        if not self._asking.is_set():
            print(text, flush=True)
            return
        typed = "" if readline is None else readline.get_line_buffer()
        erase = "\r\x1b[K" if sys.stdout.isatty() else "\n"
        print(f"{erase}{text}\n{PROMPT}{typed}", end="", flush=True)

    def close(self) -> None:
        """Remember what was typed, if it can be."""
        if readline is None:
            return
        completer, delimiters = self._before
        readline.set_completer(completer)
        readline.set_completer_delims(delimiters)
        if self._history is not None:
            with suppress(OSError):
                self._history.parent.mkdir(parents=True, exist_ok=True)
                readline.write_history_file(self._history)
