"""The console: maps lines to effects on a session. It knows no terminal, and nothing typed is ever executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motionlex.controllers.com_path import VelocityCommand
from motionlex.controllers.instructions import VERBS, Instruction, help_text, known_sentences, read_line, shown
from motionlex.controllers.script import check_files
from motionlex.controllers.session import Session
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import LONGEST_TEXT, Command
from motionlex.data.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a line."""

    text: str
    """For people."""
    leave: bool = False
    """Whether the session shall end."""
    failed: bool = False
    """Whether the line was not obeyed."""


class Console:
    """Obeys lines."""

    def __init__(self, session: Session, *, seconds: float | None = None, live: bool = False, seed: int = 0) -> None:
        """Listen for a session.

        Args:
            session: What lines act on.
            seconds: Duration of words without one of their own [s]; None means 5.
            live: Whether time runs by itself, and words hold until the next; if not, they run for their seconds at
                once.
            seed: Seed of bundles that are loaded later.
        """
        self.session, self._seconds, self._live, self._seed = session, seconds, live, seed
        self._last: Instruction | None = None
        self._effects: Mapping[str, Callable[[Instruction], str]] = {
            "say": self._say,
            "help": lambda instruction: help_text(self.sentences),
            "reset": self._reset,
            "push": self._push,
            "com": self._com,
            "wait": self._wait,
            "speed": self._speed,
            "pause": self._pause,
            "seed": self._reseed,
            "save": self._save,
            "bundle": self._bundle,
        }

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the robot knows, in words."""
        return known_sentences(self.session.stack.bundle.captions)

    def handle(self, line: str, *, trusted: bool = True) -> Answer:
        """Obey a line, or say why not; an empty one repeats the last words.

        Args:
            line: What was typed.
            trusted: Whether it may name files and leave; it may not where it comes from a network.
        """
        try:
            return self.obey(self._read(line, trusted=trusted))
        except UserError as error:
            return Answer(text=str(error), failed=True)
        except OSError as error:
            return Answer(text=f"{error.strerror or error}: {error.filename}", failed=True)

    def ready(self, line: str, *, trusted: bool = True) -> bool:
        """Tell whether :meth:`handle` would obey a line without stopping the robot; words are embedded until then.

        Args:
            line: What was typed; the next that is handled.
            trusted: As for :meth:`handle`.
        """
        try:
            instruction = self._read(line, trusted=trusted)
        except UserError:
            return True  # to be refused
        return instruction.verb != "say" or self.session.ready(instruction.text)

    def _read(self, line: str, *, trusted: bool) -> Instruction:
        if not line.strip():
            if self._last is None:
                raise UserError('Nothing to repeat yet: say what the robot should do, e.g. "walk forward"')
            return self._last
        instruction = read_line(line, self._seconds)
        if not trusted and instruction.verb in {"quit", *(name for name, verb in VERBS.items() if verb.path)}:
            raise UserError(f":{instruction.verb} can be typed in the terminal only")
        return instruction

    def obey(self, instruction: Instruction) -> Answer:
        """Do what an instruction says.

        Raises:
            UserError: If it cannot be done, for a reason that its line did not show.
            OSError: If a file cannot be written.
        """
        if instruction.verb == "quit":
            return Answer(text="", leave=True)
        return Answer(text=self._effects[instruction.verb](instruction))

    def _say(self, instruction: Instruction) -> str:
        session = self.session
        given = session.command(instruction.text)
        self._last = instruction
        answer = describe(given, session.time, session.stack)
        if self._live:
            return answer
        session.announce(answer)
        return self._run(instruction.seconds)

    def _run(self, seconds: float) -> str:
        """Let time pass, and say where it led."""
        session = self.session
        before, turned = session.stack.qpos[:2], session.turned
        session.run(seconds)
        distance = float(np.hypot(*(session.stack.qpos[:2] - before)))
        angle = float(np.rad2deg(session.turned - turned))
        return f"{session.time:.2f} s: {distance:.2f} m from there, turned by {angle:.0f} degrees"

    def _reset(self, instruction: Instruction) -> str:
        self.session.reset()
        return "the robot stands where it began"

    def _push(self, instruction: Instruction) -> str:
        x, y = instruction.numbers
        self.session.push(x, y)
        return f"pushed by ({x:g}, {y:g}) m/s"

    def _com(self, instruction: Instruction) -> str:
        if not instruction.numbers:
            self.session.let_go()
            return "nothing is followed any more"
        return describe_steering(self.session.steer(*instruction.numbers), instruction.numbers)

    def _wait(self, instruction: Instruction) -> str:
        return "time passes by itself" if self._live else self._run(instruction.seconds)

    def _speed(self, instruction: Instruction) -> str:
        (speed,) = instruction.numbers
        self.session.display.run_at(speed=speed)
        return "as fast as possible" if speed == 0 else f"{speed:g} times real time"

    def _pause(self, instruction: Instruction) -> str:
        if not self._live:
            return "time stands still anyway, until words are typed"
        paused = not self.session.display.paused
        self.session.display.run_at(paused=paused)
        return "time stands still; :pause goes on" if paused else "time goes on"

    def _reseed(self, instruction: Instruction) -> str:
        self._seed = int(instruction.numbers[0])
        self.session.stack.reseed(self._seed)
        return f"codes are drawn from seed {self._seed} from now on"

    def _save(self, instruction: Instruction) -> str:
        check_files(instruction)
        path = Path(instruction.text)
        if self._live:
            self.session.save_meanwhile(path)
            return f"{path} is being written"
        table = self.session.save(path)
        return f"{path} and {table} written"

    def _bundle(self, instruction: Instruction) -> str:
        self.session.change_bundle(instruction.text, self._seed)
        self._last = None
        return f"bundle {self.session.stack.bundle.meta.name}: the robot stands at the start"


def describe(given: Command, time: float, stack: Stack) -> str:
    """Say what was understood.

    Args:
        given: The command.
        time: When it was given [s].
        stack: Who was told.
    """
    cut = f"; only its first {LONGEST_TEXT} characters are read" if len(given.text) > LONGEST_TEXT else ""
    if given.understood:
        return (
            f"{time:.2f} s: {shown(given.text)} is nearest to {given.action} (similarity {given.similarity:.2f}){cut}"
        )
    nearest, wanted = known_sentences([given.action])[0], stack.hearing.understood_from
    stays = "keeps standing" if stack.path is None else "goes on along its path"
    return (
        f"{time:.2f} s: {shown(given.text)} is not understood, the robot {stays}: the nearest that it knows is "
        f"{nearest!r} (similarity {given.similarity:.2f}, wanted {wanted:.2f}){cut}"
    )


def describe_steering(got: VelocityCommand, asked: Sequence[float]) -> str:
    """Say what velocity is followed.

    Args:
        got: What the velocity was limited to.
        asked: Speed forward and to the left [m/s] and turn rate [rad/s] that were asked for.
    """
    answer = "{:.2f} m/s forward, {:.2f} m/s to the left, turning left at {:.2f} rad/s".format(*got.numbers)
    return answer if got.numbers == tuple(asked) else f"{answer}: more is not in the motions"
