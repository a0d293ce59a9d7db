"""Timed commands and what the robot did under each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from motionlex.data import quaternion
from motionlex.data.errors import UserError, check_number

LONGEST_S = 3600.0
"""Longest duration of one command [s]."""
SETTLE_S = 1.5
"""Time after a command that is left out of its mean speed: the robot must first get going, or stop [s]."""


@dataclass(frozen=True, kw_only=True)
class TimedCommand:
    """A text and how long it holds."""

    text: str
    """What to do."""
    seconds: float
    """For how long [s]."""


@dataclass(frozen=True, kw_only=True)
class CommandReport:
    """What was understood and what happened under one command."""

    text: str
    """The command."""
    action: str
    """Nearest known action; for display only."""
    similarity: float
    """Cosine similarity of the command and the nearest caption of that action."""
    start_s: float
    """When it was given [s]."""
    seconds: float
    """How long it held [s]."""
    mean_speed_mps: float
    """Mean horizontal speed of the root after ``SETTLE_S`` [m/s], along and across the heading, signed means."""
    forward_speed_mps: float
    """Mean forward speed after ``SETTLE_S`` [m/s]."""
    heading_change_deg: float
    """Change of heading, turns counted, positive to the left [degrees]."""
    understood: bool = True
    """Whether it was obeyed; if not, the robot stood still."""


def parse_commands(texts: Sequence[str], seconds: float | None) -> tuple[TimedCommand, ...]:
    """Read commands of the form ``walk forward`` or ``walk forward:5``.

    Args:
        texts: What the user typed.
        seconds: Duration of commands without one [s]; None means 5.

    Raises:
        UserError: On an empty text, bytes that are no text, or a duration that is not positive.
    """
    default = 5.0 if seconds is None else seconds
    check_number("--seconds", default, above=0, at_most=LONGEST_S)
    return tuple(_parse(text, default) for text in texts)


def _parse(text: str, default: float) -> TimedCommand:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"command {text[:80]!r} is not valid text: its bytes are not UTF-8; type it again")
    words, separator, number = text.rpartition(":")
    seconds = default
    if separator:
        try:
            seconds = float(number)
        except ValueError:
            words = text
        else:
            if not (np.isfinite(seconds) and 0 < seconds <= LONGEST_S):
                raise UserError(f"command {text!r}: the seconds after the colon must be in (0, 3600], got {number}")
    else:
        words = text
    if not words.strip():
        raise UserError(f'empty command {text!r}: say what the robot should do, e.g. "walk forward"')
    return TimedCommand(text=words.strip(), seconds=seconds)


def heading_change_deg(qpos: Float[np.ndarray, "frame coordinate"]) -> float:
    """Change of the root's heading over an episode, whole turns counted, positive to the left [degrees]."""
    if len(qpos) < 2:
        return 0.0
    yaw = np.unwrap(quaternion.yaw(qpos[:, 3:7]))
    return float(np.rad2deg(yaw[-1] - yaw[0]))


def speeds(qpos: Float[np.ndarray, "frame coordinate"], hz: float) -> tuple[float, float]:
    """Mean speeds of the root after ``SETTLE_S`` (of the second half of shorter episodes).

    Args:
        qpos: Positions at control rate.
        hz: Control rate [Hz].

    Returns:
        Length of the mean velocity in the heading frame, and its forward part [m/s]. Swaying on the spot averages out,
        walking along an arc does not.
    """
    settled = qpos[min(round(SETTLE_S * hz), len(qpos) // 2) :]
    if len(settled) < 2:
        return 0.0, 0.0
    yaw = quaternion.yaw(settled[:-1, 3:7])
    velocity = np.diff(settled[:, :2], axis=0) * hz
    forward = float(np.mean(np.cos(yaw) * velocity[:, 0] + np.sin(yaw) * velocity[:, 1]))
    leftward = float(np.mean(np.cos(yaw) * velocity[:, 1] - np.sin(yaw) * velocity[:, 0]))
    return float(np.hypot(forward, leftward)), forward


def tilt_deg(root_quaternion: Float[np.ndarray, " 4"]) -> float:
    """Angle between the root's z axis and the vertical [degrees]."""
    _, x, y, _ = root_quaternion
    return float(np.rad2deg(np.arccos(np.clip(1 - 2 * (x * x + y * y), -1.0, 1.0))))


def is_down(qpos: Float[np.ndarray, " coordinate"]) -> bool:
    """Whether a posture counts as fallen: root below 0.5 m, tilted over 60 degrees, or no finite numbers at all."""
    return not bool(qpos[2] >= 0.5 and tilt_deg(qpos[3:7]) <= 60.0)
