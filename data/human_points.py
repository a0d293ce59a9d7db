"""The points of a recorded person that a robot can follow, whatever the recording's names and unit are."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from motionlex.data.bvh import RecordedMotion
from motionlex.data.errors import UserError

_log = logging.getLogger(__name__)
_UPRIGHT = 0.3
"""Cosine between the trunk and the vertical."""
POINTS = ("hip", "knee", "ankle", "shoulder", "elbow", "hand")
"""What every recording needs, left and right."""
CONVENTIONS: dict[str, tuple[str, ...]] = {
    "hip": ("UpLeg", "Hip", "Thigh"),
    "knee": ("Leg", "Knee", "Shin"),
    "ankle": ("Foot", "Ankle"),
    "toe": ("ToeBase", "Toe", "Foot end", "Ankle end"),
    "shoulder": ("Arm", "UpArm", "UpperArm", "Shoulder"),
    "elbow": ("ForeArm", "LowArm", "LowerArm", "Elbow"),
    "hand": ("Hand", "Wrist"),
}
"""Names behind Left and Right, the first that a file has is taken: LAFAN1, CMU, Mixamo; 100STYLE; older files."""


@dataclass(frozen=True, kw_only=True)
class HumanPoints:
    """Positions in the world, left before right; any unit, x forward, y left, z up."""

    hz: float
    """Frames per second."""
    hip: Float[np.ndarray, "frame 2 3"]
    """Where the thighs begin."""
    knee: Float[np.ndarray, "frame 2 3"]
    """Where the shins begin."""
    ankle: Float[np.ndarray, "frame 2 3"]
    """Where the feet begin."""
    shoulder: Float[np.ndarray, "frame 2 3"]
    """Where the upper arms begin."""
    elbow: Float[np.ndarray, "frame 2 3"]
    """Where the forearms begin."""
    hand: Float[np.ndarray, "frame 2 3"]
    """Where the hands begin."""
    toe: Float[np.ndarray, "frame 2 3"] | None = None
    """The tips of the feet; None leaves the feet level."""

    @property
    def leg_length(self) -> float:
        """Thigh and shin, mean over sides and frames, in the recording's unit."""
        thigh = np.linalg.norm(self.knee - self.hip, axis=-1)
        shin = np.linalg.norm(self.ankle - self.knee, axis=-1)
        return float((thigh + shin).mean())


def human_points(motion: RecordedMotion) -> HumanPoints:
    """Pick the points out of a recording.

    Raises:
        UserError: If one is missing, or limbs have no length.
    """
    found = {point: _find(motion, point) for point in CONVENTIONS}
    if missing := [point for point in POINTS if found[point] is None]:
        wanted = ", ".join(f"Left{name}" for name in CONVENTIONS[missing[0]])
        raise UserError(f"the skeleton has no joints for the {missing[0]}s: wanted one of {wanted} (and Right...)")
    toe, ankle = found["toe"], found["ankle"]
    if toe is not None and (toe == ankle).all(axis=-1).any():  # a foot that ends where it begins says nothing
        found["toe"] = None
    points = HumanPoints(hz=motion.hz, **{point: place for point, place in found.items() if place is not None})
    for begin, end in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "hand")):
        if not (np.linalg.norm(getattr(points, end) - getattr(points, begin), axis=-1) > 0.0).all():
            raise UserError(f"{begin} and {end} of the skeleton are at the same place")
    trunk = points.shoulder.mean(axis=1) - points.hip.mean(axis=1)
    length = np.linalg.norm(trunk, axis=-1)
    if not (length > 0.0).all():
        raise UserError("hips and shoulders of the skeleton are at the same place")
    if np.median(trunk[:, 2] / length) < _UPRIGHT:
        _log.warning("the person lies most of the time; if the file's z axis points up, give --up z")
    return points


def _find(motion: RecordedMotion, point: str) -> Float[np.ndarray, "frame 2 3"] | None:
    for name in CONVENTIONS[point]:
        pair = (f"Left{name}", f"Right{name}")
        if all(side in motion.names for side in pair):
            return motion.positions[:, [motion.names.index(side) for side in pair]]
    return None
