"""Commanded paths of the centre of mass, followed by plans without physics, and by the simulated robot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from motionlex.controllers.com_path import ComPath
from motionlex.controllers.evaluation_scores import Value, mean_row, share
from motionlex.controllers.following import Followed, path_errors
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.path_leading import path_of_plan
from motionlex.controllers.planner import Planner
from motionlex.controllers.progress import ProgressLine
from motionlex.controllers.stack import Stack
from motionlex.data import quaternion
from motionlex.data.kinematics import ForwardKinematics

SETTLED_S = 4.0
"""Time on a path from which it must be followed closely [s]: before, the robot starts to walk and joins it."""
TURNS = (0.0, 0.2, -0.2)
"""Turning rates of the paths [rad/s]."""
WORDS = "walk forward"
"""What the robot is told beside."""
CLOSE_M = 0.3
"""Distance to a path that counts as close [m]."""
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


def follow_path(stack: Stack, path: ComPath, text: str | None, seconds: float) -> Followed:
    """Tell a stack at its start to follow a path, and keep where it was and where it was to be.

    Args:
        stack: The robot.
        path: Desired path.
        text: What it is told beside; None says nothing.
        seconds: For how long [s].
    """
    begun = stack.follow(path)
    assert begun is not None
    if text is not None:
        stack.command(text)
    rows = []
    for _ in range(round(seconds * stack.hz)):
        stack.step()
        xy, yaw = begun.at(np.array([stack.time]))
        rows.append((*stack.com, stack.heading, *(xy[0] + stack.start_com), yaw[0]))
    table = np.array(rows)
    return Followed(
        measured_xy=table[:, :2],
        measured_yaw=table[:, 2],
        wanted_xy=table[:, 3:5],
        wanted_yaw=table[:, 5] if path.has_yaw else None,
    )


def plan_path(
    planner: Planner, kinematics: ForwardKinematics, path: ComPath, text: Float[Tensor, "piece width"], seconds: float
) -> Followed:
    """Let a plan follow a path without physics, as the stack would lead it if the robot were where it is planned.

    Args:
        planner: At its start, at the origin in heading 0.
        kinematics: Of the robot.
        path: Desired path.
        text: Embedding of what is told beside.
        seconds: For how long, in whole segments [s].
    """
    origin, hz, parts = planner.com.copy(), planner.hz, []
    for number in range(round(seconds * hz / REPLAN_FRAMES)):
        wanted = path_of_plan(path, planner, number * REPLAN_FRAMES / hz, origin=origin)
        parts.append(planner.replan(text, wanted).qpos[1 : REPLAN_FRAMES + 1])
        planner.commit(REPLAN_FRAMES)
    qpos = np.concatenate(parts)
    xy, yaw = path.at(np.arange(1, len(qpos) + 1) / hz)
    return Followed(
        measured_xy=kinematics(qpos).com[:, :2],
        measured_yaw=quaternion.yaw(qpos[:, 3:7]),
        wanted_xy=xy + origin,
        wanted_yaw=yaw if path.has_yaw else None,
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


def path_report(parts: Sequence[Followed], falls: Sequence[bool], hz: float, *, seed: int = 0) -> dict[str, Value]:
    """Errors of followed paths over their whole time, and from ``SETTLED_S`` on (None where none is so long).

    Args:
        parts: What was followed; falls are in it.
        falls: Whether the robot fell, by path.
        hz: Rate of the frames [Hz].
        seed: Seed of the bootstrap.

    Returns:
        ``path_error_m``, ``heading_error_deg``, ``speed_error_mps`` over the whole time; the same under ``settled``,
        with the bootstrap interval over paths, their median and the share within ``CLOSE_M`` (``close``).
    """
    start = round(SETTLED_S * hz)
    late = [later(part, start) for part in parts]
    by_path = [path_errors([part], hz) for part in late]
    errors = np.array([each.path_error_m for each in by_path if each.path_error_m is not None])
    return {
        **asdict(path_errors(parts, hz)),
        "paths": len(parts),
        "falls": sum(map(bool, falls)),
        "from_s": SETTLED_S,
        "settled": {
            **asdict(path_errors(late, hz)),
            "path_error_interval_95": mean_row(errors.tolist(), seed)["interval_95"],
            "median_m": float(np.median(errors)) if len(errors) else None,
            "close_m": CLOSE_M,
            "close": share((errors <= CLOSE_M).tolist()),
        },
        "settled_by_path": [asdict(each) for each in by_path],
    }


def evaluate_paths(
    new_stack: Callable[[int], Stack], seconds: float, repeats: int = 1, *, text: str | None = WORDS, seed: int = 0
) -> dict[str, Value]:
    """Follow desired paths (straight, left arc, right arc) at walking speed.

    Args:
        new_stack: Makes a stack from a seed.
        seconds: Duration of each path [s].
        repeats: Takes of each of the three, with other draws of the codes.
        text: What the robot is told beside; None says nothing.
        seed: Seed of the bootstrap.

    Returns:
        See :func:`path_report`.
    """
    parts, falls, hz = [], [], 0.0
    progress = ProgressLine(repeats * len(TURNS), "path")
    for number in range(repeats * len(TURNS)):
        turn = TURNS[number % len(TURNS)]
        stack = new_stack(2000 + number)
        hz = stack.hz
        parts.append(follow_path(stack, arc_path(WALKING_MPS, turn, seconds), text, seconds))
        falls.append(stack.fell)
        progress.advance(f"turning at {turn:g} rad/s: {'fell' if stack.fell else 'done'}")
    return path_report(parts, falls, hz, seed=seed)
