"""Placing the plan: closed forms."""

import numpy as np
import pytest

from motionlex.controllers.placement import Placement, clamp_anchor
from motionlex.data import quaternion


def clamp(planned, planned_yaw, measured, measured_yaw):
    return clamp_anchor(
        np.array(planned, dtype=float),
        planned_yaw,
        np.array(measured, dtype=float),
        measured_yaw,
        max_offset=0.15,
        max_turn=0.2,
    )


def test_a_plan_within_the_limits_stays():
    xy, yaw = clamp([1.1, 2.0], 0.1, [1.0, 2.0], 0.0)
    np.testing.assert_array_equal(xy, [1.1, 2.0])
    assert yaw == 0.1


def test_a_plan_that_ran_away_is_pulled_back_along_the_line_between_them():
    xy, yaw = clamp([1.3, 2.4], 1.0, [1.0, 2.0], 0.0)  # 0.5 m away, direction (0.6, 0.8)
    np.testing.assert_allclose(xy, [1.0 + 0.15 * 0.6, 2.0 + 0.15 * 0.8])
    assert yaw == pytest.approx(0.2)


def test_headings_are_compared_around_the_circle():
    _, yaw = clamp([0, 0], np.pi - 0.05, [0, 0], -np.pi + 0.05)  # 0.1 rad apart
    assert yaw == np.pi - 0.05
    _, yaw = clamp([0, 0], 3.0, [0, 0], -3.0)  # 0.283 rad apart, the plan turned less far
    assert quaternion.wrap_angle(yaw) == pytest.approx(quaternion.wrap_angle(-3.0 - 0.2))


def test_offsets_never_exceed_the_limits_and_limits_are_reached_exactly():
    rng = np.random.default_rng(0)
    for _ in range(200):
        planned, measured = rng.normal(size=2), rng.normal(size=2)
        a, b = rng.uniform(-7, 7, size=2)
        xy, yaw = clamp_anchor(planned, float(a), measured, float(b), max_offset=0.15, max_turn=0.2)
        assert np.linalg.norm(xy - measured) <= 0.15 + 1e-12
        assert abs(quaternion.wrap_angle(yaw - b)) <= 0.2 + 1e-12
        if np.linalg.norm(planned - measured) > 0.15:
            assert np.linalg.norm(xy - measured) == pytest.approx(0.15)


def test_carrying_takes_one_pose_to_the_other():
    plan_xy, world_xy = np.array([1.0, 2.0]), np.array([-3.0, 0.5])
    placement = Placement.carrying(plan_xy, 0.3, world_xy, 1.1)
    np.testing.assert_allclose(placement.points(plan_xy[None])[0], world_xy, atol=1e-12)
    assert placement.yaw == pytest.approx(0.8)
    ahead = plan_xy + 2 * np.array([np.cos(0.3), np.sin(0.3)])
    expected = world_xy + 2 * np.array([np.cos(1.1), np.sin(1.1)])
    np.testing.assert_allclose(placement.points(ahead[None])[0], expected, atol=1e-12)


def test_points_come_back():
    placement = Placement(xy=np.array([0.4, -2.0]), yaw=2.2)
    points = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(placement.points_to_plan(placement.points(points)), points, atol=1e-12)


def test_states_turn_about_the_vertical():
    """Rotated by MuJoCo's own convention: world linear velocity turns, body angular velocity does not."""
    rng = np.random.default_rng(0)
    qpos, qvel = rng.normal(size=(4, 26)), rng.normal(size=(4, 25))
    qpos[:, 3:7] = quaternion.normalise(qpos[:, 3:7])
    placement = Placement(xy=np.array([1.0, -1.0]), yaw=0.7)
    placed, moving = placement.state(qpos, qvel)
    turn = quaternion.from_yaw(0.7)
    shift = np.array([1.0, -1.0, 0.0])
    np.testing.assert_allclose(placed[:, :3], quaternion.rotate(turn, qpos[:, :3]) + shift, atol=1e-12)
    np.testing.assert_allclose(moving[:, :3], quaternion.rotate(turn, qvel[:, :3]), atol=1e-12)
    np.testing.assert_array_equal(moving[:, 3:], qvel[:, 3:])
    np.testing.assert_array_equal(placed[:, 7:], qpos[:, 7:])
    x_axis = np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(
        quaternion.rotate(placed[:, 3:7], x_axis),
        quaternion.rotate(turn, quaternion.rotate(qpos[:, 3:7], x_axis)),
        atol=1e-12,
    )
