"""Distances between sets of feature vectors against closed forms."""

import numpy as np
import pytest

from motionlex.controllers.frechet import PER_ACTION, Sample, compare, mean_distance


def test_mean_distance_by_hand():
    corners = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert mean_distance(corners) == pytest.approx((3 + 4 + 5) / 3)


def sample(centres, takes=6, windows=4, spread=0.1, seed=0):
    """Takes around one centre per action; windows of a take differ by much less than takes do."""
    rng = np.random.default_rng(seed)
    rows, action, take = [], [], []
    for index, centre in enumerate(centres):
        for _ in range(takes):
            place = centre + spread * rng.normal(size=len(centre))
            rows += [place + 1e-3 * rng.normal(size=len(centre)) for _ in range(windows)]
            action += [index] * windows
            take += [len(take) // windows] * windows
    return Sample(features=np.array(rows), action=np.array(action), take=np.array(take))


CENTRES = 3.0 * np.eye(4)


def test_halves_share_no_take_and_weigh_actions_alike():
    made = sample(CENTRES)
    first, second = made.halves(np.array([0, 1, 3]), np.random.default_rng(0))
    for rows in (first, second):
        np.testing.assert_array_equal(
            np.bincount(made.action[rows], minlength=4), [PER_ACTION, PER_ACTION, 0, PER_ACTION]
        )
        assert len(set(rows)) == len(rows)
    assert not set(made.take[first]) & set(made.take[second])
    single = sample(CENTRES, takes=1, windows=2)  # one take, too few windows: both halves draw from it, with repetition
    first, second = single.halves(np.array([2]), np.random.default_rng(0))
    assert set(single.take[first]) == set(single.take[second]) == {2} and len(first) == PER_ACTION


def test_a_shifted_sample_is_told_from_the_floor():
    real = sample(CENTRES)
    shift = np.array([0.0, 1.0, 0.0, 0.0])
    rng = np.random.default_rng(0)
    floor = [draw.distance for draw in compare(real, real, floor=True, draws=50, rng=rng)]
    same = [draw.distance for draw in compare(sample(CENTRES, seed=1), real, floor=False, draws=50, rng=rng)]
    moved = sample(CENTRES + shift, seed=1)
    far = [draw.distance for draw in compare(moved, real, floor=False, draws=50, rng=rng)]
    # another sample of the same distribution is about as far as the floor, the moved one by its squared shift
    assert 0.2 < np.mean(same) / np.mean(floor) < 5.0
    assert np.mean(far) == pytest.approx(1.0 + np.mean(same), abs=0.1)
    # of four clusters 3 sqrt(2) apart, 3 windows of 12 in each: 9 of the 11 partners are in another cluster
    diversity = next(compare(real, real, floor=True, draws=1, rng=rng)).diversity
    assert diversity == pytest.approx(9 / 11 * 3 * np.sqrt(2), rel=0.1)


def test_actions_that_only_one_side_has_are_left_out():
    real = sample(CENTRES)
    part = Sample(
        features=real.features[real.action < 2], action=real.action[real.action < 2], take=real.take[real.action < 2]
    )
    distance = np.mean([d.distance for d in compare(part, real, floor=False, draws=20, rng=np.random.default_rng(0))])
    assert distance < 0.2  # with the other two actions in only one of the sets it would be above 5
