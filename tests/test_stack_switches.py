"""Changes of command in simulation: which pairs, how late, how smooth, and what became of them."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.evaluation_rollouts import Stacks
from motionlex.controllers.evaluation_scores import Jury
from motionlex.controllers.evaluation_takes import Take
from motionlex.controllers.motion_classifier import MotionClassifier, measure
from motionlex.controllers.stack import Stack
from motionlex.controllers.switches import (
    FIRST_S,
    SECOND_S,
    Switch,
    choose_pairs,
    evaluate_switches,
    jerk,
    seam_jerk,
    simulate_switch,
    summarise_switches,
    usual_jerks,
)
from motionlex.data.clip import MotionClip
from motionlex.data.robots import get_robot

HZ = 50.0


def test_jerk_of_a_polynomial():
    """q = a t^3 + b t^2 + c has the third derivative 6 a, and third differences of cubics are exact."""
    time = np.arange(60) / HZ
    angles = np.stack([2.0 * time**3 - time**2, 1.5 * time**3 + 4.0 * time, np.cos(0.0 * time)], axis=1)
    found = jerk(angles, HZ)
    assert found.shape == (57,)
    np.testing.assert_allclose(found, np.hypot(12.0, 9.0), rtol=1e-6)
    at_seam, elsewhere = seam_jerk(time[:40, None] ** 3, 30, HZ)
    assert at_seam == pytest.approx(6.0) and elsewhere == 0.0  # both sides are too short to compare with


def test_the_seam_and_what_is_away_from_it():
    """Constant jerk 6 before and 60 after; at the seam a kick whose third difference is known."""
    seam, frames = 100, 300
    time = np.arange(frames) / HZ
    later = np.maximum(time - seam / HZ, 0.0)
    angles = (time**3 + 9.0 * later**3)[:, None]
    # Windows of 15: two whole ones of jerk 6 from frame 50 to 92, twelve of 60 from frame 110 on.
    assert seam_jerk(angles, seam, HZ) == (pytest.approx(60.0), pytest.approx(60.0))
    assert seam_jerk(angles[:135], seam, HZ) == (pytest.approx(60.0), pytest.approx(6.0))  # two of 6, one of 60
    kicked = angles.copy()
    kicked[seam + 2] += 1e-3  # third differences of a single frame: 1, -3, 3, -1
    # the peak is 3 * 1e-3 * hz^3 beside the constant 60, with either sign
    assert seam_jerk(kicked, seam, HZ)[0] == pytest.approx(3e-3 * HZ**3 + 60.0, rel=1e-6)
    elsewhere = angles.copy()
    elsewhere[[30, 150]] += 1e-3  # in the start from rest and inside an action: neither is at the seam
    assert seam_jerk(elsewhere, seam, HZ) == (pytest.approx(60.0), pytest.approx(60.0))


def test_what_is_usual_in_recordings():
    """Two takes of jerk 6 and one of 60 with one kick: medians, by action."""

    def take(action, scale, kick=0.0):
        qpos = np.tile(np.eye(26)[3], (101, 1))
        qpos[:, 7] = scale * (np.arange(101) / HZ) ** 3
        qpos[50, 7] += kick
        return Take(action=action, name=action, clip=MotionClip(name=action, hz=HZ, qpos=qpos))

    found = usual_jerks([take("wave", 1.0), take("wave", 1.0, 1e-3), take("run", 10.0)])
    assert found == {"run": pytest.approx(60.0, rel=1e-6), "wave": pytest.approx(6.0, rel=1e-6)}


def ignorant_judge():
    """Whatever it sees is a bow."""
    size = len(measure(np.tile(np.eye(26)[3], (4, 1)), HZ))
    return MotionClassifier(
        labels=("bow", "stand", "wave"),
        mean=np.zeros(size),
        std=np.ones(size),
        weights=np.zeros((3, size)),
        bias=np.array([1.0, 0.0, 0.0]),
    )


def test_jumps_at_every_segment_are_seen(tiny_bundle, toy_encode, monkeypatch):
    """A plan that jumps by 0.2 rad whenever a segment begins: far from recordings, at the seam and elsewhere alike."""
    for module in ("stack", "switches"):  # the toy policy cannot stand
        monkeypatch.setattr(f"motionlex.controllers.{module}.is_down", lambda qpos: False)
    stack = Stack(load_bundle(tiny_bundle), encode=toy_encode)
    step = stack.step

    def jumping():
        state = step()
        planned = state.planned_qpos.copy()
        planned[7:] = 0.2 * (stack.segments % 2)
        return replace(state, planned_qpos=planned)

    stack.step = jumping
    jury = Jury(judge=ignorant_judge(), robot=get_robot("h1"))
    found = simulate_switch(jury, stack, "wave", "bow", {"wave": 7.0, "bow": 3.0})
    assert found.survived
    jump = np.sqrt(19) * 0.2 * 2.0 * HZ**3 / 7.0  # third differences of a step: 1, -2, 1
    assert found.jerk_ratio_planned == pytest.approx(jump)
    assert found.jerk_ratio_planned_elsewhere == pytest.approx(jump)


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
    judge = ignorant_judge()
    stacks = Stacks(bundle=load_bundle(tiny_bundle), encode=toy_encode, seed=3)
    report = evaluate_switches(Jury(judge=judge, robot=get_robot("h1")), stacks, 1)
    assert report["switches"] == 1
    for pair in report["pairs"]:
        # told after 100 steps, 4 into the segment from step 96 on: the next one begins at step 112
        assert FIRST_S * HZ == 100 and SECOND_S > 1
        assert pair["delay_s"] == pytest.approx((112 - 100 + 1) / HZ)
        assert pair["jerk_ratio"] is None  # there are no recordings to compare with
        assert pair["recognised"] in ("bow", "fallen")
    again = evaluate_switches(Jury(judge=judge, robot=get_robot("h1")), stacks, 1)
    assert again["pairs"] == report["pairs"]
