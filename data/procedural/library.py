"""Variants of every action, and how the clips of the built-in library are composed from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motionlex.data.procedural.style import Command, Style

HZ = 50
"""Frames per second of all plans."""
COMMON = (
    "stand", "walk_slow", "walk_forward", "walk_fast", "walk_backward", "sidestep_left", "sidestep_right",
    "turn_left", "turn_right", "walk_turn_left", "walk_turn_right", "squat", "bow", "wave",
)  # fmt: skip
"""Actions whose every ordered pair occurs in the medleys."""
RARE = ("jog", "march", "box", "dance_sway", "dance_arms", "hop")
"""Actions that occur among the common ones in further medleys."""
LABELS = (*COMMON, *RARE)
"""All action labels of the library."""


@dataclass(frozen=True, kw_only=True)
class LibraryConfig:
    """How much of everything."""

    seed: int = 0
    """Seed of all random choices."""
    variants: int = 2
    """Single-action clips per label for training; one more is held out."""
    seconds: float = 9.0
    """Duration of a single-action clip without its ends [s]."""
    medley_commands: int = 16
    """Commands per medley."""
    held_out_medleys: int = 2
    """Random medleys of the validation split."""
    rare_medleys: int = 5
    """Training medleys in which every other command is one of the rare actions."""


@dataclass(frozen=True, kw_only=True)
class _Gait:
    """Ranges from which the variants of a gait are drawn; units as in ``Style``."""

    forward: tuple[float, float] = (0.0, 0.0)
    left: tuple[float, float] = (0.0, 0.0)
    turn_deg: tuple[float, float] = (0.0, 0.0)
    step_frames: tuple[int, int] = (24, 26)
    double_frames: int = 5
    half_width: tuple[float, float] = (0.17, 0.19)
    clearance: tuple[float, float] = (0.05, 0.07)
    toe_pitch: float = 0.2
    crouch: tuple[float, float] = (0.005, 0.02)
    lean: tuple[float, float] = (0.02, 0.06)
    arm_swing: tuple[float, float] = (0.6, 1.1)
    elbow: tuple[float, float] = (1.0, 1.35)


_GAITS = {
    "walk_slow": _Gait(forward=(0.35, 0.45), step_frames=(25, 28), half_width=(0.17, 0.195)),
    "walk_forward": _Gait(forward=(0.74, 0.86), step_frames=(22, 25), half_width=(0.165, 0.19), lean=(0.04, 0.08)),
    "walk_fast": _Gait(
        forward=(1.14, 1.28),
        step_frames=(19, 20),
        double_frames=3,
        half_width=(0.155, 0.18),
        clearance=(0.06, 0.08),
        lean=(0.08, 0.13),
        arm_swing=(0.7, 1.1),
    ),
    "jog": _Gait(
        forward=(1.45, 1.65),
        step_frames=(17, 18),
        double_frames=-5,
        half_width=(0.14, 0.16),
        clearance=(0.12, 0.15),
        toe_pitch=0.5,
        crouch=(0.03, 0.04),
        lean=(0.1, 0.15),
        arm_swing=(0.8, 1.1),
        elbow=(0.1, 0.4),
    ),
    "walk_backward": _Gait(forward=(-0.55, -0.35), half_width=(0.18, 0.2), crouch=(0.01, 0.025), lean=(0.0, 0.05)),
    "sidestep": _Gait(left=(0.24, 0.31), step_frames=(20, 23), half_width=(0.16, 0.175), lean=(0.0, 0.04)),
    "turn": _Gait(
        turn_deg=(65.0, 85.0), step_frames=(18, 20), double_frames=4, half_width=(0.18, 0.2), lean=(0.0, 0.04)
    ),
    "walk_turn": _Gait(forward=(0.5, 0.75), turn_deg=(30.0, 45.0), step_frames=(22, 25)),
    "march": _Gait(
        step_frames=(24, 28), half_width=(0.18, 0.2), clearance=(0.16, 0.21), toe_pitch=0.4, arm_swing=(0.9, 1.3)
    ),
}
"""Gaits; those with sides are given for the left."""


def sample_style(label: str, rng: np.random.Generator) -> Style:
    """Draw one variant of an action.

    Args:
        label: One of ``LABELS``.
        rng: Source of the variation.
    """
    name = label.removesuffix("_left").removesuffix("_right")
    if name not in _GAITS:
        return _on_the_spot(label, rng)
    gait, side = _GAITS[name], -1.0 if label.endswith("_right") else 1.0

    def draw(ends: tuple[float, float]) -> float:
        return float(rng.uniform(*ends))

    return Style(
        label=label,
        velocity=(draw(gait.forward), side * draw(gait.left), side * float(np.deg2rad(draw(gait.turn_deg)))),
        stepping=True,
        step_frames=int(rng.integers(gait.step_frames[0], gait.step_frames[1] + 1)),
        double_frames=gait.double_frames,
        half_width=draw(gait.half_width),
        clearance=draw(gait.clearance),
        toe_pitch=gait.toe_pitch,
        crouch=draw(gait.crouch),
        lean=draw(gait.lean),
        arm_swing=draw(gait.arm_swing),
        elbow=draw(gait.elbow),
        mirrored=bool(rng.integers(2)),
    )


def _on_the_spot(label: str, rng: np.random.Generator) -> Style:
    """Draw a variant of an action without steps: amplitude and period ranges, both sides."""
    amplitudes = {
        "stand": (0.3, 1.0), "squat": (0.205, 0.235), "bow": (0.6, 0.85), "wave": (0.7, 1.1), "box": (0.8, 1.05),
        "dance_sway": (0.8, 1.1), "dance_arms": (0.8, 1.05), "hop": (0.8, 1.0),
    }  # fmt: skip
    periods = {
        "stand": (2.5, 4.0), "squat": (2.0, 2.8), "bow": (2.4, 3.2), "wave": (0.7, 1.0), "box": (1.15, 1.45),
        "dance_sway": (1.5, 2.0), "dance_arms": (1.5, 2.1), "hop": (1.04, 1.2),
    }  # fmt: skip
    cyclic = label in ("stand", "wave", "box", "dance_arms")
    return Style(
        label=label,
        amplitude=float(rng.uniform(*amplitudes[label])),
        period_s=float(rng.uniform(*periods[label])),
        phase=float(rng.uniform()) if cyclic else 0.0,
        crouch=float(rng.uniform(0.0, 0.01)),
        elbow=float(rng.uniform(1.1, 1.3)),
        mirrored=bool(rng.integers(2)) and label != "wave",
        flight_frames=13 if label == "hop" else 0,
        clearance=0.08,
    )


def single_action(label: str, rng: np.random.Generator, seconds: float) -> tuple[Command, ...]:
    """Return one steady action between two short stands."""
    first, last = int(rng.integers(25, 45)), int(rng.integers(45, 60))
    middle = round(seconds * HZ)
    rest = sample_style("stand", rng)
    if label == "stand":
        return (Command(start=0, stop=first + middle, style=rest),)
    edges = (0, first, first + middle, first + middle + last)
    styles = (rest, sample_style(label, rng), sample_style("stand", rng))
    return tuple(Command(start=a, stop=b, style=s) for a, b, s in zip(edges[:-1], edges[1:], styles, strict=True))


def medley(labels: tuple[str, ...], rng: np.random.Generator) -> tuple[Command, ...]:
    """Return a stream of commands, 2 to 6 s each, with a new variant for each and a stand at both ends."""
    commands: list[Command] = []
    start = 0
    for index, label in enumerate(("stand", *labels, "stand")):
        seconds = 2.0 + 4.0 * rng.beta(1.2, 2.4)
        if label in ("squat", "bow"):
            seconds = max(seconds, 3.2)
        if index in (0, len(labels) + 1):
            seconds = 1.0 if index == 0 else 1.6
        stop = start + round(seconds * HZ)
        commands.append(Command(start=start, stop=stop, style=sample_style(label, rng)))
        start = stop
    return tuple(commands)


def all_pairs(labels: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """Return a random closed walk that takes every ordered pair of different labels once (Hierholzer)."""
    ways = {a: [labels[i] for i in rng.permutation(len(labels)) if labels[i] != a] for a in labels}
    stack, walk = [labels[0]], []
    while stack:
        if ways[stack[-1]]:
            stack.append(ways[stack[-1]].pop())
        else:
            walk.append(stack.pop())
    return walk[::-1]


def library_plans(config: LibraryConfig) -> list[tuple[str, bool, tuple[Command, ...]]]:
    """Return (name, held out, commands) of every clip, deterministic from the seed."""
    plans: list[tuple[str, bool, tuple[Command, ...]]] = []
    seeds = iter(np.random.SeedSequence(config.seed).spawn(1000))
    for label in LABELS:
        for variant in range(config.variants + 1):
            rng = np.random.default_rng(next(seeds))
            held_out = variant == config.variants
            plans.append(
                (f"{label}_{variant}", held_out, single_action(label, rng, config.seconds * (0.7 if held_out else 1.0)))
            )
    rng = np.random.default_rng(next(seeds))
    walk, size = all_pairs(COMMON, rng), config.medley_commands
    for number, start in enumerate(range(0, len(walk) - 1, size)):
        plans.append((f"medley_{number:02d}", False, medley(tuple(walk[start : start + size + 1]), rng)))
    rare = [r for r in RARE for _ in range(-(-config.rare_medleys * size // (2 * len(RARE))))]
    rng.shuffle(rare)
    for number in range(config.rare_medleys):
        some = rare[number * size // 2 : (number + 1) * size // 2]
        mixed = tuple(x for r in some for x in (r, COMMON[rng.integers(len(COMMON))]))
        plans.append((f"medley_rare_{number:02d}", False, medley(mixed, rng)))
    for number in range(config.held_out_medleys):
        rng = np.random.default_rng(next(seeds))
        picks: list[str] = []
        while len(picks) < size:
            label = LABELS[rng.integers(len(LABELS))]
            if not picks or picks[-1] != label:
                picks.append(label)
        plans.append((f"medley_held_out_{number:02d}", True, medley(tuple(picks), rng)))
    return plans
