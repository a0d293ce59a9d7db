"""Actions on the spot: how arms, torso, pelvis and height move over time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from motionlex.data.procedural.style import Style

CHANNELS = 14
"""Eight arm angles, torso yaw, pelvis pitch, roll, yaw [rad], drop of the centre of mass [m], weight to the left."""
TORSO, PITCH, ROLL, YAW, DROP, WEIGHT = 8, 9, 10, 11, 12, 13

Times = Float[np.ndarray, " frame"]
Channels = Float[np.ndarray, "frame channel"]
_MIRROR_SIGN = np.array([1.0, -1.0, -1.0, 1.0])
"""Right arm angles of a left arm pose: roll and yaw change sign."""


def rest_pose(style: Style) -> Float[np.ndarray, " channel"]:
    """Return the channels at rest: hanging arms, the style's lean and crouch."""
    pose = np.zeros(CHANNELS)
    arm = np.array([0.05, 0.12, 0.0, style.elbow])
    pose[0:4], pose[4:8] = arm, arm * _MIRROR_SIGN
    pose[PITCH], pose[DROP] = style.lean, style.crouch + (0.055 if style.flight_frames else 0.0)
    return pose


def action_channels(style: Style, seconds: Times) -> Channels:
    """Return the channels of a style over time.

    Args:
        style: Which action and how large.
        seconds: Time since the action began [s]; values before 0 stand for the way in.

    Returns:
        Absolute channels (frame, CHANNELS); gaits return their rest pose.
    """
    channels = np.tile(rest_pose(style), (len(seconds), 1))
    if style.label in _ACTIONS:
        phase = 2 * np.pi * (np.maximum(seconds, 0.0) / style.period_s + style.phase)
        _ACTIONS[style.label](style, phase, channels)
    return _mirror(channels) if style.mirrored else channels


def _mirror(channels: Channels) -> Channels:
    out = channels.copy()
    out[:, 0:4], out[:, 4:8] = channels[:, 4:8] * _MIRROR_SIGN, channels[:, 0:4] * _MIRROR_SIGN
    out[:, [TORSO, ROLL, YAW, WEIGHT]] *= -1.0
    return out


def _stand(style: Style, phase: Times, out: Channels) -> None:
    """Breathing and a slight shift of weight."""
    out[:, WEIGHT] = 0.05 * style.amplitude * np.sin(phase)
    out[:, DROP] += 0.003 * np.sin(2 * phase)
    out[:, [0, 4]] += 0.02 * np.sin(phase)[:, None]


def _squat(style: Style, phase: Times, out: Channels) -> None:
    """Down and up; the arms reach forward."""
    down = 0.5 * (1 - np.cos(phase))
    out[:, DROP] += style.amplitude * down
    out[:, PITCH] += 1.95 * style.amplitude * down
    out[:, [0, 4]] -= 1.1 * down[:, None]
    out[:, [3, 7]] += 0.2 * down[:, None]


def _bow(style: Style, phase: Times, out: Channels) -> None:
    """Pitch forward at the hips, rest, and rise."""
    down = np.clip(0.75 * (1 - np.cos(phase)) - 0.1, 0.0, 1.0)
    down = down * down * (3 - 2 * down)
    out[:, PITCH] += style.amplitude * down
    out[:, DROP] += 0.10 * style.amplitude * down
    out[:, [0, 4]] -= 0.75 * style.amplitude * down[:, None]


def _wave(style: Style, phase: Times, out: Channels) -> None:
    """The right arm raised to the side, the forearm swings."""
    out[:, 4], out[:, 5], out[:, 6] = -0.15, -1.25, -1.45
    out[:, 7] = 0.05 + 0.5 * style.amplitude * np.sin(phase)
    out[:, 5] += 0.08 * np.sin(phase)


def _box(style: Style, phase: Times, out: Channels) -> None:
    """Guard up; straight punches, left and right in turn."""
    left, right = np.maximum(np.sin(phase), 0.0) ** 2, np.maximum(-np.sin(phase), 0.0) ** 2
    for first, sign, punch in ((0, 1.0, left), (4, -1.0, right)):
        out[:, first] = -0.45 - 1.0 * style.amplitude * punch
        out[:, first + 1] = sign * (0.25 - 0.15 * punch)
        out[:, first + 2] = sign * (-0.35 + 0.35 * punch)
        out[:, first + 3] = -0.75 + 2.0 * style.amplitude * punch
    out[:, TORSO] = 0.35 * style.amplitude * (right - left)
    out[:, DROP] += 0.012 * np.cos(2 * phase)
    out[:, WEIGHT] = 0.1 * (right - left)


def _dance_sway(style: Style, phase: Times, out: Channels) -> None:
    """Weight from side to side, arms and torso follow, knees on the beat."""
    a = style.amplitude
    out[:, WEIGHT] = 0.32 * a * np.sin(phase)
    out[:, DROP] += 0.02 * a * (1 - np.cos(2 * phase))
    out[:, ROLL] = -0.10 * a * np.sin(phase)
    out[:, TORSO] = 0.3 * a * np.sin(phase + 0.5)
    out[:, 0], out[:, 4] = -0.3 + 0.45 * a * np.sin(phase), -0.3 - 0.45 * a * np.sin(phase)
    out[:, 1], out[:, 5] = 0.3 + 0.2 * a * np.sin(phase), -0.3 + 0.2 * a * np.sin(phase)
    out[:, 3] = 0.3 + 0.3 * a * np.sin(phase)
    out[:, 7] = 0.3 - 0.3 * a * np.sin(phase)


def _dance_arms(style: Style, phase: Times, out: Channels) -> None:
    """Arms overhead and out in waves, torso twists, knees on the beat."""
    a = style.amplitude
    out[:, DROP] += 0.022 * a * (1 - np.cos(2 * phase))
    out[:, TORSO] = 0.5 * a * np.sin(phase)
    out[:, WEIGHT] = 0.12 * a * np.sin(phase)
    for first, sign, shift in ((0, 1.0, 0.0), (4, -1.0, np.pi)):
        wave = np.sin(phase + shift)
        out[:, first] = -0.2 - 0.5 * a * np.cos(phase + shift)
        out[:, first + 1] = sign * (1.25 + 0.65 * a * wave)
        out[:, first + 2] = sign * 1.2
        out[:, first + 3] = 0.5 - 0.5 * a * wave


def _hop(style: Style, phase: Times, out: Channels) -> None:
    """Crouch before the flight in the middle of the cycle; the arms swing up with it."""
    cycle = (phase / (2 * np.pi) - style.phase) % 1.0
    crouch = np.exp(-(((cycle - 0.25) / 0.11) ** 2))
    out[:, DROP] += 0.11 * style.amplitude * crouch
    out[:, PITCH] += 0.25 * style.amplitude * crouch
    out[:, [0, 4]] += (0.5 * crouch - 0.6 * np.exp(-(((cycle - 0.62) / 0.14) ** 2)))[:, None]


_ACTIONS: dict[str, Callable[[Style, Times, Channels], None]] = {
    "stand": _stand,
    "squat": _squat,
    "bow": _bow,
    "wave": _wave,
    "box": _box,
    "dance_sway": _dance_sway,
    "dance_arms": _dance_arms,
    "hop": _hop,
}
