"""What is done to motions before a policy follows them."""

from dataclasses import replace

import numpy as np
import pytest

from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.robots import get_robot
from motionlex.envs.reference import smooth

ROBOT = get_robot("h1")


def sliding(frames, *, speed=4.0, hinge_speed=3.0, turn=2.0, hz=50.0):
    """A robot that moves, turns and bends one hinge at constant speeds [m/s, rad/s, rad/s]."""
    time = np.arange(frames) / hz
    qpos = np.tile(np.concatenate(([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0], ROBOT.default_pose)), (frames, 1))
    qpos[:, 0] = speed * time
    qpos[:, 3:7] = quaternion.from_yaw(turn * time)
    qpos[:, 10] = hinge_speed * time
    return MotionClip(name="sliding", qpos=qpos, hz=hz)


def with_hinge(clip, angle):
    qpos = clip.qpos.copy()
    qpos[:, 12] = angle
    return replace(clip, qpos=qpos)


def test_constant_speed_stays_constant_up_to_both_ends():
    clip = smooth(sliding(60))
    np.testing.assert_allclose(clip.qpos[:, 0], 4.0 * np.arange(60) / 50.0, atol=1e-12)
    qvel = clip.qvel()
    np.testing.assert_allclose(qvel[:, 0], 4.0, atol=1e-9)
    np.testing.assert_allclose(qvel[:, 6 + 3], 3.0, atol=1e-9)
    # Components of a unit quaternion are no straight lines: turning keeps its rate to a percent.
    np.testing.assert_allclose(qvel[:, 5], 2.0, rtol=0.01)


def test_a_cut_has_the_speeds_of_the_whole_at_its_ends():
    """A sine of 1 Hz: the cut's first and last frames move as the uncut motion does there."""
    clip = with_hinge(sliding(200), 0.4 * np.sin(2 * np.pi * np.arange(200) / 50.0))
    whole, cut = smooth(clip).qvel()[50:121, 6:], smooth(clip.slice(50, 121)).qvel()[:, 6:]
    assert np.abs(cut - whole)[1:-1].max() < 0.02 * np.abs(whole).max()
    assert np.abs(cut - whole)[[0, -1]].max() < 0.1 * np.abs(whole).max()  # one-sided differences: half a frame off


def test_a_teleport_between_two_runs_leaves_both_alone():
    qpos = sliding(120).qpos.copy()
    qpos[60:, :2] += 50.0
    clip = replace(sliding(120), qpos=qpos)
    valid = np.ones(120, dtype=bool)
    valid[60] = False
    masked = replace(clip, valid=valid)
    smoothed = smooth(masked)
    np.testing.assert_allclose(smoothed.qpos[:60, :2], clip.qpos[:60, :2], atol=1e-12)
    np.testing.assert_allclose(smoothed.qpos[61:, :2], clip.qpos[61:, :2], atol=1e-12)
    np.testing.assert_array_equal(smoothed.valid, valid)


def test_noise_shrinks_as_that_of_a_gaussian_filter():
    """White noise through a Gaussian of one frame: its deviation falls to 1 / sqrt(2 sqrt(pi)) = 0.531."""
    clip = with_hinge(sliding(4000, turn=0.0), 0.01 * np.random.default_rng(0).standard_normal(4000))
    left = np.std(smooth(clip).qpos[:, 12]) / 0.01
    assert left == pytest.approx((2 * np.sqrt(np.pi)) ** -0.5, rel=0.03)
