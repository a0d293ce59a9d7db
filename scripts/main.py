"""``motionlex <command>``: looks the command up in scripts/ and hands over."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from importlib.resources import files

from motionlex.data.errors import unknown_name

_NOT_COMMANDS = {"__init__", "main", "common"}


def available_commands() -> dict[str, str]:
    """Return every command with the first line of its module's docstring, without importing it."""
    commands = {}
    for path in sorted(files("motionlex.scripts").iterdir(), key=lambda p: p.name):
        stem = path.name.removesuffix(".py")
        if path.name.endswith(".py") and stem not in _NOT_COMMANDS:
            documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            commands[stem.replace("_", "-")] = documentation.partition("\n")[0]
    return commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Command and its flags; None reads ``sys.argv``.

    Returns:
        Exit code of the command; 2 for an unknown one.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = available_commands()
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: motionlex <command> [flags]    (motionlex <command> --help lists the flags)\n")
        for name, summary in commands.items():
            print(f"  {name:<22}{summary}")
        if arguments:
            return 0
        print("motionlex: error: no command given; choose one of the list, e.g. motionlex simulate", file=sys.stderr)
        return 2
    name = arguments[0].replace("_", "-")
    if name not in commands:
        error = unknown_name("command", arguments[0], commands, "scripts/")
        print(f"motionlex: error: {error}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"motionlex.scripts.{name.replace('-', '_')}")
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
