"""Planner: text and path -> codes -> frames, without physics.

The plan lives in a horizontal frame of its own, the plan frame. It begins where the robot starts; ``stack.py`` moves
the whole plan rigidly when the robot cannot keep up, so that the history of the planner never jumps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.conditions import WINDOW, Conditions, path_features, to_local
from motionlex.controllers.latent_policy import LatentPolicy
from motionlex.data import quaternion
from motionlex.data.features import compute_features, features_to_state, rotate_features, to_heading
from motionlex.data.kinematics import ForwardKinematics
from motionlex.motion_vae.checkpoint import TrainedAutoencoder

METRES_PER_RADIAN = 0.5
"""What a wrong heading counts when candidates are compared [m/rad]: about a second of walking in a direction that is
wrong by 1 rad leads so far away."""
COMPARED_FRAMES = 24
"""Frames that candidates are compared over: the executed half and half of the rest."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One decoded segment, in the plan frame."""

    codes: Int[np.ndarray, " token"]
    """The codes that were chosen."""
    qpos: Float[np.ndarray, "frame coordinate"]
    """Planned positions; frame 0 is the present."""
    qvel: Float[np.ndarray, "frame velocity"]
    """Planned velocities."""

    def anchor(self, frame: int) -> tuple[Float[np.ndarray, " 2"], float]:
        """Return the root's position [m] and heading [rad] at a frame, plan frame."""
        return self.qpos[frame, :2].copy(), float(quaternion.yaw(self.qpos[frame : frame + 1, 3:7])[0])


@dataclass(frozen=True, kw_only=True)
class DesiredPath:
    """The coming centre-of-mass path of the next ``WINDOW`` frames, in the plan frame."""

    xy: Float[np.ndarray, "frame 2"]
    """Positions [m]."""
    yaw: Float[np.ndarray, " frame"] | None
    """Headings [rad], None when free."""


class Planner:
    """Chains segments: each is chosen from the frames that were planned before it."""

    def __init__(
        self,
        autoencoder: TrainedAutoencoder,
        policy: LatentPolicy,
        kinematics: ForwardKinematics,
        *,
        hz: float,
        sampling: SamplingConfig,
        generator: torch.Generator,
        blend_frames: int = 4,
    ) -> None:
        """Join the trained parts.

        Args:
            autoencoder: Decodes codes.
            policy: Chooses codes.
            kinematics: Forward kinematics of the robot.
            hz: Rate of the plan [Hz].
            sampling: How codes are drawn.
            generator: Source of the draws.
            blend_frames: Frames over which a new segment fades in over the one it replaces.
        """
        self._autoencoder, self._policy, self._kinematics = autoencoder, policy, kinematics
        self._hz, self._sampling, self._generator, self._blend = hz, sampling, generator, blend_frames
        self._features = np.zeros((WINDOW, 127))
        self._com = np.zeros((WINDOW, 2))
        self._xy, self._yaw = np.zeros(2), 0.0
        self._tail: tuple[np.ndarray, np.ndarray] | None = None
        self._running: tuple[np.ndarray, Segment] | None = None

    @property
    def hz(self) -> float:
        """Rate of the plan [Hz]."""
        return self._hz

    @property
    def com(self) -> Float[np.ndarray, " 2"]:
        """Planned centre of mass at the latest frame [m], plan frame."""
        return self._com[-1]

    @property
    def anchor(self) -> tuple[Float[np.ndarray, " 2"], float]:
        """Planned root at the latest frame: position [m] and heading [rad], plan frame."""
        return self._xy, self._yaw

    def reset(self, qpos: Float[np.ndarray, " coordinate"]) -> None:
        """Start from a pose at rest, as if it had been held for the whole history."""
        features = compute_features(qpos[None], np.zeros((1, 25)), self._kinematics)
        self._features = np.repeat(features, WINDOW, axis=0)
        self._com = np.repeat(self._kinematics(qpos[None]).com[:, :2], WINDOW, axis=0)
        self._xy, self._yaw = qpos[:2].copy(), float(quaternion.yaw(qpos[None, 3:7])[0])
        self._tail = self._running = None

    def conditions(self, text: Float[Tensor, "piece width"], path: DesiredPath | None) -> Conditions:
        """Describe the present to the latent policy, in its heading frame."""
        local, _ = to_heading(self._features[None], reference_frame=WINDOW - 1)
        yaw = np.array([self._yaw])
        if path is None:
            path_rows = np.zeros((1, WINDOW, 4))
        else:
            path_yaw = np.zeros(WINDOW) if path.yaw is None else path.yaw
            has_yaw = np.array([path.yaw is not None])
            path_rows = path_features(path.xy[None], path_yaw[None], has_yaw, self._com[-1:], yaw)
        return Conditions(
            history=torch.from_numpy(self._autoencoder.statistics.standardise(local)).float(),
            text=text[None],
            com_past=torch.from_numpy(to_local(self._com[None], self._com[-1:], yaw)).float(),
            path=torch.from_numpy(path_rows).float(),
            has_text=torch.full((1,), bool(text.any())),
            has_path=torch.full((1,), path is not None),
        )

    def commit(self, executed: int) -> None:
        """Take the first frames of the running segment into the history; its frame ``executed`` becomes the present.

        Args:
                executed: Frames since the segment began.
        """
        if self._running is None or executed == 0:
            return
        features, segment = self._running
        taken = executed + 1  # frame 0 replaces the latest frame of the history
        com = self._kinematics(segment.qpos[:taken]).com[:, :2]
        self._features = np.concatenate([self._features[:-1], features[:taken]])[-WINDOW:]
        self._com = np.concatenate([self._com[:-1], com])[-WINDOW:]
        self._xy, self._yaw = segment.anchor(executed)
        self._tail = (segment.qpos[executed:], segment.qvel[executed:])
        self._running = None

    @torch.inference_mode()
    def replan(self, text: Float[Tensor, "piece width"], path: DesiredPath | None = None) -> Segment:
        """Choose and decode a segment that starts at the present; ``commit`` what was executed first.

        Args:
            text: Embedding of the command: the sentence, then its word pieces; zeros are no words at all.
            path: Desired centre of mass, or None.

        Returns:
            The segment, placed at the latest planned frame.
        """
        count = 1 if path is None else self._sampling.candidates
        codes, _ = self._policy.sample(self.conditions(text, path), self._generator, self._sampling, samples=count)
        features = self._autoencoder.decode_features(codes)
        best = self.best(features, path)
        return self.place(codes[best].numpy(), features[best])

    def best(self, features: Float[np.ndarray, "candidate frame feature"], path: DesiredPath | None) -> int:
        """Return which of several decoded segments strays least from a path; the first one where there is none."""
        return 0 if path is None or len(features) == 1 else int(self._path_costs(features, path).argmin())

    def _path_costs(
        self, features: Float[np.ndarray, "candidate frame feature"], path: DesiredPath
    ) -> Float[np.ndarray, " candidate"]:
        """How far decoded segments would stray from a path [m], averaged over their frames."""
        qpos, _ = self._placed(features[:, : COMPARED_FRAMES + 1])
        count, frames, size = qpos.shape
        com = self._kinematics(qpos.reshape(-1, size)).com[:, :2].reshape(count, frames, 2)
        # Frame 0 is the present, where the path's first point is one frame ahead of it.
        costs = np.linalg.norm(com[:, 1:] - path.xy[: frames - 1], axis=-1).mean(axis=1)
        if path.yaw is None:
            return costs
        turned = quaternion.wrap_angle(quaternion.yaw(qpos[:, 1:, 3:7]) - path.yaw[: frames - 1])
        return costs + METRES_PER_RADIAN * np.abs(turned).mean(axis=1)

    def _placed(
        self, features: Float[np.ndarray, "segment frame feature"]
    ) -> tuple[Float[np.ndarray, "segment frame coordinate"], Float[np.ndarray, "segment frame velocity"]]:
        """Let decoded segments begin where the plan stands."""
        xy, yaw = np.repeat(self._xy[None], len(features), axis=0), np.full(len(features), self._yaw)
        return features_to_state(np.asarray(features, dtype=np.float64), hz=self._hz, start_xy=xy, start_yaw=yaw)

    def place(self, codes: Int[np.ndarray, " token"], features: Float[np.ndarray, "frame feature"]) -> Segment:
        """Let a decoded segment run from the present on; ``commit`` what was executed first.

        Args:
            codes: What was chosen.
            features: What it decodes to, in the heading frame of its first frame.

        Returns:
            The segment, placed at the latest planned frame.
        """
        decoded = np.asarray(features, dtype=np.float64)[None]
        qpos, qvel = self._placed(decoded)
        segment = Segment(codes=codes, qpos=qpos[0], qvel=qvel[0])
        self._running = (rotate_features(decoded, np.array([self._yaw]))[0], segment)
        return _fade_in(self._tail, segment, self._blend)


def joined_late(running: Segment, reached: int, late: Segment, behind: int, frames: int) -> Segment:
    """Let a segment take over some frames after its first one, from a running segment that went on meanwhile.

    Args:
        running: What went on.
        reached: Its present frame.
        late: What should have begun some frames ago.
        behind: How many.
        frames: Frames over which the second fades in over the first.

    Returns:
        The second, which is to be executed from its frame ``behind`` on.
    """
    rest = Segment(codes=late.codes, qpos=late.qpos[behind:], qvel=late.qvel[behind:])
    rest = _fade_in((running.qpos[reached:], running.qvel[reached:]), rest, frames)
    qpos, qvel = (np.concatenate([a[:behind], b]) for a, b in ((late.qpos, rest.qpos), (late.qvel, rest.qvel)))
    return Segment(codes=late.codes, qpos=qpos, qvel=qvel)


def _fade_in(tail: tuple[np.ndarray, np.ndarray] | None, new: Segment, frames: int) -> Segment:
    """Blend the first frames of a segment with what the segment before had planned for them."""
    if tail is None or frames == 0:
        return new
    old_qpos, old_qvel = (part[:frames] for part in tail)
    frames = len(old_qpos)
    weight = (np.arange(1, frames + 1) / (frames + 1))[:, None]
    qpos, qvel = new.qpos.copy(), new.qvel.copy()
    qpos[:frames] += (1 - weight) * (old_qpos - new.qpos[:frames])
    qpos[:frames, 3:7] = quaternion.slerp(old_qpos[:, 3:7], new.qpos[:frames, 3:7], weight[:, 0])
    qvel[:frames] += (1 - weight) * (old_qvel - new.qvel[:frames])
    return Segment(codes=new.codes, qpos=qpos, qvel=qvel)
