"""Unitree H1: 19 hinges on a free joint, 51.4 kg.

Facts (inertias, limits, offsets) are Unitree's as carried by LocoMuJoCo's BSD-3 model; the geometry of
``assets/h1.xml`` is our own. The motors' fastest turns are those of Unitree's published description (URDF). Joint and
site names are LocoMuJoCo's, so that files can be exchanged.
"""

from __future__ import annotations

from motionlex.data.robots.robot import Joint, Robot

_SQRT2 = 2.0**0.5


def _joint(
    name: str, lower: float, upper: float, torque: float, kp: float, kv: float, default: float, fastest: float
) -> Joint:
    return Joint(
        name=name,
        lower=lower,
        upper=upper,
        torque_limit=torque,
        stiffness=kp,
        damping=round(_SQRT2 * kv, 4),  # no more digits than a model file keeps
        default=default,
        velocity_limit=fastest,
    )


def _leg(side: str) -> tuple[Joint, ...]:
    return (
        _joint(f"hip_rotation_{side}", -0.43, 0.43, 200.0, 400.0, 5.0, 0.0, 23.0),
        _joint(f"hip_adduction_{side}", -0.43, 0.43, 200.0, 400.0, 5.0, 0.0, 23.0),
        _joint(f"hip_flexion_{side}", -1.57, 1.57, 200.0, 400.0, 5.0, -0.2, 23.0),
        _joint(f"knee_angle_{side}", -0.26, 2.05, 300.0, 400.0, 5.0, 0.52, 14.0),
        _joint(f"ankle_angle_{side}", -0.87, 0.52, 40.0, 160.0, 3.0, -0.32, 9.0),
    )


def _arm(side: str) -> tuple[Joint, ...]:
    roll, yaw = ((-0.34, 3.11), (-1.3, 4.45)) if side == "l" else ((-3.11, 0.34), (-4.45, 1.3))
    elbow = "left_elbow" if side == "l" else "right_elbow"
    return (
        _joint(f"{side}_arm_shy", -2.87, 2.87, 40.0, 200.0, 2.0, 0.06, 9.0),
        _joint(f"{side}_arm_shx", *roll, 40.0, 200.0, 2.0, 0.12 if side == "l" else -0.12, 9.0),
        _joint(f"{side}_arm_shz", *yaw, 18.0, 200.0, 2.0, 0.0, 20.0),
        _joint(elbow, -1.25, 2.61, 18.0, 200.0, 2.0, 1.24, 20.0),
    )


ROBOT = Robot(
    name="h1",
    asset="h1.xml",
    joints=(
        *_leg("l"),
        *_leg("r"),
        _joint("back_bkz", -2.35, 2.35, 200.0, 600.0, 6.0, 0.0, 23.0),
        *_arm("l"),
        *_arm("r"),
    ),
    sites=(
        "pelvis_mimic",
        "left_hip_mimic",
        "left_knee_mimic",
        "left_foot_mimic",
        "right_hip_mimic",
        "right_knee_mimic",
        "right_foot_mimic",
        "upper_body_mimic",
        "head_mimic",
        "left_shoulder_mimic",
        "left_elbow_mimic",
        "left_hand_mimic",
        "right_shoulder_mimic",
        "right_elbow_mimic",
        "right_hand_mimic",
    ),
    anchor_site="upper_body_mimic",
    head_site="head_mimic",
    root_body="pelvis",
    torso_body="torso_link",
    foot_bodies=("left_ankle_link", "right_ankle_link"),
    foot_geoms=(
        tuple(f"left_foot_{i}" for i in range(4)),
        tuple(f"right_foot_{i}" for i in range(4)),
    ),
    legs=(
        ("left_hip_pitch_link", "left_knee_link", "left_ankle_link"),
        ("right_hip_pitch_link", "right_knee_link", "right_ankle_link"),
    ),
    arms=(
        ("left_shoulder_roll_link", "left_elbow_link", "left_hand_mimic"),
        ("right_shoulder_roll_link", "right_elbow_link", "right_hand_mimic"),
    ),
    standing_height=1.0159,
)
