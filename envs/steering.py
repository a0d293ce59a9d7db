"""Steering by keys and sliders: a velocity within ranges, changed in steps, on the page and in MuJoCo's window."""

from __future__ import annotations

from collections.abc import Mapping

Velocity = tuple[float, float, float]
"""Forward, to the left [m/s], turn to the left [rad/s]."""
RANGES: Mapping[str, tuple[float, float]] = {
    "forward m/s": (-0.6, 1.2),
    "left m/s": (-0.5, 0.5),
    "turn rad/s": (-1.0, 1.0),
}
"""What can be asked for."""
STEPS: Mapping[str, Velocity] = {
    "Faster forward": (0.2, 0.0, 0.0),
    "Slower, then backward": (-0.2, 0.0, 0.0),
    "Turn left": (0.0, 0.0, 0.2),
    "Turn right": (0.0, 0.0, -0.2),
    "Step left": (0.0, 0.1, 0.0),
    "Step right": (0.0, -0.1, 0.0),
}
"""What one key press adds."""
LET_GO = "Let go"
"""The key press that ends steering."""
PAGE_KEYS = dict(zip((*STEPS, LET_GO), "IKJLUOH", strict=True))
"""Keys of the page; W, A, S, D and the arrows move its camera."""
WINDOW_KEYS = dict(zip((265, 264, 263, 262, 268, 269, 260), (*STEPS, LET_GO), strict=True))
"""Keys of MuJoCo's window by the codes of GLFW: up, down, left and right arrow, home, end, insert. Its own keys are
letters and signs."""


def pressed(velocity: Velocity, name: str) -> Velocity:
    """Return the velocity after a key press, within the ranges.

    Args:
        velocity: The one before.
        name: A key of ``STEPS``.
    """
    forward, left, turn = (
        round(min(max(value + step, low), high), 3)
        for value, step, (low, high) in zip(velocity, STEPS[name], RANGES.values(), strict=True)
    )
    return forward, left, turn
