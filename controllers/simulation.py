"""``motionlex simulate``: commands from the command line, a script or the keyboard; video, recording, JSON."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float

from motionlex.controllers.bundle import load_bundle, resolve_bundle
from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.com_path import read_com_path
from motionlex.controllers.console import Console, describe
from motionlex.controllers.display import Display, Screen
from motionlex.controllers.episode import LONGEST_S, CommandReport, TimedCommand
from motionlex.controllers.instructions import Instruction
from motionlex.controllers.interaction import ask, ask_live, run_script
from motionlex.controllers.recording import check_writable, table_path
from motionlex.controllers.script import LARGEST, read_instructions, read_script, script_lines
from motionlex.controllers.session import ONE_ROBOT, Outside, Session, Value
from motionlex.controllers.stack import Stack
from motionlex.data.errors import UserError, check_number, check_seed

logger = logging.getLogger(__name__)
KEPT_S = 600.0
"""Time that ``:save`` reaches back at least where ``--record`` was not asked for [s]."""
LONGEST_GIF_S = 60.0
"""Longest simulation that becomes a GIF [s]."""


@dataclass(frozen=True, kw_only=True)
class SimulateFlags:
    """Simulate the H1 under text commands, e.g. motionlex simulate "walk forward:5" "turn left:4"."""

    commands: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Words, each with its seconds after a colon if wanted, or commands as of the prompt (":push 0.5 0"); none asks."""
    script: Path | None = None
    """Text file with one command per line, # for comments; - is stdin, which is read too where it is no terminal."""
    seconds: float | None = None
    """Duration of commands without one of their own [s]; None means 5."""
    bundle: str | None = None
    """Folder of a bundle; None takes the built-in one."""
    com_path: Path | None = None
    """CSV of a desired centre-of-mass path, t_s,x_m,y_m[,yaw_rad], in the starting heading frame."""
    video: Path | None = None
    """Write a video (mp4) to this file."""
    gif: Path | None = None
    """Write an animated GIF of at most 60 s to this file."""
    record: Path | None = None
    """Write physics steps, codes and torques to this npz file, and a table of the control steps beside it (csv)."""
    viewer: Literal["none", "web", "native"] = "none"
    """Show the robot in the browser (web) or in MuJoCo's window (native)."""
    web_host: str = "127.0.0.1"
    """Address that the browser's page is served at; any but this machine's own needs the token that is then printed."""
    web_port: int = 8080
    """Port of the page; the next free one is taken if it is in use."""
    seed: int = 0
    """Seed of the codes that are drawn."""
    temperature: float | None = None
    """Sharpness of the choice of codes; None takes the bundle's."""
    top_p: float | None = None
    """Nucleus of the choice of codes; None takes the bundle's."""
    top_k: int | None = None
    """Codes that the choice is made among; 0 is all, None takes the bundle's."""
    guidance: float | None = None
    """Classifier-free guidance on the text; None takes the bundle's."""
    path_guidance: float | None = None
    """Classifier-free guidance on the desired path; None takes the bundle's."""
    candidates: int | None = None
    """Segments that are drawn where there is a desired path, the best of which is taken; None takes the bundle's."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""

    @property
    def has_files(self) -> bool:
        """Whether the simulation is written into files, which hold one robot each."""
        return not (self.video is None and self.gif is None and self.record is None)


def simulate(flags: SimulateFlags) -> Mapping[str, Value]:
    """Run commands and report what happened.

    Returns:
        The keys of the command's JSON table, per-command measurements included.

    Raises:
        UserError: On an empty command, a bad path file or bundle, nothing to do, or when the user stops a script.
    """
    torch.set_num_threads(1)  # one robot is too little work to share, and waiting threads would take the cores
    _check_flags(flags)
    path = None if flags.com_path is None else read_com_path(flags.com_path)
    instructions = _instructions(flags)
    _check_instructions(flags, instructions)
    stack = _load(flags, flags.bundle, flags.seed, live=not instructions)
    if path is not None:
        stack.follow(path)
    kept_s = math.inf if flags.record or any(each.verb == "save" for each in instructions) else None
    if instructions:
        session = _session(flags, stack, kept_s, logger.info)
        run_script(Console(session, seed=flags.seed), instructions)
    elif flags.viewer == "none":
        session = ask(flags.seconds, flags.seed, functools.partial(_session, flags, stack, kept_s or KEPT_S))
    else:
        session = ask_live(flags.seed, functools.partial(_session, flags, stack, kept_s or KEPT_S))
    bundle = session.stack.bundle
    return {**session.summary(), "bundle": bundle.meta.name, "bundle_path": str(bundle.path)}


def _check_flags(flags: SimulateFlags) -> None:
    """Refuse what cannot become a simulation, before anything is loaded."""
    if flags.commands and flags.script is not None:
        raise UserError("commands and --script together: give one of them")
    check_number("--seconds", flags.seconds, above=0, at_most=LONGEST_S)
    check_seed(flags.seed)
    for flag, path, suffix in (("--video", flags.video, ".mp4"), ("--gif", flags.gif, ".gif")):
        if path is not None and path.suffix.lower() != suffix:
            raise UserError(f"{flag} {path}: wanted a file name that ends in {suffix}")
    table = None if flags.record is None else table_path(flags.record)
    for path in (flags.video, flags.gif, flags.record, table):
        check_writable(path)


def _instructions(flags: SimulateFlags) -> tuple[Instruction, ...]:
    """Read the commands, the script, or stdin where it is no terminal; nothing where somebody is to be asked."""
    if flags.commands:
        return read_instructions(flags.commands, flags.seconds)
    if flags.script is not None and str(flags.script) != "-":
        return read_instructions(read_script(flags.script), flags.seconds, f"--script {flags.script}")
    if flags.script is None and sys.stdin is not None and sys.stdin.isatty():
        return ()
    lines = script_lines(_read_stdin(), "stdin")
    if lines or (flags.viewer == "web" and flags.script is None):
        return read_instructions(lines, flags.seconds, "stdin")
    raise UserError('say what the robot should do, e.g. motionlex simulate "walk forward" (stdin holds no command)')


def _read_stdin() -> bytes:
    """Read stdin to its end, or until it is longer than any script."""
    if sys.stdin is None:
        return b""
    if hasattr(sys.stdin, "buffer"):
        return sys.stdin.buffer.read(LARGEST + 1)
    return sys.stdin.read(LARGEST + 1).encode(errors="surrogateescape")


def _check_instructions(flags: SimulateFlags, instructions: Sequence[Instruction]) -> None:
    """Refuse commands that do not go with the files that were asked for."""
    seconds = sum(each.seconds for each in instructions)
    if flags.gif is not None and seconds > LONGEST_GIF_S:
        raise UserError(
            f"--gif: {seconds:g} s of commands are more than {LONGEST_GIF_S:g} s: give fewer, shorter ones, or --video"
        )
    if flags.has_files and any(each.verb == "bundle" for each in instructions):
        raise UserError(ONE_ROBOT)


def _load(flags: SimulateFlags, name: str | None, seed: int, *, live: bool = True) -> Stack:
    """Load a bundle and put its robot on its feet; where somebody is to talk to it, words must not stop it later."""
    bundle = load_bundle(resolve_bundle(name))
    names = [field.name for field in fields(SamplingConfig)]
    given = {name: value for name in names if (value := getattr(flags, name)) is not None}
    sampling = {**bundle.meta.sampling, **given}
    stack = Stack(bundle, seed=seed, sampling=SamplingConfig(**sampling))
    if live:
        stack.hearing.warm_up()
    return stack


def _session(flags: SimulateFlags, stack: Stack, kept_s: float | None, say: Callable[[str], None]) -> Session:
    """Begin a session with the files and viewers that were asked for; call it on the thread that will run it."""
    outside = Outside(
        display=functools.partial(_display, flags),
        load=functools.partial(_load, flags),
        kept_s=kept_s,
        record=flags.record,
        say=say,
    )
    return Session(stack, outside)


def _display(flags: SimulateFlags, stack: Stack) -> Display:
    """Open the video, the GIF and the viewer that were asked for."""
    films: list[Screen] = []
    simulator = stack.tracker.simulator
    if flags.video is not None:
        from motionlex.envs.viewer import open_video

        films.append(open_video(flags.video, simulator))
    if flags.gif is not None:
        from motionlex.envs.gif import Gif

        films.append(Gif(flags.gif, simulator))
    if flags.viewer == "none":
        return Display(tuple(films))
    from motionlex.controllers.viewers import WebPage, Window

    web = flags.viewer == "web"
    viewer = WebPage(stack, host=flags.web_host, port=flags.web_port) if web else Window(stack)
    return Display(tuple(films), (viewer,))


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
    """Time that decisions and physics took, pictures not counted unless a segment is decided meanwhile [s]."""

    @property
    def seconds(self) -> float:
        """Simulated time [s]."""
        return (len(self.qpos) - 1) / self.hz


def run_commands(stack: Stack, commands: Iterator[TimedCommand], on_step: Callable[[], object] | None = None) -> Run:
    """Let a stack obey commands one after the other.

    Args:
        stack: The robot.
        commands: What to do and for how long; asked for one by one.
        on_step: Called after every control step.

    Returns:
        Trajectory and reports.
    """
    session, trajectory = Session(stack), [stack.qpos]
    for command in commands:
        given = session.command(command.text)
        logger.info("%s", describe(given, given.start_s, stack))
        for _ in range(max(1, round(command.seconds * stack.hz))):
            trajectory.append(session.step().qpos)
            if on_step is not None:
                on_step()
    return Run(qpos=np.array(trajectory), hz=stack.hz, commands=session.reports, fell=stack.fell, wall_s=session.wall_s)
