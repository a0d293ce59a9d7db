"""Compare evaluated runs of train_motion_vae (a table over seeds), or runs of train_lowlevel (learning curves)."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from motionlex.controllers.low_level_policy import POLICY_FILE
from motionlex.data.errors import UserError
from motionlex.data.storage import write_json
from motionlex.motion_vae.checkpoint import CONFIG_FILE
from motionlex.motion_vae.comparison import NAME, CompareFlags, compare, markdown
from motionlex.scripts.common import JsonValue, run_cli


@dataclass(frozen=True, kw_only=True)
class Flags(CompareFlags):
    """Compare evaluated runs: seeds of one configuration become one row. Low-level runs: their learning curves."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders, e.g. runs/*."""


def run_compare(flags: Flags) -> dict[str, JsonValue]:
    """Compare, and show the table to people."""
    if low_level := [run for run in flags.runs if (run / POLICY_FILE).is_file()]:
        return compare_courses(low_level, flags)
    result = compare(flags.runs, flags)
    if flags.json:
        return result
    print(markdown(result))
    return {"files": result["files"]}


def compare_courses(runs: Sequence[Path], flags: Flags) -> dict[str, JsonValue]:
    """Draw the learning curves of low-level runs into one picture.

    Raises:
        UserError: If other runs are among them, or none has logs.
    """
    others = [run for run in flags.runs if run not in runs and (run / CONFIG_FILE).is_file()]
    if others:
        raise UserError(f"{others[0]} is no run of train_lowlevel, {runs[0]} is one: give runs of one kind")
    from motionlex.controllers.low_level_figures import draw_curves  # matplotlib is slow to import

    drawn = draw_curves(runs, flags.out / f"{NAME}.png")
    if drawn is None:
        raise UserError(f"{runs[0]} has no logs of training to compare: give run folders of train_lowlevel")
    note = flags.out / f"{NAME}.json"  # tells the next comparison of runs/* that this folder is no run
    result: dict[str, JsonValue] = {"runs": [str(run) for run in runs], "files": [str(note), str(drawn)]}
    write_json(note, result)
    return result if flags.json else {"files": result["files"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_cli(Flags, run_compare, argv, "motionlex compare")


if __name__ == "__main__":
    sys.exit(main())
