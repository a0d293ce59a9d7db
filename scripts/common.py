"""What every command shares: flags from a frozen dataclass, one JSON line, one clear error line."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from motionlex.data.errors import UserError
from motionlex.data.storage import finite

Config = TypeVar("Config")
JsonValue = str | int | float | bool | None | Sequence[object] | Mapping[str, object]
EXIT_USER_ERROR = 2
_LONGEST_LINE = 800
_NEXT_STEPS = {
    errno.ENOSPC: "; free some space or choose another folder",
    errno.EDQUOT: "; free some space or choose another folder",
    errno.EROFS: "; choose another folder",
    errno.EACCES: "; choose a folder that you may write to",
}
_TITLES = ("Value error", "Unrecognized options", "Invalid choice", "Required options", "Missing argument")
_TITLES += ("Missing subcommand",)
_BAD_VALUE = re.compile(r"Error parsing (\S+?): no type matching (\S+) .*?from \[(.*?)\].*")


def run_cli(
    config_class: type[Config],
    function: Callable[[Config], Mapping[str, JsonValue]],
    argv: Sequence[str] | None,
    prog: str,
) -> int:
    """Parse the flags, run the command and print its result.

    Args:
        config_class: Frozen dataclass of the command's flags; its field ``json``, if it has one, asks for one
            JSON object as the last line of stdout.
        function: The command; returns the result by JSON key.
        argv: Arguments after the command's name; None reads ``sys.argv``.
        prog: Name shown in ``--help``.

    Returns:
        Exit code: 0, or 2 for a user's mistake (bad flag, bad input, full or read-only disk).
    """
    start_logging()
    _limit_threads()
    try:
        config = parse_flags(config_class, argv, prog)
        result = function(config)
    except UserError as error:
        return _fail(prog, str(error))
    except OSError as error:
        hint = _NEXT_STEPS.get(error.errno or 0, "")
        return _fail(prog, f"{error.strerror or error}: {error.filename or 'no file name given'}{hint}")
    except MemoryError as error:
        return _fail(prog, f"not enough memory: {error}; ask for less (rate, batch, robots, clips)")
    except SystemExit as error:  # --help, or a mistake that the parser found
        return EXIT_USER_ERROR if error.code else 0
    except KeyboardInterrupt:
        return _fail(prog, "stopped by the user; a run continues with --resume")
    try:
        if getattr(config, "json", False):
            print(json.dumps(finite(result), allow_nan=False))
        else:
            print_table(result)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, e.g. `| head`; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Stderr(logging.Handler):
    """Writes to what is standard error now: who calls commands as functions may exchange it between two of them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads any more, or it was closed
            self.handleError(record)


def start_logging() -> None:
    """Send progress lines to stderr, without the chatter of libraries."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Stderr()])
    for chatty in ("httpx", "OpenGL", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def parse_flags(config_class: type[Config], argv: Sequence[str] | None, prog: str) -> Config:
    """Read the flags of a command.

    Raises:
        UserError: On unknown, missing or malformed flags, in one line instead of tyro's box.
        SystemExit: After ``--help``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config = tyro.cli(config_class, args=arguments, prog=prog, description=config_class.__doc__)
    except SystemExit as error:
        if not error.code:
            raise
        raise UserError(one_line(said.getvalue(), prog)) from None
    for flag, value in itertools.pairwise(arguments):
        name = flag.removeprefix("--").replace("-", "_")
        if value == "" and flag.startswith("--") and isinstance(getattr(config, name, None), Path):
            raise UserError(f"{flag} is empty: give a path, or leave it out")
    return config


def one_line(box: str, prog: str) -> str:
    """Turn tyro's boxed message into one line: what is wrong, the nearest flag, where to look."""
    lines = [line.strip(" │|") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    rule = re.compile(r"[─╭╰]|[+-]{3,}")
    parts: list[list[str]] = [[]]
    for line in lines:
        if rule.match(line):
            title = re.sub(r"[─╭╮╰╯+-]+", " ", line).strip()
            parts += [] if title else [[]]
        elif line:
            parts[-1].append(line)
    texts = [" ".join(part) for part in parts if part]
    texts = [text for text in texts if text not in _TITLES and not text.startswith(("For full", "Argument helptext"))]
    message = "; ".join(texts) or "the flags could not be read"
    message = _BAD_VALUE.sub(r"\1: wanted \2, got \3", message)
    message = re.sub(r"Perhaps you meant: (-\S+).*", r"did you mean \1?", message)
    return f"{message.rstrip('.;')} ({prog} --help lists the flags)"


def print_table(result: Mapping[str, JsonValue]) -> None:
    """Print a result for people: one aligned line per key, nested values indented as JSON."""
    width = max((len(key) for key in result), default=0)
    for key, value in result.items():
        text = f"{value:.6g}" if isinstance(value, float) else value
        if isinstance(value, (list, tuple, Mapping)):
            text = json.dumps(finite(value), indent=2)
        print(f"{key:<{width}}  {text}")


def _limit_threads() -> None:
    """Honour OMP_NUM_THREADS for torch, whose own default ignores a value set after its libraries loaded."""
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads.isdigit() and int(threads) > 0 and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))


def _fail(prog: str, message: str) -> int:
    line = " ".join(message.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[:_LONGEST_LINE]} ..."
    print(f"{prog}: error: {line}", file=sys.stderr)
    return EXIT_USER_ERROR
