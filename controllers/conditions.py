"""What the latent policy is told: history, text, centre of mass and desired path, all in one heading frame.

The heading frame of a moment has its origin at the planned centre of mass (x, y), a vertical z axis, and as x axis
the heading of the planned root at that moment. History, path and the segment to come all use the frame of the latest
planned frame, so that a motion looks the same wherever it happens and whichever way it faces.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from motionlex.data import quaternion

WINDOW = 32
"""Frames of the history, of the past and of the future centre-of-mass path."""
PATH_CHANNELS = 4
"""Channels of a desired path: x [m], y [m], yaw [rad] (0 where not given), 1 where a yaw is given."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """A batch of inputs of the latent policy, in the heading frame of the latest frame of the history."""

    history: Float[Tensor, "batch frame feature"]
    """The last planned frames as standardised features; the last row is the frame at which the segment starts."""
    text: Float[Tensor, "batch piece width"]
    """Unit vectors of the sentences, then of their word pieces; rows of zeros are padding."""
    com_past: Float[Tensor, "batch frame 2"]
    """Centre of mass over the history [m]; the last row is zero."""
    path: Float[Tensor, "batch frame 4"]
    """Desired centre of mass of the frames to come: x, y [m], yaw [rad], yaw given (see ``PATH_CHANNELS``)."""
    has_text: Bool[Tensor, " batch"]
    """False where the text is withheld: the learned null replaces it."""
    has_path: Bool[Tensor, " batch"]
    """False where no path is desired: the learned null replaces it."""

    def without_text(self) -> Conditions:
        """Return the same conditions with the text withheld everywhere."""
        return replace(self, has_text=torch.zeros_like(self.has_text))

    def without_path(self) -> Conditions:
        """Return the same conditions with the desired path withheld everywhere."""
        return replace(self, has_path=torch.zeros_like(self.has_path))

    def concatenate(self, other: Conditions) -> Conditions:
        """Stack two batches."""
        return Conditions(
            **{field.name: torch.cat([getattr(self, field.name), getattr(other, field.name)]) for field in fields(self)}
        )


def to_local(
    points: Float[np.ndarray, "*batch frame 2"], origin: Float[np.ndarray, "*batch 2"], yaw: Float[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch frame 2"]:
    """Express horizontal points in the frame at ``origin`` whose x axis points along ``yaw``.

    Args:
        points: Horizontal positions [m], common frame.
        origin: Origin of the new frame [m].
        yaw: Heading of the new frame [rad].

    Returns:
        The points in the new frame [m].
    """
    difference = points - origin[..., None, :]
    cosine, sine = np.cos(yaw)[..., None], np.sin(yaw)[..., None]
    x, y = difference[..., 0], difference[..., 1]
    return np.stack([cosine * x + sine * y, cosine * y - sine * x], axis=-1)


def path_features(
    points: Float[np.ndarray, "*batch frame 2"],
    path_yaw: Float[np.ndarray, "*batch frame"],
    has_yaw: Bool[np.ndarray, "*batch"],
    origin: Float[np.ndarray, "*batch 2"],
    yaw: Float[np.ndarray, "*batch"],
) -> Float[np.ndarray, "*batch frame 4"]:
    """Build the four channels of a desired path.

    Args:
        points: Desired centre of mass [m], common frame.
        path_yaw: Desired headings [rad], common frame; ignored where ``has_yaw`` is false.
        has_yaw: Whether headings are given.
        origin: Present centre of mass [m].
        yaw: Present heading [rad].

    Returns:
        x, y [m] and yaw [rad] in the present heading frame, and the flag.
    """
    given = np.broadcast_to(has_yaw[..., None], path_yaw.shape).astype(np.float64)
    relative_yaw = quaternion.wrap_angle(path_yaw - yaw[..., None]) * given
    local = to_local(points, origin, yaw)
    return np.concatenate([local, relative_yaw[..., None], given[..., None]], axis=-1)
