"""What is shown of a desired path: itself where the robot is right, else what leads back, as the robot faces."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from motionlex.controllers.com_path import ComPath, VelocityCommand
from motionlex.controllers.path_leading import leading_path
from motionlex.controllers.placement import Placement
from motionlex.controllers.stack_state import StackConfig

HZ, SPEED = 50.0, 0.6
HOME, MOVED = Placement(xy=np.zeros(2), yaw=0.0), Placement(xy=np.array([3.0, -1.0]), yaw=0.7)
SINCE = np.arange(1, 33) / HZ


def walk(turn=0.0, left=0.0):
    velocity = np.array([SPEED, left])
    return VelocityCommand(velocity=velocity, turn=turn, start_s=0.0, start_xy=np.zeros(2), start_yaw=0.0)


def shown(path, xy=(0.0, 0.0), yaw=0.0, now=0.0, placement=HOME):
    """Of a robot that stands somewhere and whose plan stands there too."""
    pose = (placement.points_to_plan(np.array([xy]))[0], yaw - placement.yaw)
    return leading_path(
        path, now_s=now, start_s=now, hz=HZ, origin=np.zeros(2), robot=(np.array(xy), yaw), plan=pose,
        placement=placement, config=StackConfig(),
    )  # fmt: skip


@pytest.mark.parametrize("turn", [0.0, 0.4, -0.4])
def test_who_is_right_is_shown_the_path(turn):
    path = walk(turn, left=0.1)
    xy, yaw = path.at(2.0 + SINCE)
    (at,), (heading,) = path.at(np.array([2.0]))
    found = shown(path, tuple(at), float(heading), now=2.0)
    np.testing.assert_allclose(found.xy, xy, atol=1e-12)
    np.testing.assert_allclose(found.yaw, yaw, atol=1e-12)


@pytest.mark.parametrize("facing", [0.3, -0.5, 1.0, -1.2, 1.8, 3.0])
def test_who_faces_elsewhere_is_shown_what_lies_ahead_while_turning_back(facing):
    """dx/ds = v cos(o) (cos o, sin o) while cos o > 0, o(s) beyond 0.5 rad of the heading: integrated by SciPy."""
    turned = np.clip(facing, -0.5, 0.5)

    def heading(s):
        return facing - (1 - np.exp(-s / 0.6)) * turned

    def rate(s, _):
        beyond = np.sign(heading(s)) * max(abs(heading(s)) - 0.5, 0.0)
        return SPEED * max(np.cos(beyond), 0.0) * np.array([np.cos(beyond), np.sin(beyond)])

    solved = solve_ivp(rate, (0.0, SINCE[-1]), np.zeros(2), t_eval=SINCE, rtol=1e-9, atol=1e-12)
    found = shown(walk(), yaw=facing)
    np.testing.assert_allclose(found.xy, solved.y.T, atol=0.003)  # steps of 12 mm are turned by their last heading
    np.testing.assert_allclose(found.yaw, heading(SINCE), atol=1e-12)


def test_who_faces_away_turns_on_the_spot():
    found = shown(walk(), yaw=np.pi)
    np.testing.assert_allclose(found.xy, 0.0, atol=1e-12)
    assert np.ptp(found.yaw) > 0.2


def test_what_is_off_is_measured_on_the_robot_in_the_world():
    """Another plan frame, a plan that has turned farther than the robot, a segment that begins later: same steps."""
    path, robot = walk(0.4), (np.array([0.3, 0.1]), 1.5)
    plan = (np.array([1.0, 2.0]), -0.1)
    found = leading_path(
        path, now_s=1.0, start_s=1.2, hz=HZ, origin=np.zeros(2), robot=robot, plan=plan, placement=MOVED,
        config=StackConfig(),
    )  # fmt: skip
    back = 1 - np.exp(-SINCE / 0.6)
    off = 1.5 - 0.4 - 0.5 * back - 0.5  # the path faces 0.4 rad at 1 s; it is turned back by 0.5 rad at once
    heading = 0.4 * (1.2 + SINCE - 0.01) + off  # of the middle of each step
    along = np.cumsum(SPEED / HZ * np.cos(off)[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    (at,), _ = path.at(np.array([1.0]))
    error = at - robot[0]
    error = error * min(1.0, 0.3 / np.linalg.norm(error))
    expected = MOVED.points(plan[0][None]) + along + back[:, None] * error
    np.testing.assert_allclose(MOVED.points(found.xy), expected, atol=1e-4)
    np.testing.assert_allclose(found.yaw, -0.1 + 0.4 * SINCE - 0.5 * back, atol=1e-12)


def test_who_faces_away_is_led_back_by_a_limited_distance():
    found = shown(walk(), (0.0, 4.0), yaw=np.pi)
    np.testing.assert_allclose(found.xy[-1], [0.0, 4.0 - 0.3 * (1 - np.exp(-SINCE[-1] / 0.6))], atol=1e-12)


def test_the_heading_counts_for_nothing_where_it_is_free():
    time = np.array([0.0, 10.0])
    path = ComPath(time=time, xy=np.stack([SPEED * time, np.zeros(2)], axis=1), yaw=None)
    for yaw in (0.0, 2.0):
        found = shown(path, yaw=yaw)
        np.testing.assert_allclose(found.xy[:, 0], SPEED * SINCE, atol=1e-12)
        assert found.yaw is None


def test_an_error_is_made_up_for_from_a_limit_on_and_whatever_the_plan_frame():
    """0.1 m beside the path, then 4 m: led back from 0.1 and 0.3 m, the share 1 - exp(-s / 0.6 s) of it."""
    back = 1 - np.exp(-SINCE / 0.6)
    for beside, made_up in ((0.1, 0.1), (4.0, 0.3)):
        for placement in (HOME, MOVED):
            found = shown(walk(), (0.0, beside), placement=placement)
            expected = np.stack([SPEED * SINCE, beside - made_up * back], axis=1)
            np.testing.assert_allclose(placement.points(found.xy), expected, atol=1e-12)
            np.testing.assert_allclose(found.yaw + placement.yaw, 0.0, atol=1e-12)
