"""The motions to follow, the command that is shown, and where episodes start."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d

from motionlex.data import quaternion
from motionlex.data.arrays import Array, namespace
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


_LOOK_AHEAD = 3
"""Bins after its own that count for a bin's weight."""
_DECAY = 0.8
"""How much less each of them counts than the one before it."""


class StartSampler:
    """Start frames, more often shortly before where the policy fails.

    The library is cut into bins of 0.5 s. Each keeps a moving average of failure: a finished episode writes 0 to the
    bins it passed and 1 to the bin in which it was terminated. A bin's weight is its own average plus those of the bins
    of the next 1.5 s, each 0.8 of the one before: a fall begins a second or more before the reference counts as lost.
    A share of the starts stays uniform over all frames. Bins never cross the ends of a run. Where a library
    has several groups of runs, each group gets its share of the starts, however it fares.
    """

    def __init__(
        self, library: MotionLibrary, *, bin_s: float = 0.5, uniform_share: float = 0.3, rate: float = 0.1
    ) -> None:
        """Cut the library into bins; all count as failing until proven otherwise.

        Args:
            library: Motions; the sampler's arrays are of their kind.
            bin_s: Width of a bin [s].
            uniform_share: Share of the starts that is uniform over all frames.
            rate: Weight of one finished episode in a bin's moving average.
        """
        width = max(1, round(bin_s * library.hz))
        tail = 10  # an episode that starts in a run's last frames teaches nothing
        edges = [
            (start, min(start + width, int(stop) - tail))
            for a, stop in zip(library.run_starts, library.run_stops, strict=True)
            for start in range(int(a), int(stop) - tail, width)
        ]
        starts, stops = (np.array(side) for side in zip(*edges, strict=True))
        joined = np.append(stops[:-1] == starts[1:], False)
        size = (stops - starts).astype(float)
        self._starts, self._size, self._joined, self._floor, self.failure = (
            value if isinstance(library.qpos, np.ndarray) else torch.as_tensor(value, device=library.qpos.device)
            for value in (starts, size, joined.astype(float), uniform_share * size / size.sum(), np.ones(len(edges)))
        )
        self._uniform_share, self._rate, self._bin_s = uniform_share, rate, width / library.hz
        self._groups = _memberships(library, starts) if len(library.group_shares) > 1 else None

    def sample(self, draw: Float[Array, "2 env"]) -> Int[Array, " env"]:
        """Return start frames.

        Args:
            draw: Uniform numbers in [0, 1), two per start.
        """
        xp = namespace(self.failure)
        weight = self.failure + 1e-9
        for _ in range(_LOOK_AHEAD):  # each round looks one bin further
            after = xp.concat((weight[1:], xp.zeros_like(weight[:1]))) * self._joined
            weight = self.failure + _DECAY * after + 1e-9
        share = (1.0 - self._uniform_share) * weight / weight.sum() + self._floor
        if self._groups is not None:
            member, wanted = self._groups
            share = share * ((wanted / (member @ share)) @ member)
        cumulative = xp.cumulative_sum(share)
        chosen = xp.searchsorted(cumulative, draw[0] * cumulative[-1], side="right")
        chosen = xp.where(chosen < len(share), chosen, len(share) - 1)
        return self._starts[chosen] + xp.astype(draw[1] * self._size[chosen], self._starts.dtype)

    def update(
        self, start: Int[Array, " episode"], end: Int[Array, " episode"], failed: Bool[Array, " episode"]
    ) -> None:
        """Learn from finished episodes that ran over [start, end] of one run each; their order does not matter.

        With n episodes that passed or failed in a bin and k that failed there, the average f becomes
        (1 - r)^n f + (1 - (1 - r)^n) k / n.
        """
        xp, bins = namespace(self.failure), len(self.failure)
        first = xp.searchsorted(self._starts, start, side="right") - 1
        last = xp.searchsorted(self._starts, end, side="right") - 1
        begun = xp.bincount(first, minlength=bins + 1)[:bins]
        ended = xp.bincount(last + 1, minlength=bins + 1)[:bins]
        passed = xp.cumulative_sum(begun - ended)
        lost = xp.bincount(last[failed], minlength=bins + 1)[:bins]
        kept = (1.0 - self._rate) ** passed
        self.failure = kept * self.failure + (1.0 - kept) * lost / xp.where(passed > 0, passed, 1)

    def failing_share(self, episode_s: float) -> float:
        """Return the share of episodes of a duration that end early if every bin fails as often as the mean bin."""
        return 1.0 - (1.0 - float(self.failure.mean())) ** (episode_s / self._bin_s)


def _memberships(
    library: MotionLibrary, starts: Int[np.ndarray, " bin"]
) -> tuple[Float[Array, "group bin"], Float[Array, " group"]]:
    """Return which bins belong to which group of runs (ones and zeros), and the groups' shares of the starts."""
    run = np.searchsorted(np.asarray(library.run_starts.tolist()), starts, side="right") - 1
    group = np.asarray(library.run_group.tolist())[run]
    member = (group == np.arange(len(library.group_shares))[:, None]).astype(np.float64)
    wanted = np.array(library.group_shares)
    if isinstance(library.qpos, np.ndarray):
        return member, wanted
    device = library.qpos.device
    return torch.as_tensor(member, device=device), torch.as_tensor(wanted, device=device)


def smooth(clip: MotionClip, *, sigma_s: float = 0.02) -> MotionClip:
    """Smooth positions by a Gaussian of ``sigma_s`` [s]; the root quaternion is renormalised, the mask kept."""
    qpos = gaussian_filter1d(clip.qpos, sigma_s * clip.hz, axis=0, mode="nearest")
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
