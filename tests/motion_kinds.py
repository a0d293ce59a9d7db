"""Labelled motions that a judge can tell apart by hand: one robot slides, turns or swings an arm."""

import numpy as np

from motionlex.data import quaternion
from motionlex.data.clip import LabelSpan, MotionClip
from motionlex.data.robots import get_robot

HZ = 50.0


def moving_clip(label, *, speed=0.0, turn=0.0, arm=0.0, seconds=8.0, seed=0):
    """Slide and turn at constant speeds while one arm swings by ``arm`` [rad]."""
    robot = get_robot("h1")
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * HZ)) / HZ
    yaw = rng.uniform(-3, 3) + turn * time
    qpos = np.zeros((len(time), 26))
    step = speed / HZ * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    qpos[:, :2] = rng.normal(size=2) + np.cumsum(step, axis=0)
    qpos[:, 2] = robot.standing_height
    qpos[:, 3:7] = quaternion.from_yaw(yaw)
    qpos[:, 7:] = robot.default_pose + 0.02 * rng.standard_normal(19)
    qpos[:, 7 + 11] += arm * np.sin(2 * np.pi * 1.1 * time + rng.uniform(0, 6))
    span = LabelSpan(start=0, stop=len(time), label=label)
    return MotionClip(name=f"{label}{seed}", qpos=qpos, hz=HZ, labels=(span,))


KINDS = {
    "stand": {},
    "walk_forward": {"speed": 0.8},
    "walk_backward": {"speed": -0.5},
    "turn_left": {"turn": 1.0},
    "turn_right": {"turn": -1.0},
    "wave": {"arm": 0.8},
}


def clips(seeds):
    return [moving_clip(label, seed=seed, **kind) for label, kind in KINDS.items() for seed in seeds]
