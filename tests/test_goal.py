"""Places to go to: paths towards them, what replaces what, and words beside them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.com_path import ComPath, VelocityCommand
from motionlex.controllers.goal import AHEAD_RAD, ARRIVED_M, ASTRAY_M, GAIN_MPS2, TICK_S, TURN_RPS, WALK_MPS, Goal
from motionlex.controllers.hearing import Hearing
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import REST, StackConfig
from motionlex.data.errors import UserError

STRAIGHT = ComPath(time=np.array([0.0, 10.0]), xy=np.array([[0.0, 0.0], [4.0, 0.0]]), yaw=None)
PLACE = st.floats(-20.0, 20.0)


@given(PLACE, PLACE, PLACE, PLACE, st.floats(-3.1, 3.1), st.floats(0.0, WALK_MPS))
def test_a_path_to_a_goal_walks_forward_and_ends_there(x, y, goal_x, goal_y, yaw, speed):
    start, goal = np.array([x, y]), np.array([goal_x, goal_y])
    path = Goal(xy=goal).path_from(3.0, start, yaw, speed)
    assert path.time[0] == 3.0 and len(path.time) >= 2 and path.yaw is not None
    np.testing.assert_allclose(path.xy[0], start)
    np.testing.assert_allclose(path.xy[-1], goal, atol=2e-3)
    moved = np.diff(path.xy, axis=0)
    speeds = np.linalg.norm(moved, axis=1) / TICK_S
    assert np.all(speeds <= max(WALK_MPS, 0.1) + 1e-9)
    assert np.all(np.diff(np.concatenate(([speed], speeds))) <= GAIN_MPS2 * TICK_S + 0.1 + 1e-9)
    assert np.all(np.abs(np.diff(path.yaw)) <= TURN_RPS * TICK_S + 1e-9)
    walking = speeds > 1e-9
    course = np.arctan2(moved[walking, 1], moved[walking, 0])
    off = np.angle(np.exp(1j * (course - path.yaw[1:][walking])))
    far = np.linalg.norm(goal - path.xy[:-1][walking], axis=1) > 0.01  # a bearing over millimetres is rounding
    assert np.all(np.abs(off[far]) < AHEAD_RAD + 1e-6)


def test_a_way_straight_ahead_takes_the_time_that_its_speeds_make():
    """0 to 0.5 m/s in 0.71 s, 0.5 m/s to 0.3 m before the goal, then 0.6 s per factor e down to 5 mm a step."""
    path = Goal(xy=np.array([3.0, 0.0])).path_from(0.0, np.zeros(2), 0.0)
    cruise = (3.0 - 0.5**2 / 0.7 / 2 - 0.3) / 0.5
    slowing = 0.6 * np.log(0.3 / 0.06) + 0.06 / 0.1
    assert path.time[-1] == pytest.approx(0.5 / 0.7 + cruise + slowing, abs=0.15)
    np.testing.assert_array_equal(path.yaw, 0.0)


def test_a_goal_under_the_feet_is_a_path_that_rests():
    path = Goal(xy=np.array([1.0, 2.0])).path_from(5.0, np.array([1.0, 2.0]), 0.3)
    np.testing.assert_array_equal(path.xy, [[1.0, 2.0]] * 2)
    np.testing.assert_array_equal(path.yaw, 0.3)


def test_who_has_strayed_gets_another_path():
    goal = Goal(xy=np.array([3.0, 0.0]))
    path = goal.path_from(0.0, np.zeros(2), 0.0)
    (there,), _ = path.at(np.array([2.0]))
    end = float(path.time[-1])
    assert not goal.strayed(path, 2.0, there + np.array([0.0, ASTRAY_M - 0.01]))
    assert goal.strayed(path, 2.0, there + np.array([0.0, ASTRAY_M + 0.01]))
    short = goal.xy - [ARRIVED_M + 0.05, 0.0]
    assert not goal.strayed(path, end, short)  # it may still be on its way
    assert goal.strayed(path, end + 1.01, short)
    assert not goal.strayed(path, end + 100.0, goal.xy - [ARRIVED_M - 0.01, 0.0])


@pytest.mark.parametrize("place", [(np.nan, 0.0), (0.0, np.inf)])
def test_a_goal_nowhere_is_refused(place):
    with pytest.raises(UserError, match="goal"):
        Goal(xy=np.array(place))


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


@pytest.fixture
def standing(toy_encode):
    """An encoder to which "stand" is what a robot without words is told, so that the bundle holds it."""
    return lambda texts: toy_encode(["stand" if text == REST else text for text in texts])


def heard(stack):
    """What the latent policy hears of words now: None where it is shown none."""
    text, path = stack._wishes(0)
    return (None if not bool(text.any()) else text), path is not None


def test_a_goal_too_far_away_is_refused_and_changes_nothing(bundle, standing):
    stack = Stack(bundle, encode=standing)
    stack.go_to(1.0, 0.0)
    with pytest.raises(UserError, match="100 m"):
        stack.go_to(150.0, 0.0)
    np.testing.assert_allclose(stack.goal, [1.0, 0.0])


def test_one_wish_takes_the_place_of_another(bundle, standing):
    stack = Stack(bundle, encode=standing, config=StackConfig(understood_from=-1.0))
    stack.command("wave")
    stack.follow(STRAIGHT)
    assert stack.goal is None and isinstance(stack.path, ComPath)
    stack.steer(0.2, 0.0, 0.0)
    assert stack.goal is None and isinstance(stack.path, VelocityCommand)
    stack.go_to(1.0, -1.0)
    np.testing.assert_allclose(stack.goal, [1.0, -1.0])
    assert isinstance(stack.path, ComPath)
    np.testing.assert_allclose(stack.path.xy[-1] + stack.start_com, [1.0, -1.0], atol=2e-3)
    stack.steer(0.2, 0.0, 0.0)
    assert stack.goal is None
    stack.go_to(1.0, -1.0)
    stack.follow(None)
    assert stack.goal is None and stack.path is None
    stack.go_to(1.0, -1.0)
    stack.reset()
    assert stack.goal is None and stack.path is None


def test_a_robot_that_is_carried_away_gets_a_new_path_to_its_goal(bundle, standing):
    stack = Stack(bundle, encode=standing)
    stack.go_to(2.0, 0.0)
    first = stack.path
    stack._desired_path()
    assert stack.path is first
    moved = stack.qpos
    moved[:2] = [0.0, 3.0]
    stack.tracker.simulator.reset(moved, np.zeros(25))
    stack._desired_path()
    assert stack.path is not first
    np.testing.assert_allclose(stack.path.xy[0] + stack.start_com, stack.com, atol=1e-9)
    np.testing.assert_allclose(stack.path.xy[-1] + stack.start_com, [2.0, 0.0], atol=2e-3)


def test_to_stand_still_ends_a_velocity_and_a_goal_and_a_path_goes_on(bundle, standing):
    """The latest wish counts: one cannot stand and walk at the same time."""
    stack = Stack(bundle, encode=standing, config=StackConfig(understood_from=-1.0))
    rest, wave = standing([REST])[0], standing(["wave"])[0]
    stack.command("wave")
    stack.steer(0.2, 0.0, 0.0)
    assert torch.equal(heard(stack)[0], wave) and heard(stack)[1]  # words and a path together
    stack.command("stand")
    assert torch.equal(heard(stack)[0], rest) and not heard(stack)[1]
    stack.steer(0.2, 0.0, 0.0)
    assert heard(stack) == (None, True)  # told to stand, then to move
    stack.follow(None)
    assert torch.equal(heard(stack)[0], rest)
    stack.command("wave")
    stack.go_to(1.0, 0.0)
    assert heard(stack) == (None, True)  # the words before a goal are over
    stack.command("wave")
    assert torch.equal(heard(stack)[0], wave) and heard(stack)[1]  # those after it are not
    stack.command("stand")
    assert stack.goal is None and not heard(stack)[1]
    stack.follow(STRAIGHT)
    stack.command("stand")
    assert heard(stack) == (None, True)  # a path has its own times of standing
    stack.time = 10.1  # s: it has ended
    stack.command("stand")
    assert torch.equal(heard(stack)[0], rest) and not heard(stack)[1]


def test_what_is_not_understood_ends_a_velocity_too(bundle, standing):
    stack = Stack(bundle, encode=standing, config=StackConfig(understood_from=0.9))
    stack.steer(0.2, 0.0, 0.0)
    assert not stack.command("make me a coffee").understood
    assert torch.equal(heard(stack)[0], standing([REST])[0]) and not heard(stack)[1]


def test_a_bundle_that_does_not_hold_standing_takes_no_other_action_for_it(bundle, toy_encode):
    """The toy captions are at right angles to "stand still": its nearest action must not become one that rests."""
    hearing = Hearing(bundle, toy_encode, -1.0)
    assert not any(hearing.hear(text, 0.0).resting for text in ("stand", "wave", REST))
