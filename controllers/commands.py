"""What the low-level policy is shown: data-set frames, frames decoded from codes, or the codes themselves."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.data.features import FeatureStatistics, compute_features, features_to_state, to_heading
from motionlex.data.kinematics import ForwardKinematics
from motionlex.envs.reference import CommandSource, MotionLibrary, reference_command
from motionlex.envs.task_config import Goal
from motionlex.motion_vae.contract import DiscreteAutoencoder

SEGMENT = 32
"""Frames of a segment."""
STRIDE = 16
"""Frames executed before the next segment takes over."""
_BATCH = 256


@runtime_checkable
class SegmentCodec(Protocol):
    """What is needed of an autoencoder; :class:`motionlex.motion_vae.checkpoint.TrainedAutoencoder` is one."""

    model: DiscreteAutoencoder
    statistics: FeatureStatistics

    def encode_features(
        self, features: Float[Tensor, "batch frame feature"], generator: torch.Generator
    ) -> Int[Tensor, "batch token"]:
        """Draw the codes of standardised segments."""
        ...

    def decode_features(self, indices: Int[Tensor, "batch token"]) -> Float[np.ndarray, "batch frame feature"]:
        """Decode codes to features in their own units."""
        ...


def build_command_source(
    goal: Goal,
    library: MotionLibrary,
    autoencoder: SegmentCodec | None,
    *,
    ahead: tuple[int, ...] = (1, 8),
    seed: int = 0,
    variants: int = 1,
) -> CommandSource:
    """Build what the policy sees along a library.

    With ``decoded`` and ``latent`` every run is cut into segments that start every 16 frames (and one that ends with
    the run); frame 0 of a segment is the present at its start, frames 1 to 16 are executed, and look-ahead frames come
    from the segment that runs, as at run time. Decoded segments stand at the reference root of their start; velocities
    are the decoded ones.

    Args:
        goal: What to show.
        library: Motions to follow.
        autoencoder: Trained autoencoder; needed for ``decoded`` and ``latent``.
        ahead: Look-ahead of the command frames [frames].
        seed: Seed of the code samples.
        variants: Draws of the codes of every segment; variant 0 is the same whatever their number.

    Raises:
        UserError: If the autoencoder is missing or was trained at another rate.
    """
    if goal == "reference":
        return reference_command(library, ahead)
    if autoencoder is None:
        raise UserError(f"--goal {goal} needs the codes of an autoencoder: give --vae RUN")
    if abs(autoencoder.statistics.hz - library.hz) > 1e-9:
        raise UserError(
            f"the autoencoder was trained at {autoencoder.statistics.hz:g} Hz, control is {library.hz:g} Hz"
        )
    starts, segment, local = segment_layout(library)
    features = segment_features(library, starts, autoencoder)
    codes = np.stack([draw_codes(features, autoencoder, seed + 7919 * variant) for variant in range(variants)])
    shown = {"segment": segment, "phase": local / STRIDE, "variants": variants}
    if goal == "latent":
        return CommandSource(codes=codes, vocabulary=autoencoder.model.vocabulary, **shown)
    anchors = library.qpos[starts]
    frames = [decode_segments(drawn, anchors, autoencoder, library.hz) for drawn in codes]
    qpos, qvel = (np.concatenate([pair[side].reshape(-1, pair[side].shape[2]) for pair in frames]) for side in (0, 1))
    return CommandSource(qpos=qpos, qvel=qvel, rows=look_ahead(segment, local, ahead), **shown)


def segment_layout(
    library: MotionLibrary,
) -> tuple[Int[np.ndarray, " segment"], Int[np.ndarray, " frame"], Int[np.ndarray, " frame"]]:
    """Return start frames of the segments, the segment of every frame, and the frame's place in it."""
    starts: list[int] = []
    segment = np.zeros(library.frames, dtype=np.int64)
    for a, stop in zip(library.run_starts, library.run_stops, strict=True):
        run = [*range(a, stop - SEGMENT, STRIDE), stop - SEGMENT]
        first = len(starts)
        for index, start in enumerate(run):
            segment[start:stop] = first + index
        starts += run
    array = np.array(starts)
    return array, segment, np.arange(library.frames) - array[segment]


def look_ahead(
    segment: Int[np.ndarray, " frame"], local: Int[np.ndarray, " frame"], ahead: tuple[int, ...]
) -> Int[np.ndarray, "frame ahead"]:
    """Return the rows seen at every frame, where row 32 s + i is frame i of segment s: none is of another segment."""
    return segment[:, None] * SEGMENT + np.minimum(local[:, None] + np.asarray(ahead), SEGMENT - 1)


def segment_features(
    library: MotionLibrary, starts: Int[np.ndarray, " segment"], autoencoder: SegmentCodec
) -> Float[np.ndarray, "segment frame feature"]:
    """Return the standardised features (float32) of segments, each in the heading frame of its first frame."""
    kinematics = ForwardKinematics(library.robot)
    world = compute_features(library.qpos, library.qvel, kinematics).astype(np.float32)
    parts = []
    for part in _parts(len(starts)):
        local, _ = to_heading(world[starts[part][:, None] + np.arange(SEGMENT)])
        parts.append(autoencoder.statistics.standardise(local).astype(np.float32))
    return np.concatenate(parts)


def draw_codes(
    features: Float[np.ndarray, "segment frame feature"], autoencoder: SegmentCodec, seed: int
) -> Int[np.ndarray, "segment token"]:
    """Draw the codes of segments from the autoencoder's posterior."""
    device = next(autoencoder.model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    drawn = [
        autoencoder.encode_features(torch.as_tensor(features[part], device=device), generator)
        for part in _parts(len(features))
    ]
    return torch.cat(drawn).cpu().numpy().astype(np.int64)


def decode_segments(
    codes: Int[np.ndarray, "segment token"],
    anchors: Float[np.ndarray, "segment coordinate"],
    autoencoder: SegmentCodec,
    hz: float,
) -> tuple[Float[np.ndarray, "segment frame coordinate"], Float[np.ndarray, "segment frame velocity"]]:
    """Decode codes and place every segment at a root (x, y and heading of its anchor).

    Returns:
        Positions and velocities in single precision: four draws of LAFAN's 147 minutes take 0.7 GB so.
    """
    device = next(autoencoder.model.parameters()).device
    count = len(codes)
    qpos = np.empty((count, SEGMENT, anchors.shape[1]), dtype=np.float32)
    qvel = np.empty((count, SEGMENT, anchors.shape[1] - 1), dtype=np.float32)
    for part in _parts(count):
        decoded = autoencoder.decode_features(torch.as_tensor(codes[part], device=device)).astype(np.float64)
        root = anchors[part]
        yaw = quaternion.yaw(root[:, 3:7])
        qpos[part], qvel[part] = features_to_state(decoded, hz=hz, start_xy=root[:, :2], start_yaw=yaw)
    return qpos, qvel


def _parts(count: int) -> list[slice]:
    """Cut rows into batches of about ``_BATCH``, whose borders the generators of the codes depend on."""
    edges = np.cumsum([0, *(len(part) for part in np.array_split(np.arange(count), max(1, count // _BATCH)))])
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def decoded_errors(library: MotionLibrary, command: CommandSource) -> Mapping[str, float]:
    """Return how far the shown next frame is from the data: mean joint error [rad] and root distance [mm]."""
    assert command.qpos is not None and command.rows is not None
    shown = command.qpos[command.rows[:, 0]]
    truth = library.qpos[np.minimum(np.arange(library.frames) + 1, library.last_frame)]
    return {
        "command_joint_error_rad": float(np.abs(shown[:, 7:] - truth[:, 7:]).mean()),
        "command_root_error_mm": float(1e3 * np.linalg.norm(shown[:, :3] - truth[:, :3], axis=1).mean()),
    }
