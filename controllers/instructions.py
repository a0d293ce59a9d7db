"""What a typed line means: words for the robot, or a colon command. Reading a line changes nothing and runs nothing."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from motionlex.controllers.episode import LONGEST_S, parse_commands
from motionlex.data.captions import CAPTIONS
from motionlex.data.errors import UserError, check_number

SHOWN = 60
"""Characters of a text that answers repeat."""
SLOWEST = 0.05
"""Smallest factor of real time above 0: what is asked is done between two control steps, 0.4 s apart at this factor."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line, understood."""

    verb: str
    """``say``, or the name of a colon command."""
    text: str = ""
    """Words for the robot, the name of a file or of a bundle."""
    numbers: tuple[float, ...] = ()
    """Velocities, a factor, a seed."""
    seconds: float = 0.0
    """How long words hold, or how long to wait [s]."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A colon command."""

    usage: str
    """What comes after its name."""
    does: str
    """What it does, in a few words."""
    names: tuple[str, ...] = ()
    """Names of its numbers; empty for commands without any."""
    limit: float = math.inf
    """Largest size of a number."""
    lowest: float = -math.inf
    """Smallest number."""
    least: float = 0.0
    """Smallest number above 0."""
    path: bool = False
    """Whether it takes the name of a file or folder."""


VERBS: Mapping[str, Verb] = MappingProxyType(
    {
        "help": Verb(usage="", does="list these commands and what the robot knows"),
        "quit": Verb(usage="", does="leave; files are finished (also :q, :exit, Ctrl-D)"),
        "reset": Verb(usage="", does="put the robot on its feet where it began"),
        "push": Verb(
            usage="VX VY", does="change its velocity at once [m/s, world x and y]", names=("VX", "VY"), limit=5.0
        ),
        "com": Verb(
            usage="VX VY YAW_RATE",
            does='move at a velocity [m/s forward and left] and turn rate [rad/s]; ":com off" lets go',
            names=("VX", "VY", "YAW_RATE"),
            limit=1e6,
        ),
        "wait": Verb(
            usage="SECONDS", does="let time pass without a new command",
            names=("SECONDS",), limit=LONGEST_S, lowest=0.0,
        ),
        "speed": Verb(
            usage="X", does="let viewers run at X times real time; 0 is as fast as possible",
            names=("X",), limit=100.0, lowest=0.0, least=SLOWEST,
        ),
        "pause": Verb(usage="", does="let time stand still in viewers, or go on"),
        "seed": Verb(
            usage="N", does="draw codes from another seed from now on", names=("N",), limit=4294967295.0, lowest=0.0
        ),
        "save": Verb(usage="FILE.npz", does="write what was recorded so far, and a table FILE.csv", path=True),
        "bundle": Verb(usage="NAME", does="go on with the robot of another bundle (a folder, or builtin)", path=True),
    }
)  # fmt: skip
ALIASES: Mapping[str, str] = MappingProxyType({"q": "quit", "exit": "quit", "?": "help", "h": "help"})


def read_line(line: str, seconds: float | None) -> Instruction:
    """Read ``walk forward``, ``walk forward:5`` or ``:push 0.5 0``.

    Args:
        line: What was typed.
        seconds: Duration of words without one of their own [s]; None means 5.

    Raises:
        UserError: On an empty line, an unknown colon command, or wrong numbers.
    """
    line = line.strip()
    if not line.startswith(":"):
        (words,) = parse_commands([line], seconds)
        return Instruction(verb="say", text=words.text, seconds=words.seconds)
    name, _, rest = line[1:].partition(" ")
    verb = ALIASES.get(name, name)
    if verb not in VERBS:
        raise _unknown(name)
    return _read_verb(verb, VERBS[verb], rest.strip())


def _unknown(name: str) -> UserError:
    near = difflib.get_close_matches(name[:SHOWN].lower(), [*VERBS, *ALIASES], n=1, cutoff=0.5)
    hint = f" Did you mean :{near[0]}?" if near else ""
    return UserError(f"unknown command {shown(':' + name)}.{hint} :help lists them")


def _read_verb(name: str, verb: Verb, rest: str) -> Instruction:
    wanted = f"wanted :{name} {verb.usage}".strip()
    if verb.path:
        if not rest or not rest.isprintable():
            raise UserError(f":{name}: {wanted}, got {shown(rest)}")
        return Instruction(verb=name, text=rest)
    if name == "com" and rest.lower() == "off":
        return Instruction(verb=name)
    words = rest.split()
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        numbers = ()
    if len(numbers) != len(verb.names) or len(words) != len(verb.names):
        raise UserError(f":{name}: {wanted}, got {shown(rest)}")
    for part, number in zip(verb.names, numbers, strict=True):
        lowest = verb.least if verb.least and number > 0.0 else max(verb.lowest, -verb.limit)
        check_number(f":{name}: {part}", number, at_least=lowest, at_most=verb.limit)
    if name == "seed" and numbers[0] % 1:
        raise UserError(f":seed: wanted a whole number, got {words[0]}")
    return Instruction(verb=name, numbers=numbers, seconds=numbers[0] if name == "wait" else 0.0)


def shown(text: str) -> str:
    """Return a text as answers repeat it: quoted, on one line, harmless to terminals, not endless."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def known_sentences(actions: Iterable[str]) -> tuple[str, ...]:
    """Return the most obvious prompt of every action."""
    return tuple(CAPTIONS[action][0] if action in CAPTIONS else action.replace("_", " ") for action in actions)


def suggestions(text: str, sentences: Sequence[str]) -> list[str]:
    """Return how a line could go on: sentences and colon commands that begin like it.

    Args:
        text: What was typed so far.
        sentences: What the robot knows.
    """
    if text.startswith(":"):
        return [f":{name} " if verb.usage else f":{name}" for name, verb in VERBS.items() if name.startswith(text[1:])]
    begun = text.lower()
    return sorted(sentence for sentence in sentences if sentence.startswith(begun))


def help_text(sentences: Sequence[str]) -> str:
    """Describe the colon commands and what the robot knows."""
    rows = [(f":{name} {verb.usage}".strip(), verb.does) for name, verb in VERBS.items()]
    width = max(len(usage) for usage, _ in rows)
    commands = [f"  {usage:<{width}}  {does}" for usage, does in rows]
    known = ", ".join(sorted(sentences))
    return "\n".join(
        [
            "Say what the robot should do, with seconds after a colon if you like: walk forward:5",
            "An empty line says the last words once more.",
            *commands,
            f"It knows: {known}",
        ]
    )
