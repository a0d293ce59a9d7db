"""Inspect, validate and convert motion files; writes LocoMuJoCo npz."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from motionlex.data.clip import MotionClip
from motionlex.data.datasets import FASTEST_HZ, load_dataset
from motionlex.data.errors import check_number
from motionlex.data.inspection import check_valid_stretches, read_motion_file, report_clip, write_converted
from motionlex.data.procedural.dynamics import InverseDynamics
from motionlex.data.robots import get_robot
from motionlex.scripts.common import JsonValue, run_cli


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Inspect a data set or single motion files, check them against the robot, convert them."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Motion files (.csv with LAFAN1 columns, .npz of LocoMuJoCo); without any, the data set is taken."""
    data: str = "builtin"
    """Data set: builtin, lafan1 or loco_mujoco."""
    data_root: Path | None = None
    """Folder of the data set; default: its environment variable."""
    hz: float = 50.0
    """Rate [Hz] to which everything is resampled (LocoMuJoCo controls at 100)."""
    check: bool = False
    """Also check floor contact, balance and motor torques (about a second per minute of motion)."""
    out: Path | None = None
    """New folder for one npz per clip; LocoMuJoCo wants it at Lafan1/mocap/UnitreeH1 below its converted data sets."""
    json: bool = False
    """Print one JSON object as the last line."""


def prepare(config: PrepareConfig) -> Mapping[str, JsonValue]:
    """Read, report, check and convert."""
    check_number("--hz", config.hz, above=0, at_most=FASTEST_HZ)
    robot = get_robot("h1")
    clips = list(_clips(config))
    dynamics = InverseDynamics(robot) if config.check else None
    rows: list[dict[str, JsonValue]] = []
    start = time.perf_counter()
    for number, (split, clip) in enumerate(clips, 1):
        row: dict[str, JsonValue] = {"split": split, **asdict(report_clip(clip, robot))}
        if dynamics is not None:
            row["feasibility"] = check_valid_stretches(clip, dynamics)
            left = (time.perf_counter() - start) / number * (len(clips) - number)
            print(f"\rchecked {number}/{len(clips)}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
        rows.append(row)
    if dynamics is not None:
        print(file=sys.stderr)
    written = write_converted(config.out, [clip for _, clip in clips], robot) if config.out else []
    if not config.json:
        _print_clips(rows)
    labels = sorted({str(label) for _, clip in clips for label in {s.label for s in clip.labels}})
    return {
        "clips": rows if config.json else len(rows),
        "seconds": sum(clip.duration_s for _, clip in clips),
        "hz": config.hz,
        "labels": labels,
        "train_clips": sum(split == "train" for split, _ in clips),
        "validation_clips": sum(split == "validation" for split, _ in clips),
        "masked_stretches": sum(len(report["masked_s"]) for report in rows),  # type: ignore[arg-type]
        "written": [str(path) for path in written],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_cli(PrepareConfig, prepare, argv, "motionlex prepare-motions")


def _clips(config: PrepareConfig) -> Iterator[tuple[str, MotionClip]]:
    if config.files:
        for path in config.files:
            for clip in read_motion_file(path):
                yield "file", clip.resample(config.hz)
        return
    data = load_dataset(config.data, config.data_root, hz=config.hz)
    for split, clips in (("train", data.train), ("validation", data.validation)):
        for clip in clips:
            yield split, clip


def _print_clips(rows: Sequence[Mapping[str, JsonValue]]) -> None:
    """Print one line per clip for people."""
    width = max(len(str(row["name"])) for row in rows)
    print(f"{'clip':<{width}}  split       seconds  distance_m  masked  range_excess_rad  labels")
    for row in rows:
        print(
            f"{row['name']:<{width}}  {row['split']:<10} {row['seconds']:>8.1f} {row['distance_m']:>11.1f}"
            f" {len(row['masked_s']):>7} {row['range_excess_rad']:>+8.3f} {row['range_excess_joint']:<16}"  # type: ignore
            f"  {', '.join(row['labels'])}"  # type: ignore[arg-type]
        )
        checks = row.get("feasibility")
        if isinstance(checks, Mapping):
            found = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in checks.items())
            print(f"{'':<{width}}  {', '.join(found)}")


if __name__ == "__main__":
    sys.exit(main())
