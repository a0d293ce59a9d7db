"""``motionlex simulate``: commands from the command line or the keyboard, video, recording, JSON."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import tyro
from jaxtyping import Float

from motionlex.controllers.bundle import load_bundle, resolve_bundle
from motionlex.controllers.com_path import read_com_path
from motionlex.controllers.episode import (
    CommandReport,
    TimedCommand,
    heading_change_deg,
    parse_commands,
    speeds,
)
from motionlex.controllers.latent_policy import SamplingConfig
from motionlex.controllers.recording import PhysicsRecording
from motionlex.controllers.stack import Command, Stack
from motionlex.data.errors import UserError, check_seed

logger = logging.getLogger(__name__)
Value = str | int | float | bool | None | Sequence[object] | Mapping[str, object]
PROMPT = "command> "


@dataclass(frozen=True, kw_only=True)
class SimulateFlags:
    """Simulate the H1 under text commands, e.g. motionlex simulate "walk forward:5" "turn left:4"."""

    commands: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Commands, each optionally with its duration after a colon; none opens a prompt."""
    seconds: float | None = None
    """Duration of commands without one of their own [s]; None means 5."""
    bundle: str | None = None
    """Folder of a bundle; None takes the built-in one."""
    com_path: Path | None = None
    """CSV of a desired centre-of-mass path, t_s,x_m,y_m[,yaw_rad], in the starting heading frame."""
    video: Path | None = None
    """Write a video (mp4) to this file."""
    record: Path | None = None
    """Write qpos, qvel, ctrl, time and model_xml at physics rate to this npz file."""
    viewer: Literal["none", "web", "native"] = "none"
    """Show the robot in the browser (web) or in MuJoCo's window (native)."""
    seed: int = 0
    """Seed of the codes that are drawn."""
    temperature: float | None = None
    """Sharpness of the choice of codes; None takes the bundle's."""
    top_p: float | None = None
    """Nucleus of the choice of codes; None takes the bundle's."""
    guidance: float | None = None
    """Classifier-free guidance on the text; None takes the bundle's."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@runtime_checkable
class Screen(Protocol):
    """Something that is shown every control step."""

    def show(self) -> None:
        """Show the present state."""

    def close(self) -> None:
        """Finish."""


def simulate(flags: SimulateFlags) -> Mapping[str, Value]:
    """Run commands and report what happened.

    Returns:
        The keys of the command's JSON table, per-command measurements included.

    Raises:
        UserError: On an empty command, a bad path file or bundle, or no command and no terminal.
    """
    torch.set_num_threads(1)  # one robot is too little work to share, and waiting threads would take the cores
    interactive = not flags.commands
    if interactive and not sys.stdin.isatty():
        raise UserError('say what the robot should do, e.g. motionlex simulate "walk forward" (no terminal to ask)')
    commands = parse_commands(flags.commands, flags.seconds)
    check_seed(flags.seed)
    if flags.video is not None and flags.video.suffix.lower() != ".mp4":
        raise UserError(f"--video {flags.video}: wanted a file name that ends in .mp4")
    for path in (flags.video, flags.record):
        _check_writable(path)
    path = None if flags.com_path is None else read_com_path(flags.com_path)
    bundle = load_bundle(resolve_bundle(flags.bundle))
    stack = Stack(bundle, seed=flags.seed, sampling=_sampling(bundle.meta.sampling, flags))
    stack.follow(path)
    recording = PhysicsRecording(stack.tracker.simulator, stack.tracker.model_xml) if flags.record else None
    screens = _screens(flags, stack)
    try:
        source = _ask(flags.seconds) if interactive else iter(commands)
        run = run_commands(stack, source, on_step=lambda: [screen.show() for screen in screens])
    finally:
        for screen in screens:
            screen.close()
    if recording is not None and flags.record is not None:
        recording.save(flags.record)
    return {**run.summary(), "bundle": bundle.meta.name, "bundle_path": str(bundle.path)}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What happened in one simulation."""

    qpos: Float[np.ndarray, "frame coordinate"]
    """Positions at control rate, the initial state first."""
    hz: float
    """Control rate [Hz]."""
    commands: tuple[CommandReport, ...]
    """One report per command."""
    fell: bool
    """Whether the robot fell although it was not told to."""
    wall_s: float
    """Time that decisions and physics took, pictures not counted [s]."""

    @property
    def seconds(self) -> float:
        """Simulated time [s]."""
        return (len(self.qpos) - 1) / self.hz

    def summary(self) -> dict[str, Value]:
        """The keys that outside programs rely on."""
        moved = self.qpos[-1, :2] - self.qpos[0, :2]
        return {
            "fell": self.fell,
            "seconds": self.seconds,
            "real_time_factor": self.seconds / self.wall_s if self.wall_s > 0 else None,
            "distance_m": float(np.hypot(*moved)),
            "heading_change_deg": heading_change_deg(self.qpos),
            "commands": [asdict(command) for command in self.commands],
        }


def run_commands(stack: Stack, commands: Iterator[TimedCommand], on_step: Callable[[], object] | None = None) -> Run:
    """Let a stack obey commands one after the other.

    Args:
        stack: The robot.
        commands: What to do and for how long; asked for one by one.
        on_step: Called after every control step.

    Returns:
        Trajectory and reports.
    """
    trajectory, reports, wall = [stack.qpos], [], 0.0
    for command in commands:
        given = stack.command(command.text)
        logger.info(
            "%6.2f s  %r: nearest known action %s (similarity %.2f)",
            given.start_s,
            given.text,
            given.action,
            given.similarity,
        )
        first = len(trajectory) - 1
        for _ in range(max(1, round(command.seconds * stack.hz))):
            began = time.perf_counter()
            stack.step()
            wall += time.perf_counter() - began
            trajectory.append(stack.qpos)
            if on_step is not None:
                on_step()
        reports.append(_report(given, np.array(trajectory[first:]), stack.hz))
    return Run(qpos=np.array(trajectory), hz=stack.hz, commands=tuple(reports), fell=stack.fell, wall_s=wall)


def _report(command: Command, qpos: Float[np.ndarray, "frame coordinate"], hz: float) -> CommandReport:
    speed, forward = speeds(qpos, hz)
    return CommandReport(
        text=command.text,
        action=command.action,
        similarity=command.similarity,
        start_s=command.start_s,
        seconds=(len(qpos) - 1) / hz,
        mean_speed_mps=speed,
        forward_speed_mps=forward,
        heading_change_deg=heading_change_deg(qpos),
    )


def _ask(seconds: float | None) -> Iterator[TimedCommand]:
    """Ask for commands: an empty line repeats the last one, ``:quit`` (or the end of input) leaves."""
    print('Say what the robot should do, e.g. "walk forward" or "wave:3". Empty line: once more. :quit leaves.')
    last: TimedCommand | None = None
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            return
        if line in (":quit", ":q", ":exit"):
            return
        if line:
            try:
                (last,) = parse_commands([line], seconds)
            except UserError as error:
                print(error)
                continue
        if last is None:
            print("Nothing to repeat yet.")
            continue
        yield last


def _sampling(defaults: Mapping[str, float], flags: SimulateFlags) -> SamplingConfig:
    given = {"temperature": flags.temperature, "top_p": flags.top_p, "guidance": flags.guidance}
    return SamplingConfig(**{**defaults, **{name: value for name, value in given.items() if value is not None}})


def _check_writable(path: Path | None) -> None:
    """Find out before the simulation, not after it, that a file cannot be written."""
    if path is None:
        return
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is not a file that can be written")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give a file in another folder") from error


def _screens(flags: SimulateFlags, stack: Stack) -> list[Screen]:
    """Open the video and the viewer that were asked for."""
    if flags.video is None and flags.viewer == "none":
        return []
    from motionlex.envs import viewer

    screens: list[Screen] = []
    simulator = stack.tracker.simulator
    if flags.video is not None:
        screens.append(viewer.open_video(flags.video, simulator))
    if flags.viewer != "none":
        screens.append(viewer.open_viewer(flags.viewer, simulator))
    return screens
