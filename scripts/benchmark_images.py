"""Repeat an image experiment of the papers: one table and its figures, from resumable jobs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from motionlex.data.errors import UserError
from motionlex.motion_vae.images.benchmark import ImageBenchmarkFlags, run_experiment
from motionlex.motion_vae.images.experiments import available_experiments
from motionlex.scripts.common import JsonValue, run_cli


@dataclass(frozen=True, kw_only=True)
class Flags(ImageBenchmarkFlags):
    """Repeat an image experiment of the papers: its jobs one after the other, then a table and figures."""

    experiment: tyro.conf.Positional[str] = ""
    """Name of an experiment; without one, all are listed."""


def run_benchmark(flags: Flags) -> dict[str, JsonValue]:
    """Run, and show the table to people."""
    if not flags.experiment:
        listed = "; ".join(f"{name}: {summary}" for name, summary in available_experiments().items())
        raise UserError(f"no experiment given. Available: {listed}")
    result = run_experiment(flags.experiment, flags)
    text = result.pop("markdown", None)
    if flags.json:
        return result
    if flags.jobs_list:
        return {job["name"]: "finished" if job["finished"] else "to do" for job in result["jobs"]}
    if text is not None:
        print(text)
    return {name: result[name] for name in ("out", "left", "files")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_cli(Flags, run_benchmark, argv, "motionlex benchmark-images")


if __name__ == "__main__":
    sys.exit(main())
