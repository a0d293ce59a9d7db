"""The heading by which a robot and its reference are compared: smooth for robots that lie on their back or belly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from motionlex.controllers.tracking_metrics import heading_error, key_point_errors
from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.robots import get_robot
from motionlex.envs.alignment import move_under, tracking_errors
from motionlex.envs.episodes import Episodes
from motionlex.envs.kinematics import SiteKinematics
from motionlex.envs.reference import CommandSource, MotionLibrary
from motionlex.envs.rewards import BodyState, heading_frame
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.terminations import TerminationLimits, lost

ROBOT = get_robot("h1")
KINEMATICS = SiteKinematics(ROBOT)
LYING = ((-88.0, -92.0), (88.0, 92.0))
"""Pitch of robot and reference [deg], on the back and on the belly."""


def turns(count, seed=0):
    quaternions = np.random.default_rng(seed).normal(size=(count, 4))
    return quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)


def lying(pitch_deg, *, yaw=0.0, xy=(0.0, 0.0), frames=1):
    """Positions of a robot that was turned by ``yaw`` and then pitched about its own side-to-side axis."""
    qpos = np.zeros((frames, 26))
    tilt = quaternion.from_rotvec(np.array([0.0, np.deg2rad(pitch_deg), 0.0]))
    qpos[:, :3], qpos[:, 7:] = (*xy, 0.3), ROBOT.default_pose
    qpos[:, 3:7] = quaternion.multiply(quaternion.from_yaw(yaw), tilt)
    return qpos


def state(qpos):
    return BodyState(qpos=qpos, qvel=np.zeros((len(qpos), 25)), sites=KINEMATICS(qpos))


def swung():
    """Distance [m] that 4 degrees of pitch move every key point: a chord about the side-to-side axis at the root."""
    upright = lying(0.0)
    arm = KINEMATICS(upright)[0] - upright[0, :3]
    return 2.0 * np.sin(np.deg2rad(2.0)) * np.hypot(arm[:, 0], arm[:, 2])


def test_it_is_the_turn_about_the_vertical_that_is_nearest_to_the_rotation():
    grid = np.linspace(-np.pi, np.pi, 20_001)
    for q in turns(20):
        own = Rotation.from_quat(np.roll(q, -1))
        left = (Rotation.from_euler("z", grid[:, None]).inv() * own).magnitude()
        apart = quaternion.wrap_angle(quaternion.heading(q) - grid[np.argmin(left)])
        assert abs(apart) < 2e-4  # half a cell of the grid is 1.6e-4


def test_for_a_turn_about_the_vertical_it_is_the_yaw_and_signs_of_quaternions_do_not_matter():
    angles = np.linspace(-3.14, 3.14, 50)
    pure = quaternion.from_yaw(angles)
    for found in (quaternion.heading(pure), quaternion.heading(-pure), quaternion.yaw(pure)):
        np.testing.assert_allclose(found, angles, rtol=0, atol=2e-15)  # some units in the last place of pi
    q = turns(50)
    np.testing.assert_array_equal(quaternion.heading(q), quaternion.heading(-q))


def test_turning_a_tilted_robot_about_the_vertical_turns_its_heading():
    q, turn = turns(50, 1), np.linspace(-3.0, 3.0, 50)
    after = quaternion.heading(quaternion.multiply(quaternion.from_yaw(turn), q))
    np.testing.assert_allclose(quaternion.wrap_angle(after - quaternion.heading(q) - turn), 0.0, atol=1e-12)


def test_torch_finds_the_same():
    q = turns(50)
    np.testing.assert_allclose(quaternion.heading(torch.from_numpy(q)).numpy(), quaternion.heading(q), atol=1e-15)
    single = quaternion.heading(torch.from_numpy(q).float()).double().numpy()
    size = np.hypot(q[:, 0], q[:, 3])  # rounding of q counts by how far from upside down it is
    assert (np.abs(quaternion.wrap_angle(single - quaternion.heading(q))) < 1e-6 / size).all()


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(("robot_deg", "reference_deg"), LYING)
def test_four_degrees_through_the_vertical_are_four_degrees(library, robot_deg, reference_deg):
    robot = state(lying(robot_deg, yaw=0.5, xy=(1.0, 2.0)))
    reference = state(lying(reference_deg, yaw=2.0, xy=(-3.0, 0.5)))
    robot, reference = (
        BodyState(**{name: library(getattr(x, name)) for name in ("qpos", "qvel", "sites")}) for x in (robot, reference)
    )
    height, angle, distance = errors = tracking_errors(robot, move_under(reference, robot.qpos))
    assert float(height[0]) == 0.0
    assert float(angle[0]) == pytest.approx(np.deg2rad(4.0), abs=1e-9)
    assert float(distance[0]) == pytest.approx(swung().mean(), abs=1e-9)
    assert not bool(lost(*errors, TerminationLimits())[0])
    gap = heading_frame(robot.sites, robot.qpos) - heading_frame(reference.sites, reference.qpos)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(gap)[0], axis=1), swung(), atol=1e-9)


@pytest.mark.parametrize(("robot_deg", "reference_deg"), LYING)
def test_metrics_of_a_robot_that_lies(robot_deg, reference_deg):
    robot, reference = state(lying(robot_deg)), state(lying(reference_deg))
    world, local, joint = key_point_errors(robot, reference)
    assert local[0] == pytest.approx(1e3 * swung().mean(), abs=1e-6) and joint[0] == 0.0
    assert world[0] == pytest.approx(local[0], abs=1e-6)
    assert heading_error(robot, reference)[0] == pytest.approx(0.0, abs=1e-12)
    assert heading_error(robot, state(lying(reference_deg, yaw=0.3)))[0] == pytest.approx(0.3, abs=1e-12)


def lying_task(pitch_deg, goal, hold_s=2.0):
    clip = MotionClip(name="lying", qpos=lying(pitch_deg, yaw=0.4, xy=(2.0, 1.0), frames=60), hz=50.0)
    library = MotionLibrary([clip], ROBOT, 50.0)
    codes = CommandSource(
        codes=np.zeros((1, 4, 64), dtype=int), segment=np.arange(60) // 16, phase=np.zeros(60), vocabulary=8
    )
    return TrackingTask(ROBOT, library, TaskConfig(goal=goal, hold_s=hold_s), codes if goal == "latent" else None)


def advanced(task, qpos):
    """One control step of a robot that asks for no torque."""
    episodes = Episodes.empty(1, 19)
    task.start(episodes, np.array([0]), np.array([0]))
    return task.advance(episodes, qpos.copy(), np.zeros((1, 25)), np.zeros((1, 19)), qpos[:, 7:])


@pytest.mark.parametrize("hold_s", [0.0, 2.0])
@pytest.mark.parametrize(("robot_deg", "reference_deg"), LYING)
def test_goal_latent_neither_ends_nor_loses_the_reward_there(robot_deg, reference_deg, hold_s):
    task = lying_task(reference_deg, "latent", hold_s)
    result = advanced(task, lying(robot_deg, yaw=0.4, xy=(2.0, 1.0)))
    assert not result.terminated[0]
    # Only what four degrees change: orientation, key points and end effectors, by the terms' own kernels.
    squared = swung() ** 2
    ends = squared[list(task.end_effectors)].mean()
    lose = 0.10 * (1.0 - np.exp(-(np.deg2rad(4.0) ** 2) / 0.16))
    lose += 0.15 * (1.0 - np.exp(-squared.mean() / 0.02)) + 0.10 * (1.0 - np.exp(-ends / 0.02))
    assert result.reward[0] == pytest.approx(0.1 * (1.0 - lose), abs=1e-6)  # key points in single precision
    assert lose < 0.06


@pytest.mark.parametrize("goal", ["reference", "latent"])
@pytest.mark.parametrize("pitch_deg", [0.0, -90.0, 90.0])
def test_a_replayed_pose_scores_the_maximum_however_it_lies(pitch_deg, goal):
    task = lying_task(pitch_deg, goal)
    result = advanced(task, task.library.qpos[:1])
    np.testing.assert_allclose(result.reward, 0.1, rtol=0, atol=1e-12)
    assert not result.terminated[0] and not result.truncated[0]


def test_what_policies_see_is_not_changed_by_it():
    """Observations keep the heading of the base's x axis: with it vertical, that of shipped policies' training."""
    task = lying_task(-60.0, "reference")
    tilted, flat = lying(-60.0, yaw=0.4, xy=(2.0, 1.0)), lying(0.0, yaw=0.4, xy=(2.0, 1.0))
    for qpos in (tilted, flat):
        qpos[:, 3:7] = quaternion.multiply(qpos[:, 3:7], quaternion.from_rotvec(np.array([0.5, 0.0, 0.0])))
    episodes = Episodes.empty(1, 19)
    ahead = task.library.qpos[1, :3] + np.array([1.0, 0.0, 0.0])
    task.library.qpos[1, :3] = ahead
    for qpos in (tilted, flat):
        seen = task.observe(qpos, np.zeros((1, 25)), episodes)[0, 67 + 19 : 67 + 22]
        x_axis = quaternion.rotate(qpos[0, 3:7], np.array([1.0, 0.0, 0.0]))
        forward = np.arctan2(x_axis[1], x_axis[0])
        gap = Rotation.from_euler("z", -forward).apply(ahead - qpos[0, :3])
        np.testing.assert_allclose(seen, gap, atol=1e-9)


@pytest.mark.parametrize("reward", ["deepmimic", "beyond_mimic", "loco_mujoco"])
def test_all_rewards_stay_near_their_maximum_through_the_vertical(reward):
    task = lying_task(-92.0, "latent")
    other = TrackingTask(ROBOT, task.library, replace(task.config, reward=reward), task.command)
    best = advanced(other, lying(-92.0, yaw=0.4, xy=(2.0, 1.0))).reward[0]
    assert advanced(other, lying(-88.0, yaw=0.4, xy=(2.0, 1.0))).reward[0] > 0.8 * best
