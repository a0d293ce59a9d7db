"""Inspect, validate, convert and retarget motion files; writes LocoMuJoCo npz."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from motionlex.data.bvh import Up
from motionlex.data.clip import MotionClip
from motionlex.data.compatibility import check_fits
from motionlex.data.datasets import FASTEST_HZ, load_dataset
from motionlex.data.errors import check_number
from motionlex.data.inspection import (
    check_new_folder,
    is_person,
    person_clip,
    person_points,
    read_motion_file,
    report_clip,
    write_converted,
)
from motionlex.data.robots import Robot, get_robot
from motionlex.scripts.common import JsonValue, run_cli


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Inspect a data set or single motion files, check them against the robot, convert them; bring people's onto it."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Motion files (.csv with LAFAN1 columns, .npz of LocoMuJoCo, .bvh of a person, which is retargeted to the robot);
    without any, the data set is taken."""
    data: str = "builtin"
    """Data set: builtin, lafan1 or loco_mujoco."""
    data_root: Path | None = None
    """Folder of the data set; default: its environment variable."""
    hz: float = 50.0
    """Rate [Hz] to which everything is resampled (LocoMuJoCo controls at 100)."""
    check: bool = False
    """Also run the pre-flight of training: limits, torques, floor, balance, starts that are lost at once; gives a
    verdict per clip (about a second per minute of motion)."""
    prepare: bool | None = None
    """Check the motions smoothed and set on the floor, as train_lowlevel --prepare trains on them; None does so where
    training does: for lafan1 and .csv files. What is retargeted always is, and is written so."""
    up: Up = "y"
    """Axis of .bvh files that points up."""
    out: Path | None = None
    """New folder for one npz per clip; LocoMuJoCo wants it at Lafan1/mocap/UnitreeH1 below its converted data sets."""
    json: bool = False
    """Print one JSON object as the last line."""


def prepare(config: PrepareConfig) -> Mapping[str, JsonValue]:
    """Read, report, check and convert."""
    check_number("--hz", config.hz, above=0, at_most=FASTEST_HZ)
    robot = get_robot("h1")
    if config.out is not None:
        check_new_folder(config.out)
    found = list(_clips(config, robot))
    clips = [item.clip for item in found]
    for clip in clips:
        check_fits(clip, robot)
    rows: list[dict[str, JsonValue]] = [
        {"split": item.split, **asdict(report_clip(item.clip, robot))} for item in found
    ]
    verdicts: dict[str, JsonValue] = {}
    if config.check:
        verdicts["verdicts"] = _check(rows, found, config.prepare, robot)
    written = write_converted(config.out, clips, robot) if config.out else []
    if not config.json:
        _print_clips(rows)
    labels = sorted({str(label) for clip in clips for label in {s.label for s in clip.labels}})
    return {
        "clips": rows if config.json else len(rows),
        "seconds": sum(clip.duration_s for clip in clips),
        "hz": config.hz,
        "labels": labels,
        "train_clips": sum(row["split"] == "train" for row in rows),
        "validation_clips": sum(row["split"] == "validation" for row in rows),
        "masked_stretches": sum(len(report["masked_s"]) for report in rows),  # type: ignore[arg-type]
        "written": [str(path) for path in written],
        **verdicts,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_cli(PrepareConfig, prepare, argv, "motionlex prepare-motions")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A clip and where it comes from."""

    split: str
    clip: MotionClip
    recorded: bool = False
    """Whether training smooths and settles it unless told otherwise."""
    prepared: bool = False
    """Whether that has been done."""


def _clips(config: PrepareConfig, robot: Robot) -> Iterator[_Found]:
    if not config.files:
        data = load_dataset(config.data, config.data_root, hz=config.hz)
        for split, clips in (("train", data.train), ("validation", data.validation)):
            for clip in clips:
                yield _Found(split=split, clip=clip, recorded=config.data == "lafan1")
        return
    people = {path: person_points(path, config.up) for path in config.files if is_person(path)}  # before the slow part
    for number, path in enumerate(config.files, 1):
        if path in people:
            show = partial(_show_progress, f"{number}/{len(config.files)} {path.name}", time.perf_counter())
            clip = person_clip(path, people[path], robot, progress=show).resample(config.hz)
            yield _Found(split="file", clip=_prepared(clip, robot), prepared=True)
        else:
            for clip in read_motion_file(path):
                yield _Found(split="file", clip=clip.resample(config.hz), recorded=path.suffix == ".csv")


def _prepared(clip: MotionClip, robot: Robot) -> MotionClip:
    """Smooth a clip and set it on the floor."""
    from motionlex.envs.reference import settle, smooth  # slow to import, and often not needed

    return settle(smooth(clip), robot) if np.asarray(clip.valid).any() else clip


def _show_progress(name: str, begin: float, done: int, frames: int) -> None:
    if done % 100 == 0 or done == frames:
        rate = done / (time.perf_counter() - begin)
        end = "\n" if done == frames else ""
        left = f"{(frames - done) / rate:.0f} s left "
        print(f"\r{name}: {done}/{frames} frames, {rate:.0f}/s, {left}", end=end, file=sys.stderr, flush=True)


def _check(
    rows: Sequence[dict[str, JsonValue]], found: Sequence[_Found], prepare: bool | None, robot: Robot
) -> dict[str, int]:
    """Add what the pre-flight finds to the rows, with progress on stderr; return how many clips got each verdict."""
    # Physics and torch are slow to import, and inspecting or converting needs neither.
    from motionlex.data.procedural.dynamics import InverseDynamics
    from motionlex.envs.preflight import VERDICTS, check_clip

    dynamics = InverseDynamics(robot)
    start = time.perf_counter()
    for number, (row, item) in enumerate(zip(rows, found, strict=True), 1):
        wanted = not item.prepared and (item.recorded if prepare is None else prepare)
        usable = bool(np.asarray(item.clip.valid).any())
        verdict = check_clip(_prepared(item.clip, robot) if wanted else item.clip, dynamics)
        facts = asdict(verdict.facts)
        row |= {"verdict": verdict.verdict, "reasons": list(verdict.reasons), "feasibility": facts.pop("feasibility")}
        row["preflight"] = {"prepared": usable and (wanted or item.prepared), **facts}
        left = (time.perf_counter() - start) / number * (len(found) - number)
        print(f"\rchecked {number}/{len(found)}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS}


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
        if "verdict" in row:
            print(f"{'':<{width}}  {row['verdict']}{''.join(f'; {text}' for text in row['reasons'])}")  # type: ignore
            for name in ("feasibility", "preflight"):
                figures = row[name] if isinstance(row[name], Mapping) else {}
                shown = {k: v for k, v in figures.items() if not isinstance(v, tuple) and v is not None}
                texts = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
                print(f"{'':<{width}}  {', '.join(texts)}")


if __name__ == "__main__":
    sys.exit(main())
