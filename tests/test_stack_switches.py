"""Changes of command in simulation: which pairs, how late, how smooth, and what became of them."""

from dataclasses import asdict

import numpy as np
import pytest

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.evaluation_rollouts import Stacks
from motionlex.controllers.evaluation_scores import Jury
from motionlex.controllers.motion_classifier import MotionClassifier, measure
from motionlex.controllers.switches import (
    FIRST_S,
    SECOND_S,
    Switch,
    choose_pairs,
    evaluate_switches,
    jerk,
    seam_jerk,
    summarise_switches,
)
from motionlex.data.robots import get_robot

HZ = 50.0


def test_jerk_of_a_polynomial():
    """q = a t^3 + b t^2 + c has the third derivative 6 a, and third differences of cubics are exact."""
    time = np.arange(60) / HZ
    angles = np.stack([2.0 * time**3 - time**2, 1.5 * time**3 + 4.0 * time, np.cos(0.0 * time)], axis=1)
    found = jerk(angles, HZ)
    assert found.shape == (57,)
    np.testing.assert_allclose(found, np.hypot(12.0, 9.0), rtol=1e-6)
    assert seam_jerk(time[:40, None] ** 3, 30, HZ) is None  # both sides are too short to compare with


def test_the_seam_is_compared_with_the_livelier_side():
    """Constant jerk 6 before and 60 after; at the seam a kick whose third difference is known."""
    seam, frames = 100, 300
    time = np.arange(frames) / HZ
    later = np.maximum(time - seam / HZ, 0.0)
    angles = (time**3 + 9.0 * later**3)[:, None]
    assert seam_jerk(angles, seam, HZ) == pytest.approx(1.0, rel=1e-6)
    kicked = angles.copy()
    kicked[seam + 2] += 1e-3  # third differences of a single frame: 1, -3, 3, -1
    # the peak is 3 * 1e-3 * hz^3 beside the constant 60, with either sign
    assert seam_jerk(kicked, seam, HZ) == pytest.approx((3e-3 * HZ**3 + 60.0) / 60.0, rel=1e-6)
    elsewhere = angles.copy()
    elsewhere[[30, 150]] += 1e-3  # in the start from rest and inside an action: neither is at the seam
    assert seam_jerk(elsewhere, seam, HZ) == pytest.approx(1.0, rel=1e-6)
    assert seam_jerk(np.zeros((frames, 3)), seam, HZ) is None


def test_pairs_use_every_action_equally_often():
    actions = "abcdefg"
    rng = np.random.default_rng(0)
    everything = choose_pairs(actions, 1000, rng)
    assert sorted(everything) == sorted((a, b) for a in actions for b in actions if a != b)
    some = choose_pairs(actions, 14, np.random.default_rng(1))
    assert len(set(some)) == 14
    for side in zip(*some, strict=True):
        assert sorted(side) == sorted(2 * actions)
    assert choose_pairs(actions, 14, np.random.default_rng(1)) == some
    assert choose_pairs("ab", 1, rng)[0] in [("a", "b"), ("b", "a")]


def switch(before, after, **changes):
    values = {"survived": True, "recognised": after, "delay_s": 0.2, "jerk_ratio": 1.0, "jerk_ratio_planned": 2.0}
    return Switch(before=before, after=after, **{**values, **changes})


def test_the_summary_by_hand():
    done = [
        switch("bow", "wave"),
        switch("wave", "bow", recognised="stand", delay_s=0.4, jerk_ratio=3.0),
        switch("bow", "hop", survived=False, recognised="fallen", jerk_ratio=None, jerk_ratio_planned=None),
        switch("hop", "wave", delay_s=None),
    ]
    report = summarise_switches(done)
    assert report["switches"] == 4
    assert report["survived"]["mean"] == 0.75 and report["recognised"]["mean"] == 0.5
    assert report["delay_s"] == {"median": pytest.approx(0.2), "p95": pytest.approx(0.38), "largest": 0.4}
    assert report["jerk_ratio"]["largest"] == 3.0 and report["jerk_ratio_planned"]["median"] == 2.0
    assert report["survived_by_before"] == {"bow": 0.5, "hop": 1.0, "wave": 1.0}
    assert report["survived_by_after"] == {"bow": 1.0, "hop": 0.0, "wave": 1.0}
    assert report["recognised_by_after"] == {"bow": 0.0, "hop": 0.0, "wave": 1.0}
    assert [row["recognised"] for row in report["trouble"]] == ["stand", "fallen"]
    assert report["pairs"][3] == asdict(done[3])
    nothing = summarise_switches([switch("a", "b", delay_s=None, jerk_ratio=None)])
    assert nothing["jerk_ratio"] == {"median": None, "p95": None, "largest": None}


def test_a_switch_of_an_untrained_bundle(tiny_bundle, toy_encode):
    """It begins at the next segment: half a segment of 16 frames, or more where that one was decided already."""
    size = len(measure(np.tile(np.eye(26)[3], (4, 1)), HZ))
    judge = MotionClassifier(  # knows nothing: whatever it sees is a bow
        labels=("bow", "stand", "wave"),
        mean=np.zeros(size),
        std=np.ones(size),
        weights=np.zeros((3, size)),
        bias=np.array([1.0, 0.0, 0.0]),
    )
    stacks = Stacks(bundle=load_bundle(tiny_bundle), encode=toy_encode, seed=3)
    report = evaluate_switches(Jury(judge=judge, robot=get_robot("h1")), stacks, 1)
    assert report["switches"] == 1
    for pair in report["pairs"]:
        # told after 100 steps, 4 into the segment from step 96 on: the next one begins at step 112
        assert FIRST_S * HZ == 100 and SECOND_S > 1
        assert pair["delay_s"] == pytest.approx((112 - 100 + 1) / HZ)
        assert pair["survived"] == (pair["jerk_ratio"] is not None)
        assert pair["recognised"] in ("bow", "fallen")
    again = evaluate_switches(Jury(judge=judge, robot=get_robot("h1")), stacks, 1)
    assert again["pairs"] == report["pairs"]
