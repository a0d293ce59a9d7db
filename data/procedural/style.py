"""What a command asks of the body: the numbers of one variant of one action."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Style:
    """One variant of one action; gaits set ``velocity``, actions on the spot set the upper body."""

    label: str
    """Action label, a key of ``data/captions.py``."""
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Forward [m/s], left [m/s] and turning [rad/s] speed in the heading frame."""
    stepping: bool = False
    """True for gaits, also for those that stay on the spot."""
    step_frames: int = 25
    """Frames from one landing to the next."""
    double_frames: int = 5
    """Frames with both feet on the floor in each step; negative: frames of flight."""
    half_width: float = 0.2
    """Sideways distance of each foot from the middle [m]."""
    clearance: float = 0.06
    """Height of the swing foot's sole [m]."""
    toe_pitch: float = 0.2
    """Toe-down pitch early in the swing [rad]."""
    crouch: float = 0.0
    """How far the centre of mass is below its standing height [m]."""
    lean: float = 0.0
    """Forward pitch of the pelvis [rad]."""
    arm_swing: float = 0.8
    """Shoulder pitch per metre by which the opposite foot is ahead [rad/m]."""
    elbow: float = 1.2
    """Elbow angle at rest [rad]; 1.57 is a straight arm."""
    amplitude: float = 1.0
    """Size of the action on the spot: depth [m] of a squat, angle [rad] of a bow, relative size otherwise."""
    period_s: float = 2.0
    """Duration of one cycle of the action on the spot [s]."""
    phase: float = 0.0
    """Where in its cycle the action starts, as a fraction."""
    mirrored: bool = False
    """Left and right exchanged (which arm waves, which side leads)."""
    flight_frames: int = 0
    """Frames in the air of every hop; 0: no hop."""

    @property
    def speed(self) -> float:
        """Horizontal speed [m/s]."""
        return (self.velocity[0] ** 2 + self.velocity[1] ** 2) ** 0.5


@dataclass(frozen=True, kw_only=True)
class Command:
    """An order in force over the frames [start, stop)."""

    start: int
    """Frame at which it is given."""
    stop: int
    """Frame at which the next one is given."""
    style: Style
    """What is asked."""
