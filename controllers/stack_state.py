"""What the stack is set to, what it was told, and what a control step led to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from motionlex.data.errors import check_number

REST = "stand still"
"""What the robot does instead of a command that it does not understand."""
LONGEST_TEXT = 1000
"""Characters of a command that are read."""


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """How plan and robot are held together."""

    max_offset: float = 0.15
    """Largest distance between planned and measured root when a segment is placed [m]."""
    max_turn: float = 0.2
    """Largest difference between planned and measured heading when a segment is placed [rad]."""
    blend_frames: int = 4
    """Frames over which a new segment fades in."""
    catch_up_s: float = 0.6
    """Time constant with which a desired path leads the robot back to it [s]."""
    max_error: float = 0.3
    """Largest distance to the path that is made up for at once [m]."""
    max_turn_error: float = 0.5
    """The same for the heading [rad]."""
    lead_s: float = 0.2
    """How long before its beginning a segment is decided [s]; 0 decides it when it begins, without a thread."""
    understood_from: float | None = None
    """Cosine similarity to the nearest caption below which a command is not obeyed; None takes the bundle's."""
    recover_s: float | None = 1.5
    """Time on the ground after which a fallen robot gets up by itself if the bundle has learned that, else is put on
    its feet at the same place [s]; None leaves it there."""

    def __post_init__(self) -> None:
        for name in ("max_offset", "max_turn", "blend_frames", "max_error", "max_turn_error", "lead_s", "recover_s"):
            check_number(name, getattr(self, name), at_least=0)
        check_number("catch_up_s", self.catch_up_s, above=0)
        check_number("understood_from", self.understood_from, at_least=-1, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that was given."""

    text: str
    """What was said."""
    action: str
    """Nearest known action; shown to people, used by no controller."""
    similarity: float
    """Cosine similarity to the nearest caption of that action."""
    start_s: float
    """Time at which it was given [s]."""
    understood: bool = True
    """Whether it is obeyed; if not, the robot stands still."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What one control step led to."""

    time: float
    """Simulated time since the start [s]."""
    qpos: Float[np.ndarray, " coordinate"]
    """Measured root position [m], quaternion (w, x, y, z), hinges [rad]."""
    qvel: Float[np.ndarray, " velocity"]
    """Measured velocities [m/s, rad/s]."""
    torque: Float[np.ndarray, " actuator"]
    """Motor torques of the last physics step [N m]."""
    planned_qpos: Float[np.ndarray, " coordinate"]
    """Positions that were planned for this moment, in the world."""
    codes: Int[np.ndarray, " token"]
    """Codes of the running segment."""
    frame: int
    """Control steps since that segment began, or should have begun if it was late; above 16 while the next is late."""
    event: str | None
    """What happened out of the ordinary: ``fell``, ``gets up`` and ``got up`` (by itself), ``stood up`` (put on its
    feet) or ``diverged`` (the simulation did; put on its feet too). A robot that is put on its feet stands at rest, in
    the default pose, where it was upright last."""
