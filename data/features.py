r"""The feature schema: 127 numbers per frame, their inverse, and the statistics that standardise them.

One frame of the schema, in this order (root quantities as in LocoMuJoCo's default observation):

=========  =====================================================================================
columns    meaning
=========  =====================================================================================
0          root height [m]
1-4        root quaternion (w, x, y, z)
5-23       19 hinge angles [rad]
24-26      root linear velocity [m/s], world axes
27-29      root angular velocity [rad/s], base axes
30-48      19 hinge velocities [rad/s]
49-87      13 sites: position minus position of the torso site [m], world axes
88-126     13 sites: rotation vector of :math:`R_{torso}^T R_{site}` [rad]
=========  =====================================================================================

"World axes" are those of the world in frame ``"world"`` and those of the heading of a segment's first frame in
frame ``"heading0"``, where every segment is turned about the vertical so that its first frame has zero yaw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots.h1 import ROBOT
from motionlex.data.robots.robot import Robot

SCHEMA_VERSION = 1
"""Changes whenever the meaning or the order of a feature changes."""

HEIGHT = slice(0, 1)
QUATERNION = slice(1, 5)
JOINTS = slice(5, 24)
LINEAR_VELOCITY = slice(24, 27)
ANGULAR_VELOCITY = slice(27, 30)
JOINT_VELOCITIES = slice(30, 49)
SITE_POSITIONS = slice(49, 88)
SITE_ROTATIONS = slice(88, 127)

FeatureFrame = Literal["heading0", "world"]
_FRAMES: tuple[FeatureFrame, ...] = ("heading0", "world")


def feature_sites(robot: Robot) -> tuple[str, ...]:
    """Return the sites that enter the features: all but the torso's (the origin) and the head's."""
    return tuple(site for site in robot.sites if site not in (robot.anchor_site, robot.head_site))


def feature_names(robot: Robot) -> tuple[str, ...]:
    """Return a name for every feature, in order."""
    sites = feature_sites(robot)
    return (
        "root_height",
        *(f"root_quaternion_{c}" for c in "wxyz"),
        *(f"angle_{name}" for name in robot.joint_names),
        *(f"root_velocity_{c}" for c in "xyz"),
        *(f"root_angular_velocity_{c}" for c in "xyz"),
        *(f"velocity_{name}" for name in robot.joint_names),
        *(f"position_{site}_{c}" for site in sites for c in "xyz"),
        *(f"rotation_{site}_{c}" for site in sites for c in "xyz"),
    )


FEATURE_NAMES = feature_names(ROBOT)
"""Names of the 127 features of the H1."""


def compute_features(
    qpos: Float[np.ndarray, "frame 26"],
    qvel: Float[np.ndarray, "frame 25"],
    kinematics: ForwardKinematics,
) -> Float[np.ndarray, "frame 127"]:
    """Compute the features of every frame in the world frame.

    Args:
        qpos: Positions, see ``MotionClip.qpos``.
        qvel: Velocities, see ``MotionClip.qvel``.
        kinematics: Forward kinematics of the robot.

    Returns:
        Features in the order of ``FEATURE_NAMES``, float64.
    """
    robot = kinematics.robot
    states = kinematics(qpos)
    anchor = robot.sites.index(robot.anchor_site)
    sites = [robot.sites.index(name) for name in feature_sites(robot)]
    offsets = states.site_pos[:, sites] - states.site_pos[:, anchor, None]
    relative = np.swapaxes(states.site_rot[:, anchor, None], -1, -2) @ states.site_rot[:, sites]
    rotations = Rotation.from_matrix(relative.reshape(-1, 3, 3)).as_rotvec()
    frames = len(qpos)
    return np.concatenate(
        (qpos[:, 2:3], qpos[:, 3:7], qpos[:, 7:], qvel, offsets.reshape(frames, -1), rotations.reshape(frames, -1)),
        axis=1,
    )


def rotate_features(
    features: Float[np.ndarray, "*batch frame 127"], yaw: Float[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch frame 127"]:
    """Turn whole segments about the vertical by ``yaw`` [rad]; keeps the floating type."""
    c, s = (f(np.asarray(yaw))[..., None, None].astype(features.dtype) for f in (np.cos, np.sin))
    half_c, half_s = (f(0.5 * np.asarray(yaw))[..., None].astype(features.dtype) for f in (np.cos, np.sin))
    turned = features.copy()
    w, x, y, z = np.moveaxis(features[..., QUATERNION], -1, 0)
    turned[..., 1] = half_c * w - half_s * z
    turned[..., 2] = half_c * x - half_s * y
    turned[..., 3] = half_c * y + half_s * x
    turned[..., 4] = half_c * z + half_s * w
    for block in (LINEAR_VELOCITY, SITE_POSITIONS):
        along, across = features[..., block][..., 0::3], features[..., block][..., 1::3]
        turned[..., block][..., 0::3] = c * along - s * across
        turned[..., block][..., 1::3] = s * along + c * across
    return turned


def to_heading(
    features: Float[np.ndarray, "*batch frame 127"], reference_frame: int = 0
) -> tuple[Float[np.ndarray, "*batch frame 127"], Float[np.ndarray, "*batch"]]:
    """Express segments in the heading of one of their frames.

    Args:
        features: Segments in any frame that is turned about the vertical only.
        reference_frame: Index (negative counts from the end) of the frame that gets zero yaw and q_w >= 0; the
            quaternions of the other frames follow in the same hemisphere.

    Returns:
        The turned segments and the yaw [rad] of the reference frame before turning.
    """
    yaw = quaternion.yaw(features[None, ..., reference_frame, QUATERNION])[0, ...]  # an array even without a batch
    turned = rotate_features(features, np.asarray(-yaw))
    quaternions = quaternion.make_continuous(turned[..., QUATERNION])
    sign = np.where(quaternions[..., reference_frame, :1] < 0, -1.0, 1.0).astype(features.dtype)
    turned[..., QUATERNION] = quaternions * sign[..., None]
    return turned, yaw


def features_to_state(
    features: Float[np.ndarray, "*batch frame 127"],
    *,
    hz: float,
    start_xy: Float[np.ndarray, "*batch 2"],
    start_yaw: Float[np.ndarray, "*batch"],
) -> tuple[Float[np.ndarray, "*batch frame 26"], Float[np.ndarray, "*batch frame 25"]]:
    r"""Recover the motion from features: the inverse of ``compute_features`` (site features are redundant).

    Height, orientation and hinges are read; x and y follow from the root velocity by the trapezoidal rule,
    :math:`x_{t+1} = x_t + (v_t + v_{t+1}) / (2\,hz)`, whose error on central differences stays below
    :math:`a / (4\,hz^2)` for root accelerations below a, however long the segment.

    Args:
        features: Segments in the heading frame (or in the world frame, with zero ``start_yaw``).
        hz: Frames per second.
        start_xy: Where the first frame's root stands in the world [m].
        start_yaw: Heading of the segment's frame in the world [rad].

    Returns:
        qpos and qvel in the world, in the conventions of ``MotionClip``; quaternions are normalised.
    """
    world = rotate_features(np.asarray(features, dtype=np.float64), np.asarray(start_yaw, dtype=np.float64))
    velocity = world[..., LINEAR_VELOCITY][..., :2]
    steps = 0.5 * (velocity[..., 1:, :] + velocity[..., :-1, :]) / hz
    start = np.asarray(start_xy, dtype=np.float64)[..., None, :]
    xy = np.concatenate((start, start + np.cumsum(steps, axis=-2)), axis=-2)
    orientation = world[..., QUATERNION]
    norm = np.linalg.norm(orientation, axis=-1, keepdims=True)
    orientation = np.where(norm > 1e-6, orientation / np.maximum(norm, 1e-6), np.array([1.0, 0.0, 0.0, 0.0]))
    qpos = np.concatenate((xy, world[..., HEIGHT], orientation, world[..., JOINTS]), axis=-1)
    return qpos, world[..., LINEAR_VELOCITY.start : JOINT_VELOCITIES.stop]


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics:
    """Which features are kept, and their mean, spread and range on the training split."""

    kept: Int[np.ndarray, " kept"]
    """Indices of the features that vary."""
    mean: Float[np.ndarray, " kept"]
    """Mean of every kept feature."""
    std: Float[np.ndarray, " kept"]
    """Standard deviation (population) of every kept feature."""
    minimum: Float[np.ndarray, " kept"]
    """Smallest value on the training split."""
    maximum: Float[np.ndarray, " kept"]
    """Largest value on the training split."""
    fill: Float[np.ndarray, " feature"]
    """Mean of all features, which stands in for the dropped ones."""
    frame: FeatureFrame
    """Frame of the features."""
    hz: float
    """Frames per second of the motion; velocities of another rate differ in spread."""
    schema_version: int = SCHEMA_VERSION
    """Version of the schema that these statistics belong to."""

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise UserError(
                f"these feature statistics are of schema version {self.schema_version}, "
                f"this program reads version {SCHEMA_VERSION}: train again"
            )
        if self.frame not in _FRAMES:
            raise UserError(f"unknown feature frame {self.frame!r}; available: {', '.join(_FRAMES)}")

    @property
    def size(self) -> int:
        """Number of kept features."""
        return len(self.kept)

    def standardise(self, features: Float[np.ndarray, "*batch feature"]) -> Float[np.ndarray, "*batch kept"]:
        """Return (x - mean) / std of the kept features, in the floating type of the input."""
        mean, std = self.mean.astype(features.dtype), self.std.astype(features.dtype)
        return (features[..., self.kept] - mean) / std

    def destandardise(self, values: Float[np.ndarray, "*batch kept"]) -> Float[np.ndarray, "*batch feature"]:
        """Invert ``standardise``; dropped features get their training mean."""
        features = np.empty((*values.shape[:-1], len(self.fill)), dtype=values.dtype)
        features[...] = self.fill
        features[..., self.kept] = values * self.std.astype(values.dtype) + self.mean.astype(values.dtype)
        return features

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return everything as arrays, for files that hold only arrays (``frame`` as its position in a list)."""
        arrays = {name: getattr(self, name) for name in ("kept", "mean", "std", "minimum", "maximum", "fill")}
        arrays["frame"] = np.array([_FRAMES.index(self.frame)])
        arrays["hz"] = np.array([self.hz])
        arrays["schema_version"] = np.array([self.schema_version])
        return arrays

    @classmethod
    def from_dict(cls, arrays: Mapping[str, np.ndarray]) -> FeatureStatistics:
        """Invert ``to_dict``.

        Raises:
            UserError: If an array is missing or of another schema version.
        """
        try:
            reals = {n: np.asarray(arrays[n], np.float64) for n in ("mean", "std", "minimum", "maximum", "fill")}
            return cls(
                kept=np.asarray(arrays["kept"], np.int64),
                frame=_FRAMES[int(arrays["frame"][0])],
                hz=float(arrays["hz"][0]),
                schema_version=int(arrays["schema_version"][0]),
                **reals,
            )
        except (KeyError, IndexError) as error:
            raise UserError(f"the feature statistics are damaged: {error}") from error


def fit_statistics(
    blocks: Iterable[Float[np.ndarray, "... feature"]],
    *,
    hz: float,
    frame: FeatureFrame = "heading0",
    threshold: float = 1e-5,
) -> FeatureStatistics:
    """Fit the statistics to training features that come in blocks.

    Moments are merged block by block (Chan, Golub and LeVeque 1979), so that half a million frames need no memory
    of their own and large means cost no digits.

    Args:
        blocks: Features of the training split, already in ``frame``.
        hz: Frames per second.
        frame: Frame of the features.
        threshold: Features whose population variance is below this are dropped.

    Raises:
        UserError: If there is not one frame.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros(0)
    minimum, maximum = np.zeros(0), np.zeros(0)
    for block in blocks:
        flat = np.asarray(block, dtype=np.float64).reshape(-1, block.shape[-1])
        if not len(flat):
            continue
        block_mean = flat.mean(axis=0)
        block_scatter = ((flat - block_mean) ** 2).sum(axis=0)
        if not count:
            mean, scatter = np.zeros_like(block_mean), np.zeros_like(block_mean)
            minimum, maximum = flat.min(axis=0), flat.max(axis=0)
        total = count + len(flat)
        delta = block_mean - mean
        mean = mean + delta * (len(flat) / total)
        scatter = scatter + block_scatter + delta**2 * (count * len(flat) / total)
        minimum, maximum = np.minimum(minimum, flat.min(axis=0)), np.maximum(maximum, flat.max(axis=0))
        count = total
    if not count:
        raise UserError("there is not one training segment: the clips are shorter than a segment, or all masked")
    variance = scatter / count
    kept = np.flatnonzero(variance >= threshold)
    return FeatureStatistics(
        kept=kept,
        mean=mean[kept],
        std=np.sqrt(variance[kept]),
        minimum=minimum[kept],
        maximum=maximum[kept],
        fill=mean,
        frame=frame,
        hz=hz,
    )
