"""Bookkeeping of running episodes, and what a control step says about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from motionlex.data.arrays import Array, namespace
from motionlex.envs.alignment import planar_pose
from motionlex.envs.reference import MotionLibrary


@dataclass(kw_only=True)
class Episodes:
    """Bookkeeping of the running episodes, one row per robot."""

    frame: Int[Array, " env"]
    """Library frame of the present."""
    start: Int[Array, " env"]
    """Library frame of the start."""
    variant: Int[Array, " env"]
    """Which of the command's variants is shown."""
    last_action: Float[Array, "env action"]
    """Action of the step before, zero at the start."""
    place: Float[Array, "env 3"]
    """Goal latent: x, y [m] and heading [rad] of the reference as reward and critic see it."""

    @classmethod
    def empty(cls, count: int, actions: int) -> Episodes:
        """Make numpy bookkeeping for ``count`` robots."""
        frames = np.zeros(count, dtype=np.int64)
        still, place = np.zeros((count, actions)), np.zeros((count, 3))
        return cls(frame=frames, start=frames.copy(), variant=frames.copy(), last_action=still, place=place)

    @classmethod
    def first(cls, library: MotionLibrary, actions: int) -> Episodes:
        """Return bookkeeping of one robot at the library's first frame, in the library's kind of arrays."""
        xp = namespace(library.qpos)
        frame = xp.zeros_like(library.run_of[:1])
        still = xp.zeros_like(library.qpos[:1, :actions])
        start, variant = xp.zeros_like(frame), xp.zeros_like(frame)
        return cls(frame=frame, start=start, variant=variant, last_action=still, place=planar_pose(library.qpos[:1]))

    def rows(self, rows: Int[Array, " row"]) -> Episodes:
        """Return a copy of some rows."""
        return Episodes(**{name: array[rows] for name, array in self._arrays().items()})

    def and_then(self, others: Episodes) -> Episodes:
        """Return these rows, then those of others."""
        theirs = others._arrays()
        return Episodes(**{name: np.concatenate((array, theirs[name])) for name, array in self._arrays().items()})

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return copies of all numpy arrays by name: for exact resume."""
        return {name: np.array(array) for name, array in self._arrays().items()}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray]) -> Episodes:
        """Return what :meth:`snapshot` was taken of; further arrays are left alone.

        Raises:
            KeyError: If an array is missing.
        """
        return cls(**{part.name: arrays[part.name].copy() for part in fields(cls)})

    def _arrays(self) -> dict[str, Array]:
        return {part.name: getattr(self, part.name) for part in fields(self)}


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one control step gave."""

    reward: Float[Array, " env"]
    """Reward."""
    terminated: Bool[Array, " env"]
    """The reference was lost or the simulation diverged."""
    truncated: Bool[Array, " env"]
    """The episode's time or its motion is over; the value of the next state counts."""
    diverged: Bool[Array, " env"]
    """The simulation blew up."""
