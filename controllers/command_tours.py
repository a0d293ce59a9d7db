"""Random scripts of text commands in which every action follows every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.data.captions import training_captions
from motionlex.data.errors import UserError, check_number


@dataclass(frozen=True, kw_only=True)
class ScriptConfig:
    """How commands follow each other."""

    minutes: float = 28.0
    """Total duration [min]; 28 let each of the 20 built-in actions follow each other one once."""
    shortest_s: float = 1.5
    """Shortest time for which a command holds [s]."""
    longest_s: float = 6.0
    """Longest time for which a command holds [s]."""
    commands: int = 9
    """Commands of one script; the first is given to a robot that stands."""
    led_share: float = 0.3
    """Share of the scripts whose walking commands also say how fast to go and where to turn."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.minutes) and self.minutes > 0):
            raise UserError(f"--generated-minutes must be positive, got {self.minutes:g}")
        if not 0 < self.shortest_s <= self.longest_s or self.commands < 2:
            raise UserError("a script wants at least 2 commands that hold from shortest_s > 0 up to longest_s")
        check_number("led_share", self.led_share, at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class ScriptedCommand:
    """One command of a script."""

    action: str
    """Action label that the text was written for."""
    text: str
    """One of its training captions."""
    frames: int
    """Control steps for which it holds: whole segments, since the stack obeys from the next segment on."""
    velocity: tuple[float, float, float] | None = None
    """Where it leads: speed forward and to the left [m/s], rate of turning to the left [rad/s]; None leaves it free."""

    @property
    def segments(self) -> int:
        """How many segments it lasts."""
        return self.frames // REPLAN_FRAMES


Script = tuple[ScriptedCommand, ...]


def random_scripts(actions: Sequence[str], config: ScriptConfig, hz: float, rng: np.random.Generator) -> list[Script]:
    """Write scripts of random captions and durations.

    The actions of all scripts are one walk cut into pieces, each of which begins where the one before ended, so that
    no switch is lost. The walk uses every ordered pair of actions once before it uses one twice.

    Args:
        actions: Action labels.
        config: How commands follow each other.
        hz: Control rate [1/s].
        rng: Source of all draws.

    Returns:
        Scripts with ``config.minutes`` in all, on average.
    """
    switches = config.commands - 1
    mean_s = config.commands * 0.5 * (config.shortest_s + config.longest_s)
    count = max(1, round(60.0 * config.minutes / mean_s))
    walk = random_walk(len(actions), count * switches + 1, rng)
    scripts = []
    for piece in range(count):
        chosen = [actions[index] for index in walk[piece * switches : (piece + 1) * switches + 1]]
        scripts.append(tuple(_command(action, config, hz, rng) for action in chosen))
    return scripts


def _command(action: str, config: ScriptConfig, hz: float, rng: np.random.Generator) -> ScriptedCommand:
    captions = training_captions(action)
    text = captions[int(rng.integers(len(captions)))]
    segments = max(1, round(rng.uniform(config.shortest_s, config.longest_s) * hz / REPLAN_FRAMES))
    return ScriptedCommand(action=action, text=text, frames=segments * REPLAN_FRAMES)


def random_walk(nodes: int, length: int, rng: np.random.Generator) -> Int[np.ndarray, " length"]:
    """Walk over ``nodes`` places so that each ordered pair is used k times before one is used k + 1 times."""
    walk = [int(rng.integers(nodes))]
    while len(walk) < length:
        walk += eulerian_circuit(nodes, walk[-1], rng)[1:] if nodes > 1 else [0]
    return np.array(walk[:length])


def eulerian_circuit(nodes: int, start: int, rng: np.random.Generator) -> list[int]:
    """Return a random closed walk from ``start`` that goes from every node to every other exactly once.

    Source: Hierholzer 1873: walk until stuck, then splice detours in where the walk still has unused ways out.
    """
    ways = [rng.permutation([other for other in range(nodes) if other != node]).tolist() for node in range(nodes)]
    stack, circuit = [start], []
    while stack:
        if ways[stack[-1]]:
            stack.append(int(ways[stack[-1]].pop()))
        else:
            circuit.append(stack.pop())
    return circuit[::-1]
