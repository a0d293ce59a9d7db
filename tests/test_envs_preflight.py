"""The reference pre-flight: each flaw that is built into a clip is found, in its unit, and nothing else is."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.compatibility import check_fits
from motionlex.data.errors import UserError
from motionlex.data.ground import clearance, lowest_points
from motionlex.data.procedural.dynamics import InverseDynamics
from motionlex.data.robots import get_robot
from motionlex.envs import open_loop
from motionlex.envs.open_loop import roll_out_open_loop
from motionlex.envs.preflight import PreflightLimits, check_clip, judge
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.tracking import H1Track

ROBOT = get_robot("h1")
DYNAMICS = InverseDynamics(ROBOT)
KNEE = ROBOT.joint_names.index("knee_angle_l")


def standing(frames=120, lift=0.0):
    qpos = np.zeros((frames, 26))
    qpos[:, 2], qpos[:, 3], qpos[:, 7:] = ROBOT.standing_height + lift, 1.0, ROBOT.default_pose
    return qpos


def check(qpos, *, hz=50.0, **options):
    return check_clip(MotionClip(name="x", qpos=qpos, hz=hz, **options), DYNAMICS)


def test_standing_still_has_no_flaw():
    found = check(standing())
    assert (found.verdict, found.reasons) == ("ok", ())
    facts = found.facts
    assert facts.usable_share == 1.0 and facts.masked_share == 0.0 and facts.velocity_ratio == pytest.approx(0.0)
    assert abs(facts.clearance_median_m) < 1e-3 and facts.feasibility["torque_ratio"] < 0.5
    assert facts.starts_s == (0.0, 1.0, 2.0) and facts.first_start_lost is False and facts.lost_at_once_share == 0.0
    # Gravity pulls the servos off their targets, so a robot that only follows topples, but never at once.
    assert 0.5 < facts.open_loop_median_s <= 2.4


def test_the_lowest_point_of_every_shape_is_that_of_mujocos_own_distances():
    rng = np.random.default_rng(1)
    qpos = standing(12)
    qpos[:, 2] = rng.uniform(0.2, 1.5, 12)
    turns = rng.standard_normal((12, 4))
    qpos[:, 3:7] = turns / np.linalg.norm(turns, axis=1, keepdims=True)
    qpos[:, 7:] = rng.uniform(ROBOT.lower, ROBOT.upper, (12, 19))
    model = ROBOT.model(control="none")
    data = mujoco.MjData(model)
    floor, found = model.geom("floor").id, lowest_points(qpos, ROBOT)
    for frame in range(12):
        data.qpos[:] = qpos[frame]
        mujoco.mj_forward(model, data)
        geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] > 0]
        distances = [mujoco.mj_geomDistance(model, data, g, floor, 5.0, None) for g in geoms]
        np.testing.assert_allclose(found[frame], distances, atol=1e-6)
    np.testing.assert_array_equal(clearance(qpos, ROBOT), found.min(axis=1))
    assert found.min() < 0 < found.max()


@pytest.mark.parametrize(
    ("lift", "verdict", "words"),
    [
        (-0.03, "warning", "sinks 30 mm"),
        (0.05, "warning", "floats 50 mm"),
        (-0.5, "unusable", "0.50 m below the floor"),
        (1.0, "unusable", "hovers 1.00 m"),
    ],
)
def test_wrong_heights_are_told_apart(lift, verdict, words):
    found = check(standing(lift=lift))
    assert found.verdict == verdict and any(words in reason for reason in found.reasons), found.reasons


def test_hinges_beyond_range_and_speed_are_named():
    qpos = standing()
    qpos[40:60, 7 + KNEE] = ROBOT.upper[KNEE] + 0.3
    found = check(qpos)
    assert found.verdict == "warning" and found.facts.range_excess_rad == pytest.approx(0.3)
    assert "knee_angle_l leaves its range by 0.30 rad" in found.reasons
    # 0.24 rad per frame are 12 rad/s: the motor of the elbow turns at most at 20 rad/s, that of the ankle at 9 rad/s.
    ramp = np.interp(np.arange(60), (0, 25, 30, 60), (0.0, 0.0, 1.2, 1.2))
    ankle, elbow = ROBOT.joint_names.index("ankle_angle_r"), ROBOT.joint_names.index("left_elbow")
    slow, fast = standing(60), standing(60)
    slow[:, 7 + elbow] += ramp - 1.0
    assert check(slow).facts.velocity_ratio == pytest.approx(12.0 / 20.0)
    fast[:, 7 + ankle] += ramp - 0.4
    found = check(fast).facts
    assert found.velocity_ratio == pytest.approx(12.0 / 9.0) and found.velocity_joint == "ankle_angle_r"


def test_torques_beyond_the_motors_are_found():
    qpos = standing(200)
    shoulder = 7 + ROBOT.joint_names.index("l_arm_shx")
    qpos[:, shoulder] += 0.6 + 0.5 * np.sin(2 * np.pi * 3.0 * np.arange(200) / 50.0)  # 178 rad/s^2
    found = check(qpos)
    assert found.facts.feasibility["torque_joint"].startswith("l_arm")
    assert any("times the torque of its motor" in reason for reason in found.reasons)


def test_feet_that_stand_and_slide_are_found_and_feet_that_fly_are_not():
    """A statue pushed over the floor at 0.8 m/s; half a metre above the floor the same motion is no sliding."""
    pushed = standing()
    pushed[:, 0] = 0.8 * np.arange(len(pushed)) / 50.0
    found = check(pushed)
    assert found.facts.feasibility["slide_m_s"] == pytest.approx(0.8, rel=1e-6)
    assert found.verdict == "warning" and "a standing foot slides at up to 0.8 m/s" in found.reasons
    slow = standing()
    slow[:, 1] = 0.4 * np.arange(len(slow)) / 50.0
    for clean in (check(slow), check(pushed + np.eye(26)[2] * 0.5)):
        assert not any("slides" in reason for reason in clean.reasons)


def test_lost_starts_are_a_warning_when_few_and_fatal_when_many():
    facts, limits = check(standing(60)).facts, PreflightLimits()
    assert judge(facts, limits) == ("ok", ())
    verdict, reasons = judge(replace(facts, lost_at_once_share=0.1), limits)
    assert verdict == "warning" and reasons == ("10.0% of the starts on the reference itself are lost within 0.1 s",)
    verdict, reasons = judge(replace(facts, lost_at_once_share=0.6, first_start_lost=True), limits)
    assert verdict == "unusable" and "60.0% of the starts" in reasons[0] and "first frame" in reasons[0]


def test_a_first_frame_that_is_lost_at_once_is_found():
    """The classic: episodes of length one. Half a metre of height in one frame is beyond what any robot can follow."""
    qpos = standing(120)
    qpos[1::2, 2] += 0.6
    qpos[1::2, 3:7] = quaternion.from_rotvec(np.array([0.0, 0.5, 0.0]))
    facts = check(qpos).facts
    assert facts.first_start_lost is True and facts.lost_at_once_share == 1.0
    assert facts.open_loop_shortest_s == pytest.approx(0.02) and max(facts.survival_s) <= 0.04


@pytest.mark.parametrize(("frames", "words"), [(20, "has 20 frames, a segment needs 32"), (36, "no unmasked stretch")])
def test_clips_shorter_than_a_segment_or_a_run_are_unusable(frames, words):
    found = check(standing(frames))
    assert found.verdict == "unusable" and words in found.reasons[0]
    assert found.facts.starts_s == () and found.facts.first_start_lost is None
    with pytest.raises(UserError, match="no stretch of at least 40 valid frames"):
        MotionLibrary([MotionClip(name="short", qpos=standing(frames), hz=50.0)], ROBOT, 50.0)


def test_masked_frames_are_counted_and_left_out():
    qpos, valid = standing(200), np.ones(200, dtype=bool)
    qpos[95:105, 2] -= 0.9
    valid[90:110] = False
    found = check(qpos, valid=valid)
    assert found.verdict == "warning" and found.facts.masked_share == 0.1 and found.facts.usable_share == 0.9
    assert found.reasons == ("10.0% of the frames are masked, 90.0% can be trained on",)
    assert all(not 1.8 <= start < 2.2 for start in found.facts.starts_s)
    nothing = check(standing(100), valid=np.zeros(100, dtype=bool))
    assert nothing.verdict == "unusable" and nothing.facts.clearance_median_m is None


def test_open_loop_rollouts_are_those_of_the_single_environment(monkeypatch):
    """Robots are reused as soon as they fall: the numbers stay those of one environment per start."""
    monkeypatch.setattr(open_loop, "_WORLDS", 3)
    rng = np.random.default_rng(0)
    qpos = standing(150)
    qpos[:, 7:] += 0.2 * np.sin(2 * np.pi * np.arange(150)[:, None] / 50.0 + rng.uniform(0, 6, 19))
    library = MotionLibrary([MotionClip(name="x", qpos=qpos, hz=50.0)], ROBOT, 50.0)
    task = TrackingTask(ROBOT, library, TaskConfig())
    frames = np.array([0, 30, 60, 90, 120, 130, 140])
    found = roll_out_open_loop(task, frames, seconds=0.6)
    env = H1Track(task)
    for frame, steps, lost in zip(frames, found.steps, found.terminated, strict=True):
        env.reset(options={"frame": int(frame)})
        count, terminated, truncated = 0, False, False
        while count < 30 and not (terminated or truncated):
            *_, terminated, truncated, _ = env.step(np.zeros(19))
            count += 1
        assert (steps, lost) == (count, terminated)
    assert found.steps[-1] == 9 and not found.terminated[-1]  # the motion ends


@pytest.mark.parametrize("hz", [30.0, 100.0, 240.0])
def test_any_rate_can_be_checked(hz):
    assert check(standing(90), hz=hz).verdict == "ok"


def test_motions_of_other_robots_are_refused():
    clip = MotionClip(name="dance", qpos=standing(60), hz=50.0, robot="g1")
    with pytest.raises(UserError, match="'dance' is a motion of robot g1, wanted h1"):
        check_clip(clip, DYNAMICS)
    wide = MotionClip(name="wide", qpos=np.hstack([standing(60), np.zeros((60, 10))]), hz=50.0)
    for refuse in (lambda: check_fits(wide, ROBOT), lambda: MotionLibrary([wide], ROBOT, 50.0)):
        with pytest.raises(UserError, match="'wide' has 29 joints, h1 has 19"):
            refuse()
    with pytest.raises(UserError, match="not a finite number"):
        MotionClip(name="nan", qpos=np.full((60, 26), np.nan), hz=50.0)
    with pytest.raises(UserError, match="has 1 frame"):
        MotionClip(name="one", qpos=standing(1), hz=50.0)
