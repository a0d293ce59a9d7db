"""Errors of followed paths, on trajectories made by hand; paths that are too fast; tables that forget."""

import numpy as np
import pytest

from motionlex.controllers.com_path import ComPath
from motionlex.controllers.following import Followed, path_errors
from motionlex.controllers.rows import Rows
from motionlex.data.features import ANGULAR_VELOCITY, LINEAR_VELOCITY, FeatureStatistics

HZ = 50.0


def straight(seconds, speed, offset=(0.0, 0.0)):
    time = np.arange(round(seconds * HZ) + 1) / HZ
    return np.stack([speed * time, np.zeros_like(time)], axis=1) + np.array(offset)


def test_walking_beside_the_path_at_its_speed():
    """0.3 m to the left and 0.4 m behind is 0.5 m away, whatever the speed."""
    wanted = straight(4, 0.8)
    part = Followed(
        measured_xy=straight(4, 0.8, (-0.4, 0.3)),
        measured_yaw=np.full(len(wanted), 3.0),
        wanted_xy=wanted,
        wanted_yaw=np.full(len(wanted), -3.0),
    )
    errors = path_errors([part], HZ)
    assert errors.path_error_m == pytest.approx(0.5)
    assert errors.heading_error_deg == pytest.approx(np.rad2deg(2 * np.pi - 6.0))  # the short way round
    assert errors.speed_error_mps == pytest.approx(0.0, abs=1e-12)


def test_walking_too_slowly():
    """Distances grow linearly to 4 * 0.2 m: half of it on average; no heading was asked for."""
    part = Followed(
        measured_xy=straight(4, 0.6), measured_yaw=np.zeros(201), wanted_xy=straight(4, 0.8), wanted_yaw=None
    )
    errors = path_errors([part], HZ)
    assert errors.path_error_m == pytest.approx(0.4)
    assert errors.speed_error_mps == pytest.approx(0.2)
    assert errors.heading_error_deg is None


def test_swaying_twice_a_second_is_no_speed():
    """A window of 1 s holds whole periods: what sways comes back to where it was."""
    wanted = straight(5, 0.0)
    sway = wanted.copy()
    sway[:, 1] = 0.05 * np.sin(2 * np.pi * 2.0 * np.arange(len(wanted)) / HZ)
    part = Followed(measured_xy=sway, measured_yaw=np.zeros(251), wanted_xy=wanted, wanted_yaw=np.zeros(251))
    errors = path_errors([part], HZ)
    assert errors.speed_error_mps == pytest.approx(0.0, abs=1e-12)
    assert errors.path_error_m == pytest.approx(0.05 * 2 / np.pi, rel=0.02)  # mean of |sin|, 25 samples per period


def test_parts_do_not_touch_each_other():
    """A jump between parts is no speed; their frames count alike. The second is too short for any speed."""
    first = Followed(
        measured_xy=straight(2, 0.5), measured_yaw=np.zeros(101), wanted_xy=straight(2, 0.5), wanted_yaw=np.zeros(101)
    )
    second = Followed(
        measured_xy=np.full((25, 2), 100.0), measured_yaw=np.zeros(25), wanted_xy=np.full((25, 2), 99.0),
        wanted_yaw=None,
    )  # fmt: skip
    errors = path_errors([first, second], HZ)
    assert errors.path_error_m == pytest.approx(25 * np.sqrt(2) / 126)
    assert errors.heading_error_deg == 0.0 and errors.speed_error_mps == pytest.approx(0.0, abs=1e-12)


def test_nothing_followed_is_no_error():
    errors = path_errors([], HZ)
    assert errors.path_error_m is errors.heading_error_deg is errors.speed_error_mps is None


def statistics(forward=(-0.4, 1.0), left=(-0.3, 0.3), turn=(-0.5, 0.5)):
    """Statistics of motions that have these ranges of velocity."""
    lowest, highest = np.full(127, -1.0), np.full(127, 1.0)
    for column, (low, high) in (
        (LINEAR_VELOCITY.start, forward),
        (LINEAR_VELOCITY.start + 1, left),
        (ANGULAR_VELOCITY.start + 2, turn),
    ):
        lowest[column], highest[column] = low, high
    return FeatureStatistics(
        kept=np.arange(127), mean=np.zeros(127), std=np.ones(127), minimum=lowest, maximum=highest, fill=np.zeros(127),
        frame="heading0", hz=50.0,
    )  # fmt: skip


def test_paths_that_are_slow_enough_stay_as_they_are():
    path = ComPath(time=np.array([0.0, 2.0, 4.0]), xy=np.array([[0.0, 0], [2, 0], [2, 0]]), yaw=np.array([0.0, 0, 1]))
    assert path.limited(statistics()) is path  # 1 m/s ahead and 0.5 rad/s are just within the limits


def test_paths_that_are_too_fast_are_walked_later_through_the_same_points():
    """10 m in 1 s take 10 s at 1 m/s; a turn of 2 rad takes 4 s at 0.5 rad/s; resting for 3 s stays 3 s."""
    xy = np.array([[0.0, 0.0], [6.0, 8.0], [6.0, 8.0], [6.0, 8.0]])
    ahead = np.arctan2(8.0, 6.0)
    path = ComPath(time=np.array([0.5, 1.5, 2.5, 5.5]), xy=xy, yaw=ahead + np.array([0.0, 0.0, 2.0, 2.0]))
    slow = path.limited(statistics())
    np.testing.assert_allclose(slow.time, [0.5, 10.5, 14.5, 17.5])
    np.testing.assert_array_equal(slow.xy, xy)
    free = ComPath(time=path.time, xy=xy, yaw=None).limited(statistics())
    np.testing.assert_allclose(free.time, [0.5, 10.5, 11.5, 14.5])


@pytest.mark.parametrize(
    ("yaw", "seconds"),
    [
        (0.0, 6.0 / 1.0),  # forward
        (np.pi, 6.0 / 0.4),  # backward
        (np.pi / 2, 6.0 / 0.3),  # to the right
        (-np.pi / 2, 6.0 / 0.2),  # to the left
        (np.pi / 6, max(6.0 * np.cos(np.pi / 6) / 1.0, 6.0 * np.sin(np.pi / 6) / 0.3)),  # forward and to the right
    ],
)
def test_each_direction_has_its_own_limit(yaw, seconds):
    """6 m along x, seen from a robot that looks elsewhere."""
    path = ComPath(time=np.array([0.0, 1.0]), xy=np.array([[0.0, 0.0], [6.0, 0.0]]), yaw=np.array([yaw, yaw]))
    assert path.limited(statistics(left=(-0.3, 0.2))).time[-1] == pytest.approx(seconds)


def test_a_way_that_the_motions_never_go_is_as_fast_as_their_fastest():
    path = ComPath(time=np.array([0.0, 1.0]), xy=np.array([[0.0, 0.0], [-6.0, 0.0]]), yaw=np.zeros(2))
    assert path.limited(statistics(forward=(0.0, 1.5))).time[-1] == pytest.approx(4.0)


def test_a_path_that_begins_elsewhere():
    """2 s later, from (5, 1) in heading 90 degrees: ahead is +y, left is -x."""
    path = ComPath(time=np.array([0.0, 1.0, 2.0]), xy=np.array([[0.0, 0], [1, 0], [1, 1]]), yaw=np.array([0.0, 0, 0.5]))
    begun = path.begun(2.0, np.array([5.0, 1.0]), np.pi / 2)
    np.testing.assert_allclose(begun.time, [2.0, 3.0, 4.0])
    np.testing.assert_allclose(begun.xy, [[5.0, 1.0], [5.0, 2.0], [4.0, 2.0]], atol=1e-12)
    np.testing.assert_allclose(begun.yaw, np.pi / 2 + np.array([0.0, 0.0, 0.5]))


def test_motions_that_never_move_tell_no_limit():
    path = ComPath(time=np.array([0.0, 1.0]), xy=np.array([[0.0, 0.0], [9.0, 0.0]]), yaw=None)
    assert path.limited(statistics((0.0, 0.0), (0.0, 0.0), (0.0, 0.0))) is path


@pytest.mark.parametrize("longest", [None, 0, 3, 4, 10])
def test_tables_keep_the_latest_rows(longest):
    rows = Rows(3, longest=longest, block=4)
    assert len(rows) == 0 and rows.array().shape == (0, 3)
    truth = np.random.default_rng(0).normal(size=(25, 3))
    for number, row in enumerate(truth, start=1):
        rows.append(row[:1], float(row[1]), row[2:])
        kept = number - rows.forgotten
        assert len(rows) == kept and rows.forgotten % 4 == 0
        assert kept == number if longest is None else min(number, max(longest, 1)) <= kept <= longest + 2 * 4
        np.testing.assert_array_equal(rows.array(), truth[rows.forgotten : number])


@pytest.mark.parametrize("longest", [None, 3])
def test_a_snapshot_of_a_table_stays_as_it_was(longest):
    rows = Rows(3, longest=longest, block=4)
    truth = np.random.default_rng(0).normal(size=(25, 3))
    stills = [(rows.snapshot(), truth[:0])]
    for number, row in enumerate(truth, start=1):
        rows.append(row)
        stills.append((rows.snapshot(), truth[rows.forgotten : number]))
    for still, expected in stills:
        assert len(still) == len(expected)
        np.testing.assert_array_equal(still.array(), expected)
