"""Commanded paths of the centre of mass, followed in simulation and measured after physics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np

from motionlex.controllers.com_path import ComPath
from motionlex.controllers.evaluation_scores import Value
from motionlex.controllers.following import Followed, path_errors
from motionlex.controllers.stack import Stack

SETTLED_S = 4.0
"""Time on a path from which it must be followed closely [s]: before, the robot starts to walk and joins it."""
TURNS = (0.0, 0.2, -0.2)
"""Turning rates of the paths [rad/s]."""
WALKING_MPS = 0.6
"""Speed of the paths [m/s]."""


def arc_path(speed: float, turn: float, seconds: float, start_s: float = 1.0) -> ComPath:
    """Stand for ``start_s``, then move at ``speed`` [m/s] while turning at ``turn`` [rad/s]."""
    time = np.arange(0.0, seconds + 2.0, 0.05)
    moving = np.maximum(time - start_s, 0.0)
    yaw = turn * moving
    if abs(turn) < 1e-9:
        xy = np.stack([speed * moving, np.zeros_like(moving)], axis=1)
    else:
        xy = speed / turn * np.stack([np.sin(yaw), 1.0 - np.cos(yaw)], axis=1)
    return ComPath(time=time, xy=xy, yaw=yaw)


def follow_path(stack: Stack, path: ComPath, text: str, seconds: float) -> Followed:
    """Tell a stack at its start to follow a path, and keep where it was and where it was to be.

    Args:
        stack: The robot.
        path: Desired path.
        text: What it is told beside.
        seconds: For how long [s].
    """
    stack.follow(path)
    stack.command(text)
    rows = []
    for _ in range(round(seconds * stack.hz)):
        stack.step()
        xy, yaw = path.at(np.array([stack.time]))
        rows.append((*stack.com, stack.heading, *(xy[0] + stack.start_com), yaw[0]))
    table = np.array(rows)
    return Followed(
        measured_xy=table[:, :2],
        measured_yaw=table[:, 2],
        wanted_xy=table[:, 3:5],
        wanted_yaw=table[:, 5] if path.has_yaw else None,
    )


def later(part: Followed, start: int) -> Followed:
    """Return what was followed from a frame on."""
    return replace(
        part,
        measured_xy=part.measured_xy[start:],
        measured_yaw=part.measured_yaw[start:],
        wanted_xy=part.wanted_xy[start:],
        wanted_yaw=None if part.wanted_yaw is None else part.wanted_yaw[start:],
    )


def path_report(parts: Sequence[Followed], hz: float) -> dict[str, Value]:
    """Errors of followed paths over their whole time, and from ``SETTLED_S`` on (None where none is so long)."""
    start = round(SETTLED_S * hz)
    whole, settled = path_errors(parts, hz), path_errors([later(part, start) for part in parts], hz)
    by_path = [asdict(path_errors([later(part, start)], hz)) for part in parts]
    return {**asdict(whole), "from_s": SETTLED_S, "settled": asdict(settled), "settled_by_path": by_path}


def evaluate_paths(new_stack: Callable[[int], Stack], seconds: float) -> dict[str, Value]:
    """Follow three desired paths (straight, left arc, right arc) while walking.

    Args:
        new_stack: Makes a stack from a seed.
        seconds: Duration of each path [s].

    Returns:
        ``path_error_m`` (mean distance of the measured centre of mass from where it should be at that time [m]),
        ``heading_error_deg``, ``speed_error_mps`` over the whole time, and the same under ``settled``.
    """
    parts, hz = [], 0.0
    for number, turn in enumerate(TURNS):
        stack = new_stack(2000 + number)
        hz = stack.hz
        parts.append(follow_path(stack, arc_path(WALKING_MPS, turn, seconds), "walk forward", seconds))
    return path_report(parts, hz)
