"""Compare evaluated runs of train_motion_vae: one row per configuration, mean and interval over seeds."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from motionlex.motion_vae.comparison import CompareFlags, compare, markdown
from motionlex.scripts.common import JsonValue, run_cli


@dataclass(frozen=True, kw_only=True)
class Flags(CompareFlags):
    """Compare evaluated runs: seeds of one configuration become one row."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders, e.g. runs/*."""


def run_compare(flags: Flags) -> dict[str, JsonValue]:
    """Compare, and show the table to people."""
    result = compare(flags.runs, flags)
    if flags.json:
        return result
    print(markdown(result))
    return {"files": result["files"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_cli(Flags, run_compare, argv, "motionlex compare")


if __name__ == "__main__":
    sys.exit(main())
