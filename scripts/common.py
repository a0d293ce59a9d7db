"""What every command shares: flags from a frozen dataclass, one JSON line, one clear error line."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import tyro

from motionlex.data.errors import UserError

Config = TypeVar("Config")
JsonValue = str | int | float | bool | None | Sequence[object] | Mapping[str, object]
EXIT_USER_ERROR = 2


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
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _limit_threads()
    try:
        config = tyro.cli(config_class, args=argv, prog=prog, description=config_class.__doc__)
        result = function(config)
    except UserError as error:
        return _fail(prog, str(error))
    except OSError as error:
        return _fail(prog, f"{error.strerror or error}: {error.filename or 'no file name given'}")
    except KeyboardInterrupt:
        return _fail(prog, "stopped by the user; a run continues with --resume")
    if getattr(config, "json", False):
        print(json.dumps(finite(result), allow_nan=False), flush=True)
    else:
        print_table(result)
    return 0


def finite(value: object) -> object:
    """Replace numbers that JSON cannot carry (NaN, infinities) by null, at any depth."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_USER_ERROR
