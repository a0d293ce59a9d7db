"""The motions to follow and the command that is shown."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter1d

from motionlex.data import quaternion
from motionlex.data.arrays import Array
from motionlex.data.clip import MotionClip
from motionlex.data.compatibility import check_fits
from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
from motionlex.envs.kinematics import SiteKinematics, SiteStates
from motionlex.envs.rewards import BodyState

MINIMUM_RUN = 40
"""Frames of the shortest stretch of valid frames that is used."""


class MotionLibrary:
    """All valid stretches ("runs") of some clips, concatenated; velocities never cross a run's ends."""

    def __init__(self, clips: Sequence[MotionClip], robot: Robot, hz: float) -> None:
        """Cut the clips into runs of valid frames.

        Args:
            clips: Motions of this robot, all at ``hz``.
            robot: Whose motions they are.
            hz: Control rate [1/s].

        Raises:
            UserError: If rates or joints differ or nothing is left.
        """
        self.robot, self.hz = robot, hz
        runs: list[tuple[int, int, MotionClip]] = []
        for index, clip in enumerate(clips):
            check_fits(clip, robot)
            if abs(clip.hz - hz) > 1e-9:
                raise UserError(f"clip {clip.name!r} has {clip.hz:g} Hz; the library wants {hz:g} Hz")
            runs += [(index, start, clip.slice(start, stop)) for start, stop in valid_runs(clip)]
        if not runs:
            raise UserError(
                f"no stretch of at least {MINIMUM_RUN} valid frames ({MINIMUM_RUN / hz:.2f} s) in the clips"
            )
        self.clip_names = tuple(clip.name for clip in clips)
        used = {index for index, _, _ in runs}
        self.unused = tuple(clip.name for index, clip in enumerate(clips) if index not in used)
        """Clips without a stretch that is long enough: nothing of them is here."""
        lengths = np.array([run.frames for _, _, run in runs])
        self.run_starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        self.run_stops = self.run_starts + lengths
        self.run_last = self.run_stops - 1
        self.run_clip = np.array([index for index, _, _ in runs])
        self.run_of = np.repeat(np.arange(len(runs)), lengths)
        self.clip_frame = np.concatenate([start + np.arange(run.frames) for _, start, run in runs])
        self.run_group, self.group_shares = np.zeros(len(runs), dtype=np.int64), (1.0,)  # see envs/joining.py
        self.qpos = np.concatenate([run.qpos for _, _, run in runs])
        self.qvel = np.concatenate([run.qvel() for _, _, run in runs])
        self.kinematics = SiteKinematics(robot)
        self.sites: Array = np.ascontiguousarray(self.kinematics(self.qpos.astype(np.float32)))
        self._motion: SiteStates | None = None

    def add_motion(self) -> None:
        """Let the references carry rotations and velocities of the key points, which some rewards want."""
        if self._motion is None:
            self._motion = self.kinematics.states(self.qpos, self.qvel)

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> MotionLibrary:
        """Return the same library with torch arrays on a device."""
        moved = copy.copy(self)
        for name in ("qpos", "qvel", "sites"):
            setattr(moved, name, torch.as_tensor(getattr(self, name), dtype=dtype, device=device))
        for name in ("run_starts", "run_stops", "run_last", "run_clip", "run_of", "run_group", "clip_frame"):
            setattr(moved, name, torch.as_tensor(getattr(self, name), device=device))
        moved._motion = None
        return moved

    @property
    def frames(self) -> int:
        """Number of frames of all runs."""
        return len(self.qpos)

    @property
    def last_frame(self) -> Int[Array, " frame"]:
        """Last frame of the run of every frame."""
        return self.run_last[self.run_of]

    def clip_of(self, frame: Int[Array, " env"]) -> Int[Array, " env"]:
        """Return the index (into ``clip_names``) of the clip of each frame."""
        return self.run_clip[self.run_of[frame]]

    def at(self, frame: Int[Array, " env"]) -> BodyState:
        """Return the reference at some frames."""
        motion = None
        if self._motion is not None:
            whole = self._motion
            motion = SiteStates(
                position=whole.position[frame],
                rotation=whole.rotation[frame],
                linear=whole.linear[frame],
                angular=whole.angular[frame],
            )
        return BodyState(qpos=self.qpos[frame], qvel=self.qvel[frame], sites=self.sites[frame], motion=motion)


def valid_runs(clip: MotionClip) -> list[tuple[int, int]]:
    """Return [start, stop) of every stretch of valid frames long enough to use."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], np.asarray(clip.valid), [False])).astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= MINIMUM_RUN]


@dataclass(frozen=True, kw_only=True)
class CommandSource:
    """What the policy is shown at every library frame; reward, start and termination use the library itself.

    Frames are rows of ``qpos``/``qvel``; ``rows[t]`` names those seen at library frame t. A command that is decoded
    segment by segment shows at t only frames of the segment that runs at t, as at run time. There may be several
    variants of a command (other draws of the codes of the same motion); an episode sees one of them throughout.
    """

    qpos: Float[Array, "row coordinate"] | None = None
    """Command frames in the world; the rows of one variant after those of the other."""
    qvel: Float[Array, "row velocity"] | None = None
    """Their velocities."""
    rows: Int[Array, "frame ahead"] | None = None
    """Rows (of variant 0) shown at each library frame, one per look-ahead."""
    codes: Int[Array, "variant segment token"] | None = None
    """Codes of every segment."""
    segment: Int[Array, " frame"] | None = None
    """Segment that runs at each library frame."""
    phase: Float[Array, " frame"] | None = None
    """Frames since that segment's start, divided by the frames between replans."""
    vocabulary: int = 0
    """Number of code values."""
    variants: int = 1
    """How many variants there are."""

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> CommandSource:
        """Return the same command with torch arrays on a device."""
        moved: dict[str, Array] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                real = dtype if np.issubdtype(value.dtype, np.floating) else None
                moved[field.name] = torch.as_tensor(value, dtype=real, device=device)
        return replace(self, **moved)

    def rows_at(self, frame: Int[Array, " env"], variant: Int[Array, " env"]) -> Int[Array, "env ahead"]:
        """Return the rows of ``qpos`` and ``qvel`` that are shown at some library frames."""
        assert self.rows is not None and self.qpos is not None
        rows = self.rows[frame]
        if self.variants == 1:
            return rows
        return rows + (len(self.qpos) // self.variants) * variant[:, None]

    def codes_at(
        self, frame: Int[Array, " env"], variant: Int[Array, " env"]
    ) -> tuple[Int[Array, "env token"], Float[Array, " env"]]:
        """Return codes and phase that are shown at some library frames."""
        assert self.codes is not None and self.segment is not None and self.phase is not None
        return self.codes[variant, self.segment[frame]], self.phase[frame]

    def permuted(self, generator: np.random.Generator) -> CommandSource:
        """Return the command of wrong moments: segments (or frames, where there are none) in random order.

        What the policy sees at t then belongs to another place of the library: codes, hinge angles and velocities are
        those of the other place, while the root is left where it is, so that the error is the content's alone.
        """
        if self.codes is not None:
            return replace(self, codes=generator.permutation(self.codes, axis=1))
        assert self.qpos is not None and self.qvel is not None and self.rows is not None
        blocks = np.arange(len(self.qpos)) // 50
        order = generator.permutation(blocks.max() + 1)
        source = np.minimum(order[blocks] * 50 + np.arange(len(blocks)) % 50, len(blocks) - 1)
        qpos, qvel = self.qpos.copy(), self.qvel.copy()
        qpos[:, 7:], qvel[:, 6:] = self.qpos[source, 7:], self.qvel[source, 6:]
        return replace(self, qpos=qpos, qvel=qvel)


def reference_command(library: MotionLibrary, ahead: Sequence[int]) -> CommandSource:
    """Show the data set's own frames, held at the end of each run."""
    frames = np.arange(library.frames)[:, None] + np.asarray(ahead)
    return CommandSource(qpos=library.qpos, qvel=library.qvel, rows=np.minimum(frames, library.last_frame[:, None]))


def smooth(clip: MotionClip, *, sigma_s: float = 0.02) -> MotionClip:
    """Smooth positions by a Gaussian of ``sigma_s`` [s]; the root quaternion is renormalised, the mask kept.

    Every unbroken run is smoothed by itself and continued beyond its ends by a turn of half a circle about its last
    points: a run that was cut out of a longer motion keeps its speed at its ends, where episodes start.
    """
    width = round(4.0 * sigma_s * clip.hz) + 1  # where the filter's window ends
    qpos = clip.qpos.copy()
    for start, stop in valid_runs(clip):
        ends = min(width, stop - start - 1)
        padded = np.pad(clip.qpos[start:stop], ((ends, ends), (0, 0)), mode="reflect", reflect_type="odd")
        filtered = gaussian_filter1d(padded, sigma_s * clip.hz, axis=0, mode="nearest")
        qpos[start:stop] = filtered[ends : len(filtered) - ends]
    qpos[:, 3:7] = quaternion.normalise(qpos[:, 3:7])
    return replace(clip, qpos=qpos)


def settle(clip: MotionClip, robot: Robot, *, percentile: float = 20.0) -> MotionClip:
    """Shift the root height so that the given percentile of the lowest foot site's height is that of standing."""
    kinematics = SiteKinematics(robot)
    feet = [i for i, name in enumerate(robot.sites) if "foot" in name]
    standing = np.concatenate(([0.0, 0.0, robot.standing_height, 1.0, 0.0, 0.0, 0.0], robot.default_pose))[None]
    sole = float(kinematics(standing)[0, feet, 2].min())
    lowest = kinematics(clip.qpos)[:, feet, 2].min(axis=1)
    qpos = clip.qpos.copy()
    qpos[:, 2] -= np.percentile(lowest[np.asarray(clip.valid)], percentile) - sole
    return replace(clip, qpos=qpos)
