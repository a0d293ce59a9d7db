"""Takes: stretches of motion that are to show one action each, at whatever stage they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from motionlex.controllers.motion_classifier import WINDOW_S
from motionlex.data.clip import MotionClip

STEP_S = 1.0
"""Time between the windows of a take [s]."""
SETTLE_S = 1.0
"""Beginning of a commanded take that is left out: the robot must first get going [s]."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """A stretch of motion that was to show one action."""

    action: str
    """The action."""
    name: str
    """Where it comes from: a clip, or what was said."""
    clip: MotionClip
    """The motion, at least one window long."""
    reference: Float[np.ndarray, "frame coordinate"] | None = None
    """Positions that it was to have, frame by frame; None where there are none."""
    down: bool = False
    """Whether the robot fell or lies: no action is recognised then."""
    settle_s: float = 0.0
    """Beginning that no window but the last may reach into [s]."""

    @property
    def last_window(self) -> Float[np.ndarray, "frame coordinate"]:
        """Positions of the last window, by which a take is judged."""
        return self.clip.qpos[-round(WINDOW_S * self.clip.hz) :]

    def window_starts(self) -> list[float]:
        """Return where its windows begin [s]: the last one ends with the take, others ``STEP_S`` apart before it."""
        last = self.clip.frames / self.clip.hz - WINDOW_S
        count = max(0, int((last - self.settle_s) / STEP_S + 1e-9))
        return [last - STEP_S * back for back in range(count, -1, -1)]


def cut_takes(clips: Sequence[MotionClip], longest_s: float) -> list[Take]:
    """Cut labelled clips into takes of one label each without a glitch.

    Args:
        clips: Labelled motions.
        longest_s: Longest take [s]; longer spans become several.

    Returns:
        Takes of at least one window, each its own reference.
    """
    return [
        Take(action=label, name=f"{clip.name}:{start}-{stop}", clip=part, reference=part.qpos)
        for clip in clips
        for label, start, stop in _pieces(clip, longest_s)
        for part in (clip.slice(start, stop),)
    ]


def paired_takes(pairs: Sequence[tuple[MotionClip, MotionClip]], longest_s: float) -> list[Take]:
    """Cut copies of clips as ``cut_takes`` cuts the clips themselves, under the same names.

    Args:
        pairs: A clip, and a copy of it with the same frames and labels; what is masked in either is left out.
        longest_s: Longest take [s].

    Returns:
        Takes of the copies, with the clips as references.
    """
    takes = []
    for clip, copy in pairs:
        kept = set(_pieces(copy, longest_s))
        for label, start, stop in _pieces(clip, longest_s):
            if (label, start, stop) in kept:
                name, part = f"{clip.name}:{start}-{stop}", copy.slice(start, stop)
                takes.append(Take(action=label, name=name, clip=part, reference=clip.qpos[start:stop]))
    return takes


def _pieces(clip: MotionClip, longest_s: float) -> list[tuple[str, int, int]]:
    """Label, first frame and frame after the last of every take of a clip."""
    shortest, longest = round(WINDOW_S * clip.hz), round(longest_s * clip.hz)
    valid = np.ones(clip.frames, dtype=bool) if clip.valid is None else clip.valid
    return [
        (span.label, start, stop)
        for span in clip.labels
        for start in range(span.start, span.stop, longest)
        for stop in (min(start + longest, span.stop),)
        if stop - start >= shortest and valid[start:stop].all()
    ]
