"""What the low-level policy is shown: data-set frames, frames decoded from codes, or the codes themselves."""

from __future__ import annotations

from collections.abc import Mapping
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
    codes, decoded = _encode(library, starts, autoencoder, seed, variants)
    shown = {"segment": segment, "phase": local / STRIDE, "variants": variants}
    if goal == "latent":
        return CommandSource(codes=codes, vocabulary=autoencoder.model.vocabulary, **shown)
    root = np.tile(library.qpos[starts], (variants, 1))
    yaw = quaternion.yaw(root[:, 3:7])
    qpos, qvel = features_to_state(decoded, hz=library.hz, start_xy=root[:, :2], start_yaw=yaw)
    rows = segment[:, None] * SEGMENT + np.minimum(local[:, None] + np.asarray(ahead), SEGMENT - 1)
    return CommandSource(
        qpos=qpos.reshape(-1, qpos.shape[-1]),
        qvel=qvel.reshape(-1, qvel.shape[-1]),
        rows=rows,
        **shown,
    )


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


def _encode(
    library: MotionLibrary,
    starts: Int[np.ndarray, " segment"],
    autoencoder: SegmentCodec,
    seed: int,
    variants: int,
) -> tuple[Int[np.ndarray, "variant segment token"], Float[np.ndarray, "row frame feature"]]:
    """Return the codes of all segments and the features decoded from them, in each segment's heading frame.

    The rows of the decoded features are the segments of the first variant, then those of the next.
    """
    kinematics = ForwardKinematics(library.robot)
    world = compute_features(library.qpos, library.qvel, kinematics)
    device = next(autoencoder.model.parameters()).device
    codes: list[list[np.ndarray]] = []
    decoded = []
    for variant in range(variants):
        generator = torch.Generator(device=device).manual_seed(seed + 7919 * variant)
        codes.append([])
        for part in np.array_split(starts, max(1, len(starts) // _BATCH)):
            local, _ = to_heading(world[part[:, None] + np.arange(SEGMENT)])
            x = torch.as_tensor(autoencoder.statistics.standardise(local), dtype=torch.float32, device=device)
            indices = autoencoder.encode_features(x, generator)
            codes[-1].append(indices.cpu().numpy().astype(np.int64))
            decoded.append(autoencoder.decode_features(indices))
    return np.stack([np.concatenate(parts) for parts in codes]), np.concatenate(decoded).astype(np.float64)


def decoded_errors(library: MotionLibrary, command: CommandSource) -> Mapping[str, float]:
    """Return how far the shown next frame is from the data: mean joint error [rad] and root distance [mm]."""
    assert command.qpos is not None and command.rows is not None
    shown = command.qpos[command.rows[:, 0]]
    truth = library.qpos[np.minimum(np.arange(library.frames) + 1, library.last_frame)]
    return {
        "command_joint_error_rad": float(np.abs(shown[:, 7:] - truth[:, 7:]).mean()),
        "command_root_error_mm": float(1e3 * np.linalg.norm(shown[:, :3] - truth[:, :3], axis=1).mean()),
    }
