"""Segments of features as poses of the robot, and how far two of them are apart."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from motionlex.data.features import FeatureStatistics, features_to_state
from motionlex.data.kinematics import ForwardKinematics
from motionlex.motion_vae import metrics


@dataclass(frozen=True, kw_only=True)
class PoseErrors:
    """Errors of every segment."""

    joint_rad: Float[np.ndarray, " segment"]
    """Mean absolute difference of the joint angles [rad]."""
    keypoint_mm: Float[np.ndarray, " segment"]
    """Mean Euclidean distance of the robot's sites [mm]."""


def segment_poses(
    values: Float[np.ndarray, "segment frame kept"], statistics: FeatureStatistics
) -> Float[np.ndarray, "segment frame 26"]:
    """Integrate standardised features to qpos that starts at the origin of the heading frame.

    Args:
        values: Standardised features.
        statistics: To de-standardise.

    Returns:
        Root position [m], root quaternion (w, x, y, z), hinge angles [rad].
    """
    features = statistics.destandardise(values.astype(np.float64))
    origin = np.zeros(len(features))
    start = np.zeros((len(features), 2))
    return features_to_state(features, hz=statistics.hz, start_xy=start, start_yaw=origin)[0]


def pose_errors(
    truth: Float[np.ndarray, "segment frame kept"],
    decoded: Float[np.ndarray, "segment frame kept"],
    statistics: FeatureStatistics,
    kinematics: ForwardKinematics,
) -> PoseErrors:
    """Compare decoded motion with the original as poses of the robot.

    Both start at the origin of the heading frame, so that drift of the integrated root counts; the key points are all
    sites of the robot.

    Args:
        truth: Standardised features of the original.
        decoded: Standardised features of the reconstruction.
        statistics: To de-standardise.
        kinematics: Of the robot.
    """
    joints, points = [], []
    for values in (decoded, truth):
        qpos = segment_poses(values, statistics)
        sites = kinematics(qpos.reshape(-1, qpos.shape[-1])).site_pos
        joints.append(torch.from_numpy(qpos[..., 7:]))
        points.append(torch.from_numpy(sites.reshape(*qpos.shape[:2], *sites.shape[1:])))
    return PoseErrors(
        joint_rad=metrics.joint_error_rad(joints[0], joints[1]).numpy(),
        keypoint_mm=metrics.keypoint_error_mm(points[0], points[1]).numpy(),
    )
