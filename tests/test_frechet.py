"""Distances between sets of feature vectors against closed forms."""

import numpy as np
import pytest
from scipy import linalg, stats

from motionlex.controllers.frechet import PER_ACTION, Sample, compare, frechet_distance, mean_distance, moments


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    mean, other = rng.normal(size=5), rng.normal(size=5)
    scales, others = rng.uniform(0.1, 2.0, 5), rng.uniform(0.1, 2.0, 5)
    # commuting covariances: squared distance of the means, and of the standard deviations along every axis
    turn = stats.special_ortho_group.rvs(5, random_state=1)
    first, second = turn @ np.diag(scales**2) @ turn.T, turn @ np.diag(others**2) @ turn.T
    wanted = ((mean - other) ** 2).sum() + ((scales - others) ** 2).sum()
    assert frechet_distance(mean, first, other, second) == pytest.approx(wanted, rel=1e-10)
    assert frechet_distance(mean, first, mean, first) == pytest.approx(0.0, abs=1e-12)


def test_frechet_distance_of_covariances_that_do_not_commute():
    """Against scipy's matrix square root, which we do not use."""
    rng = np.random.default_rng(2)
    a, b = (x @ x.T for x in rng.normal(size=(2, 4, 4)))
    wanted = np.trace(a + b - 2.0 * np.real(linalg.sqrtm(a @ b)))
    zero = np.zeros(4)
    assert frechet_distance(zero, a, zero, b) == pytest.approx(wanted, rel=1e-8)
    assert frechet_distance(zero, a, zero, b) == pytest.approx(frechet_distance(zero, b, zero, a), rel=1e-8)
    # a flat Gaussian (fewer samples than dimensions) is no trouble: distance to a point is its variance
    flat = np.outer([1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0])
    assert frechet_distance(zero, flat, zero, np.zeros((4, 4))) == pytest.approx(5.0)


def test_mean_distance_and_moments_by_hand():
    corners = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert mean_distance(corners) == pytest.approx((3 + 4 + 5) / 3)
    mean, covariance = moments(corners)
    np.testing.assert_allclose(mean, [1.0, 4.0 / 3.0])
    np.testing.assert_allclose(covariance, [[3.0, -2.0], [-2.0, 16.0 / 3.0]])


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
