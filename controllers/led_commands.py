"""Commands of a script that also say where to go: velocities drawn around what each action does by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from motionlex.controllers.command_tours import Script, ScriptedCommand
from motionlex.data import quaternion

MOVING_MPS = 0.25
"""Speed from which an action goes somewhere and can be led [m/s]."""
SETTLED_S = 0.64
"""Time after a command that still belongs to the action before [s]."""
FASTEST = 1.2
"""Largest share of an action's own velocity that is asked for; the smallest is 0, to stop on the way."""
TURN = 0.3
"""Largest turning rate that is asked for beyond the action's own [rad/s]; evaluated paths turn at 0.2."""


def action_velocities(
    motions: Iterable[tuple[Script, Float[np.ndarray, "_ coordinate"]]], hz: float
) -> dict[str, Float[np.ndarray, " 3"]]:
    """Return each action's mean velocity as it is planned: forward, to the left [m/s], turning to the left [rad/s].

    Args:
        motions: Scripts and the positions that were planned for them.
        hz: Frames per second.

    Returns:
        Velocities by action; actions that never last longer than ``SETTLED_S`` are missing.
    """
    found: dict[str, list[np.ndarray]] = {}
    settled = round(SETTLED_S * hz)
    for script, qpos in motions:
        heading = np.unwrap(quaternion.yaw(qpos[:, 3:7]))
        step, turn = np.diff(qpos[:, :2], axis=0) * hz, np.diff(heading) * hz
        cosine, sine = np.cos(heading[:-1]), np.sin(heading[:-1])
        forward, left = cosine * step[:, 0] + sine * step[:, 1], cosine * step[:, 1] - sine * step[:, 0]
        rows, end = np.stack((forward, left, turn), axis=1), 0
        for command in script:
            first, end = end + settled, end + command.frames
            found.setdefault(command.action, []).extend(rows[first:end])
    return {action: np.mean(parts, axis=0) for action, parts in found.items() if parts}


def lead(script: Script, velocities: dict[str, Float[np.ndarray, " 3"]], rng: np.random.Generator) -> Script:
    """Give the moving commands of a script velocities to follow: a share of the action's own, with another turn."""
    return tuple(_led(command, velocities.get(command.action), rng) for command in script)


def _led(command: ScriptedCommand, own: Float[np.ndarray, " 3"] | None, rng: np.random.Generator) -> ScriptedCommand:
    share, turn = rng.uniform(0.0, FASTEST), rng.uniform(-TURN, TURN)
    if own is None or np.linalg.norm(own[:2]) < MOVING_MPS:
        return command
    forward, left = (float(part) for part in share * own[:2])
    return replace(command, velocity=(forward, left, float(own[2] + turn)))
