"""From one action into the next in simulation: which changes of command are survived, obeyed, and how smoothly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from motionlex.controllers.episode import is_down
from motionlex.controllers.evaluation_rollouts import Stacks
from motionlex.controllers.evaluation_scores import FALLEN, Jury, Value, share
from motionlex.controllers.evaluation_takes import Take
from motionlex.controllers.motion_classifier import WINDOW_S
from motionlex.controllers.progress import ProgressLine
from motionlex.controllers.stack import Stack
from motionlex.data.captions import training_captions

FIRST_S, SECOND_S = 2.0, 4.0
"""How long the first and the second action are commanded [s]."""
STARTED_S = 1.0
"""Beginning from rest, whose jerk is left out [s]."""
SEAM_S = (0.1, 0.2)
"""What counts as the seam: from so long before the new segment begins to so long after [s]."""
SWITCH_SEED = 5000
"""Number of the first robot: the codes of other tests are other draws."""
JERK_RATIOS = ("jerk_ratio", "jerk_ratio_elsewhere", "jerk_ratio_planned", "jerk_ratio_planned_elsewhere")
_WORST = 12


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One change of command, simulated."""

    before: str
    """First action."""
    after: str
    """Second action."""
    survived: bool
    """Whether the robot stayed up from the beginning to the end."""
    recognised: str
    """Action of the last two seconds."""
    delay_s: float | None
    """Time from the second command to the end of the first control step under a segment that knows of it [s]."""
    jerk_ratio: float | None = None
    """Peak jerk of the simulated hinges at the seam relative to what is usual in recordings of the two actions; None
    after a fall, or where there are no recordings."""
    jerk_ratio_elsewhere: float | None = None
    """The same of what is usual away from that seam: segments follow one another there as well."""
    jerk_ratio_planned: float | None = None
    """The first of the planned hinges."""
    jerk_ratio_planned_elsewhere: float | None = None
    """The second of the planned hinges."""


def choose_pairs(actions: Sequence[str], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Choose ordered pairs of different actions, all of them used equally often on both sides as far as that goes.

    Pairs are taken along the circles i -> i + k of a random order of the actions, in a random order of k.

    Args:
        actions: At least two.
        count: How many pairs; more than exist gives all.
        rng: Source of the order.
    """
    names = [actions[index] for index in rng.permutation(len(actions))]
    shifts = 1 + rng.permutation(len(names) - 1)
    pairs = [(name, names[(place + int(k)) % len(names)]) for k in shifts for place, name in enumerate(names)]
    return pairs[:count]


def evaluate_switches(jury: Jury, stacks: Stacks, count: int) -> dict[str, Value]:
    """Simulate changes of command.

    Args:
        jury: Who judges.
        stacks: Makes the robots.
        count: How many ordered pairs; more than exist gives all.
    """
    pairs = choose_pairs(jury.judge.labels, count, np.random.default_rng(stacks.seed))
    done, progress, usual = [], ProgressLine(len(pairs), "switch"), usual_jerks(jury.real)
    for number, (before, after) in enumerate(pairs):
        done.append(simulate_switch(jury, stacks.make(SWITCH_SEED + number), before, after, usual))
        progress.advance(f"{before} -> {after}: {done[-1].recognised}")
    return summarise_switches(done)


def simulate_switch(jury: Jury, stack: Stack, before: str, after: str, usual: Mapping[str, float]) -> Switch:
    """Command one action, then another, to a robot at its start.

    Args:
        jury: Who judges.
        stack: The robot.
        before: First action.
        after: Second action.
        usual: Usual jerk of recordings by action, see :func:`usual_jerks`.
    """
    stack.command(training_captions(before)[0])
    states = [stack.step() for _ in range(round(FIRST_S * stack.hz))]
    stack.command(training_captions(after)[0])
    seam, delay = None, None
    for _ in range(round(SECOND_S * stack.hz)):
        states.append(stack.step())
        if seam is None and stack.obeying:
            seam = len(states) - 1
            delay = (seam + 1) / stack.hz - FIRST_S
    qpos, planned = (np.array([getattr(state, name) for state in states]) for name in ("qpos", "planned_qpos"))
    down = stack.fell or is_down(qpos[-1])
    ratios: dict[str, float | None] = {}
    livelier = max((usual[action] for action in (before, after) if action in usual), default=0.0)
    if seam is not None and not stack.fell and livelier > 0:
        for name, angles in (("jerk_ratio", qpos[:, 7:]), ("jerk_ratio_planned", planned[:, 7:])):
            at_seam, elsewhere = seam_jerk(angles, seam, stack.hz)
            ratios |= {name: at_seam / livelier, f"{name}_elsewhere": elsewhere / livelier}
    return Switch(
        before=before,
        after=after,
        survived=not stack.fell,
        recognised=FALLEN if down else jury.judge.classify(qpos[-round(WINDOW_S * stack.hz) :], stack.hz),
        delay_s=delay,
        **ratios,
    )


def jerk(angles: Float[np.ndarray, "frame joint"], hz: float) -> Float[np.ndarray, " frame-3"]:
    r"""Norm over the joints of the third derivative, by differences: :math:`\lVert \Delta^3 q \rVert\, hz^3` [rad/s^3].

    Args:
        angles: Hinge angles [rad].
        hz: Frames per second.

    Returns:
        Value i is of the frames i to i + 3.
    """
    return np.linalg.norm(np.diff(angles, n=3, axis=0), axis=1) * hz**3


def usual_jerks(takes: Sequence[Take]) -> dict[str, float]:
    """Return what jerk is usual in recordings of each action: the median of the peaks in windows as long as a seam."""
    peaks: dict[str, list[float]] = {}
    for take in takes:
        values = jerk(take.clip.qpos[:, 7:], take.clip.hz)
        peaks.setdefault(take.action, []).extend(_window_peaks(values, _seam_frames(take.clip.hz)[1]).tolist())
    return {action: float(np.median(found)) for action, found in sorted(peaks.items()) if found}


def seam_jerk(angles: Float[np.ndarray, "frame joint"], seam: int, hz: float) -> tuple[float, float]:
    """Return the peak jerk at a change of command, and what is usual away from it.

    Args:
        angles: Hinge angles [rad] from the start on.
        seam: First frame of the segment that obeys the second command.
        hz: Frames per second.

    Returns:
        Peak within ``SEAM_S`` around the seam, and the median of the peaks of windows of the same length on both sides
        (the first second, from rest, is left out; 0 where none fits) [rad/s^3].
    """
    values, (before, length) = jerk(angles, hz), _seam_frames(hz)
    first = max(seam - before, 0)
    reaching = max(first - 3, 0)  # value i reaches to frame i + 3
    sides = (values[round(STARTED_S * hz) : reaching], values[first + length :])
    peaks = np.concatenate([_window_peaks(side, length) for side in sides])
    return float(values[reaching : first + length].max()), float(np.median(peaks)) if len(peaks) else 0.0


def _seam_frames(hz: float) -> tuple[int, int]:
    """Frames of a seam: before the new segment begins, and in all."""
    before, after = (round(part * hz) for part in SEAM_S)
    return before, before + after


def _window_peaks(values: Float[np.ndarray, " frame"], length: int) -> Float[np.ndarray, " window"]:
    return values[: len(values) // length * length].reshape(-1, length).max(axis=1)


def summarise_switches(done: Sequence[Switch]) -> dict[str, Value]:
    """Collect simulated switches.

    Returns:
        Rates with intervals, delays [s] and jerk ratios (median, 95th percentile, largest), the matrix of all pairs
        (``before``, ``after``, and for every switch its fields under ``pairs``), and the worst actions.
    """
    survived, right = [each.survived for each in done], [each.recognised == each.after for each in done]
    trouble = [
        {"before": each.before, "after": each.after, "recognised": each.recognised}
        for each, good in zip(done, right, strict=True)
        if not good
    ]
    return {
        "switches": len(done),
        "survived": share(survived),
        "recognised": share(right),
        "delay_s": _quantiles([each.delay_s for each in done]),
        **{name: _quantiles([getattr(each, name) for each in done]) for name in JERK_RATIOS},
        "survived_by_before": _by([each.before for each in done], survived),
        "survived_by_after": _by([each.after for each in done], survived),
        "recognised_by_after": _by([each.after for each in done], right),
        "trouble": trouble[:_WORST],
        "pairs": [asdict(each) for each in done],
    }


def _quantiles(values: Sequence[float | None]) -> dict[str, Value]:
    known = [value for value in values if value is not None]
    if not known:
        return {"median": None, "p95": None, "largest": None}
    median, high = np.percentile(known, [50.0, 95.0])
    return {"median": float(median), "p95": float(high), "largest": max(known)}


def _by(names: Sequence[str], good: Sequence[bool]) -> dict[str, float]:
    table = np.array(names)
    return {name: float(np.array(good)[table == name].mean()) for name in sorted(set(names))}
