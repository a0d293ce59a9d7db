"""Every measure of tracking against hand-made trajectories: what was put in must come out, in its unit."""

import json
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from motionlex.controllers import evaluation_tracking, low_level_setup, rollout_recorder, tracking_stage
from motionlex.controllers.evaluation_flags import EvaluateStackFlags
from motionlex.controllers.evaluation_report import evaluate_stack
from motionlex.controllers.evaluation_tracking import evaluate_tracking, quick_score, worst_clips
from motionlex.controllers.intervals import bootstrap_interval, ratio, wilson_interval
from motionlex.controllers.low_level_config import LowLevelConfig, resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.rollout_starts import repeated_starts, spread_starts, stratified_starts
from motionlex.controllers.tracking_metrics import (
    absolute_power,
    heading_error,
    is_down,
    saturated_share,
    transport_cost,
)
from motionlex.controllers.tracking_report import check_out, clip_figure, markdown, write_report
from motionlex.data import quaternion
from motionlex.data.clip import MotionClip, category_of
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.kinematics import SiteKinematics
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.reference import CommandSource, MotionLibrary
from motionlex.envs.rewards import BodyState
from motionlex.envs.simulator import Simulator, initial_time_state
from motionlex.envs.soles import Soles
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.terminations import TerminationLimits
from motionlex.scripts.evaluate_stack import main

ROBOT = get_robot("h1")
HZ = 50.0
STEP_MM = 1000.0 / HZ
"""Way per control step at 1 m/s [mm]."""
MICROMETRE = 1e-3
"""Key points of the library are kept in single precision: metres with seven digits [mm]."""
SHORT = 0.2
"""Rollouts of ten control steps: kinematics repeat themselves [s]."""


class Still:
    """Acts by doing nothing."""

    def act(self, observation):
        return np.zeros((len(observation), 19))


class Constant:
    """Always the same action."""

    def __init__(self, action):
        self.action = np.asarray(action, dtype=float)

    def act(self, observation):
        return np.tile(self.action, (len(observation), 1))


def standing(frames=101):
    qpos = np.zeros((frames, 26))
    qpos[:, 2], qpos[:, 3], qpos[:, 7:] = ROBOT.standing_height, 1.0, ROBOT.default_pose
    return qpos


def moving(*, velocity=(0.0, 0.0), turn=0.0, hinge=0.0, frames=101, name="walk1"):
    """Constant root velocity [m/s], heading rate [rad/s] and hinge rate [rad/s], the pose in the middle the default."""
    qpos = standing(frames)
    time = np.arange(frames) / HZ
    qpos[:, :2] = time[:, None] * np.asarray(velocity)
    qpos[:, 3:7] = quaternion.from_yaw(turn * time)
    qpos[:, 7:] += hinge * (time[:, None] - time.mean())
    return MotionClip(name=name, qpos=qpos, hz=HZ)


def library_of(*clips):
    return MotionLibrary(clips, ROBOT, HZ)


@pytest.fixture
def replay(monkeypatch):
    """Put kinematics in place of physics: the robot is where ``change`` says, ``lag`` frames late."""

    def install(change=lambda qpos, qvel: (qpos, qvel), lag=0):
        class Replay(BatchedTracking):
            def simulate(self, ctrl):
                library, episodes = self.task.library, self.episodes
                row = np.clip(episodes.frame + 1 - lag, 0, library.last_frame[episodes.frame])
                self.state[:] = initial_time_state(*change(library.qpos[row].copy(), library.qvel[row].copy()))
                self.passed[:] = self.state[:, None]
                self.held[:] = ctrl[:, None]
                return ctrl

        monkeypatch.setattr(evaluation_tracking, "BatchedTracking", Replay)

    return install


def measured(library, *, policy=None, command=None, **options):
    task = {key: options.pop(key) for key in ("goal", "control", "limits") if key in options}
    options = {"per_run": 1, "seconds": SHORT, **options}
    return evaluate_tracking(policy or Still(), library, command, robot=ROBOT, config=TaskConfig(**task), **options)


ERRORS = (
    *("keypoint_error_local_mm", "keypoint_error_global_mm", "joint_error_rad"),
    *("joint_velocity_error_rad_s", "root_drift_m", "heading_drift_rad"),
)


def test_replaying_the_reference_has_no_errors_at_all(replay):
    replay()
    library = library_of(moving(velocity=(0.7, -0.4), turn=0.9, hinge=0.3), moving(turn=-1.0, name="turn_2"))
    report = measured(library)
    assert report["success_rate"] == report["success_rate_keypoint"] == 1.0
    assert report["mean_survival_s"] == report["mean_possible_s"] == SHORT and report["episodes"] == 2
    assert report["full_length_share"] == 1.0
    for key in ERRORS:
        assert report[key] == pytest.approx(0.0, abs=MICROMETRE if key.endswith("mm") else 1e-9), key
    assert [row["category"] for row in report["categories"]] == ["walk", "turn"]


def test_one_frame_late_costs_one_frame_of_motion(replay):
    replay(lag=1)
    travel = measured(library_of(moving(velocity=(0.6, 0.8))))  # 1 m/s
    assert travel["keypoint_error_global_mm"] == pytest.approx(STEP_MM, abs=MICROMETRE)
    assert travel["root_drift_m"] == pytest.approx(1.0 / HZ)
    assert travel["keypoint_error_local_mm"] == pytest.approx(0.0, abs=MICROMETRE)
    ramp = measured(library_of(moving(hinge=0.5)))
    assert ramp["joint_error_rad"] == pytest.approx(0.5 / HZ)
    assert ramp["joint_velocity_error_rad_s"] == pytest.approx(0.0, abs=1e-9)  # the rate is constant
    assert ramp["root_drift_m"] == pytest.approx(0.0, abs=1e-12)
    spin = measured(library_of(moving(turn=2.0)))
    model = ROBOT.model(control="none")
    data = mujoco.MjData(model)
    data.qpos[:] = standing(2)[0]
    mujoco.mj_kinematics(model, data)
    radius = np.mean([np.linalg.norm(data.site(name).xpos[:2]) for name in ROBOT.sites])
    chord = 2e3 * radius * np.sin(0.5 * 2.0 / HZ)
    assert spin["keypoint_error_global_mm"] == pytest.approx(chord, abs=MICROMETRE)
    assert spin["keypoint_error_local_mm"] == pytest.approx(0.0, abs=MICROMETRE)


@pytest.mark.parametrize(("axis", "drift"), [(0, 0.1), (1, 0.1), (2, 0.0)])
def test_every_axis_of_the_root_counts_globally_and_none_locally(replay, axis, drift):
    def change(qpos, qvel):
        qpos[:, axis] -= 0.1
        return qpos, qvel

    replay(change)
    report = measured(library_of(moving(velocity=(0.3, 0.0))))
    assert report["keypoint_error_global_mm"] == pytest.approx(100.0, abs=MICROMETRE)
    assert report["keypoint_error_local_mm"] == pytest.approx(0.0, abs=MICROMETRE)
    assert report["root_drift_m"] == pytest.approx(drift, abs=1e-12)


def test_a_hinge_of_one_arm_counts_by_its_lever(replay):
    elbow = 7 + ROBOT.joint_names.index("left_elbow")

    def change(qpos, qvel):
        qpos[:, elbow] += 0.2
        qvel[:, elbow - 1] -= 1.9
        return qpos, qvel

    replay(change)
    report = measured(library_of(moving()))
    assert report["joint_error_rad"] == pytest.approx(0.2 / 19)
    assert report["joint_velocity_error_rad_s"] == pytest.approx(0.1)  # 1.9 / 19
    model = ROBOT.model(control="none")
    data = mujoco.MjData(model)
    hands = []
    for angle in (0.0, 0.2):
        data.qpos[:] = standing(2)[0]
        data.qpos[elbow] += angle
        mujoco.mj_kinematics(model, data)
        hands.append(np.array([data.site(name).xpos for name in ROBOT.sites]))
    expected = 1e3 * np.linalg.norm(hands[1] - hands[0], axis=1).mean()
    assert report["keypoint_error_local_mm"] == pytest.approx(expected, abs=MICROMETRE)
    assert report["keypoint_error_global_mm"] == pytest.approx(expected, abs=MICROMETRE)


def test_the_sign_of_the_quaternion_means_nothing(replay):
    def change(qpos, qvel):
        qpos[:, 3:7] *= -1.0
        return qpos, qvel

    replay(change)
    report = measured(library_of(moving(velocity=(0.5, 0.1), turn=1.0)))
    assert report["success_rate"] == report["success_rate_keypoint"] == 1.0
    assert report["keypoint_error_local_mm"] == pytest.approx(0.0, abs=MICROMETRE)


def test_saturation_and_power_of_known_torques(replay):
    limit = np.array([[10.0, 20.0]])
    torque = np.array([[[9.9, -20.0], [9.89, 0.0]]])  # 99 %, 100 %, 98.9 %, 0 %
    assert saturated_share(torque, limit) == pytest.approx([0.5])
    assert absolute_power(torque, np.array([[[1.0, 2.0], [-1.0, 5.0]]])) == pytest.approx([0.5 * (9.9 + 40.0 + 9.89)])
    replay()
    half = measured(library_of(moving(hinge=0.4)), policy=Constant(np.full(19, 0.5)), control="torque")
    assert half["torque_saturation"] == 0.0
    assert half["energy_j_per_s"] == pytest.approx(0.5 * 0.4 * ROBOT.torque_limit.sum())
    full = measured(library_of(moving()), policy=Constant([1, -1, 1, *[0.9] * 16]), control="torque")
    assert full["torque_saturation"] == pytest.approx(3 / 19)
    assert full["energy_j_per_s"] == pytest.approx(0.0, abs=1e-9)  # nothing turns


def test_servo_torques_are_those_that_the_physics_applied(monkeypatch):
    """The share of saturated motors and the power against what MuJoCo itself says its motors gave, step by step."""
    action = np.zeros(19)
    action[[0, 3, 9]] = -2.0, 1.0, 4.0
    clip = moving(frames=60)
    report = measured(library_of(clip), policy=Constant(action), seconds=0.1, starts=(0,))
    simulator = Simulator(ROBOT)
    simulator.reset(clip.qpos[0], clip.qvel()[0])
    torque, power = [], []
    speed = [simulator.qvel[6:]]

    def record(data):
        torque.append(data.actuator_force.copy())
        power.append(np.abs(torque[-1] * speed[-1]).sum())
        speed.append(data.qvel[6:].copy())

    simulator.recorders.append(record)
    for frame in range(5):
        simulator.step(clip.qpos[frame + 1, 7:] + 0.3 * action)
    assert report["mean_survival_s"] == pytest.approx(0.1) and len(torque) == 20
    assert report["energy_j_per_s"] == pytest.approx(np.mean(power), rel=1e-6)  # gains are rounded in the model file
    assert report["torque_saturation"] == pytest.approx((np.abs(torque) >= 0.99 * ROBOT.torque_limit).mean())
    assert report["torque_saturation"] > 0


def test_feet_slide_as_fast_as_they_are_dragged(replay):
    replay()
    assert measured(library_of(moving(velocity=(0.3, -0.4))))["foot_sliding_mm_s"] == pytest.approx(500.0)
    assert measured(library_of(moving()))["foot_sliding_mm_s"] == pytest.approx(0.0, abs=1e-9)

    def lifted(qpos, qvel):
        qpos[:, 2] += 0.01
        return qpos, qvel

    replay(lifted)
    flying = measured(library_of(moving(velocity=(0.3, 0.0))))
    assert flying["foot_sliding_mm_s"] is None and flying["intervals_95"]["foot_sliding_mm_s"] is None


def test_soles_move_as_the_jacobians_of_the_physics_say():
    rng = np.random.default_rng(3)
    model = ROBOT.model(control="none")
    data = mujoco.MjData(model)
    qpos = standing(6)
    qpos[:, 2] += rng.normal(0.0, 0.02, 6)
    qpos[:, 3:7] = quaternion.from_rotvec(0.3 * rng.standard_normal((6, 3)))
    qpos[:, 7:] += 0.3 * rng.standard_normal((6, 19))
    qvel = rng.standard_normal((6, 25))
    soles = Soles(ROBOT)
    motion = SiteKinematics(ROBOT).states(qpos, qvel)
    height = soles.lowest(motion)
    speed, touches = soles.sliding(motion, contact=0.03)
    jacobian = np.zeros((3, model.nv))
    for row in range(6):
        data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
        mujoco.mj_forward(model, data)
        for foot, geoms in enumerate(ROBOT.foot_geoms):
            points = np.array([data.geom(name).xpos - (0.0, 0.0, model.geom(name).size[0]) for name in geoms])
            np.testing.assert_allclose(height[row, foot], points[:, 2], atol=1e-9)
            low = points[points[:, 2] <= 0.03]
            moves = []
            for point in low:
                mujoco.mj_jac(model, data, jacobian, None, point, model.body(ROBOT.foot_bodies[foot]).id)
                moves.append(np.linalg.norm((jacobian @ data.qvel)[:2]))
            assert touches[row, foot] == bool(len(low))
            assert speed[row, foot] == pytest.approx(np.mean(moves) if moves else 0.0, abs=1e-9)
    assert touches.any() and not touches.all()


def test_cost_of_transport_is_energy_over_weight_times_way(replay):
    replay()
    clip = moving(velocity=(0.0, 1.5), hinge=0.4)
    report = measured(library_of(clip), policy=Constant(np.full(19, 0.5)), control="torque")
    power = 0.5 * 0.4 * ROBOT.torque_limit.sum()
    assert report["cost_of_transport"] == pytest.approx(power / (51.437 * 9.81 * 1.5), rel=1e-6)
    assert measured(library_of(moving(velocity=(0.1, 0.0))))["cost_of_transport"] is None  # slower than it needs to be
    energy, weight = transport_cost(
        *(np.array([x]) for x in (100.0, 2.0, 2.0, 50.0)), hz=50.0, mass=10.0
    )  # 100 W s / 50 over 2 m
    assert energy == pytest.approx([2.0]) and weight == pytest.approx([10.0 * 9.81 * 2.0])


def tilted(angle):
    def change(qpos, qvel):
        lean = quaternion.from_rotvec(np.array([0.0, angle, 0.0]))
        qpos[:, 3:7] = quaternion.multiply(qpos[:, 3:7], lean)
        return qpos, qvel

    return change


def test_the_two_rules_of_success_differ_where_they_should(replay):
    library = library_of(moving())
    replay(tilted(0.9))  # 52 degrees: beyond our 0.8 rad, but no fall, and key points turn about the pelvis by < 0.5 m
    report = measured(library)
    assert (report["success_rate"], report["success_rate_keypoint"]) == (0.0, 1.0)
    assert report["mean_survival_s"] == 0.0 and report["keypoint_error_local_mm"] is None  # the first step fails
    replay(tilted(1.06))  # 61 degrees is a fall
    assert measured(library)["success_rate_keypoint"] == 0.0

    def shifted(qpos, qvel):
        qpos[:, 1] += 0.51
        return qpos, qvel

    replay(shifted)
    report = measured(library)
    assert (report["success_rate"], report["success_rate_keypoint"]) == (0.0, 0.0)


def test_lying_down_is_no_fall_where_the_motion_lies_down(replay):
    qpos = standing(61)
    qpos[:, 2] = np.interp(np.arange(61), (0, 20, 40), (1.0, 1.0, 0.2))
    library = library_of(MotionClip(name="fall1", qpos=qpos, hz=HZ))
    replay()
    report = measured(library, seconds=1.2)
    assert (report["success_rate"], report["success_rate_keypoint"]) == (1.0, 1.0)
    replay(lag=-10)  # a fifth of a second early is forgiven by the rule of other projects
    assert measured(library, seconds=1.2)["success_rate_keypoint"] == 1.0
    down = is_down(np.array([[0, 0, 0.51, 1, 0, 0, 0.0], [0, 0, 0.49, 1, 0, 0, 0], [0, 0, np.nan, 1, 0, 0, 0]]))
    assert down.tolist() == [False, True, True]
    angles = np.radians([59.0, 61.0, 180.0])
    leaning = np.array([[0, 0, 1.0, *quaternion.from_rotvec(np.array([a, 0.0, 0.0]))] for a in angles])
    assert is_down(leaning).tolist() == [False, True, True]


def blind(library):
    """Codes that say nothing."""
    return CommandSource(
        codes=np.zeros((1, 1, 64), dtype=np.int64),
        segment=np.zeros(library.frames, dtype=np.int64),
        phase=np.zeros(library.frames),
        vocabulary=8,
    )


def test_turning_the_wrong_way_fails_in_the_world_and_not_under_the_robot(replay):
    """The library turns left by 0.8 rad/s while it walks a circle, the robot right: a mirrored path, step by step."""
    frames, rate, radius = 201, 0.8, 1.0
    angle = np.arange(frames) / HZ * rate
    qpos = standing(frames)
    qpos[:, 0], qpos[:, 1] = radius * np.sin(angle), radius * (1.0 - np.cos(angle))
    qpos[:, 3:7] = quaternion.from_yaw(angle)
    library = library_of(MotionClip(name="turn_left", qpos=qpos, hz=HZ))

    def mirrored(qpos, qvel):
        qpos[:, 1] *= -1.0
        qpos[:, 5:7] *= -1.0  # about the vertical: the quaternion of the opposite angle
        qvel[:, 1] *= -1.0
        qvel[:, 5] *= -1.0
        return qpos, qvel

    def score(**options):
        return measured(
            library, seconds=1.0, starts=(0,), limits=TerminationLimits(key_point=9.0, orientation=4.0), **options
        )

    replay(mirrored)
    report = score(command=blind(library), goal="latent")
    assert (report["success_rate"], report["success_rate_keypoint"]) == (1.0, 1.0)
    assert report["keypoint_error_local_mm"] == pytest.approx(0.0, abs=MICROMETRE)
    assert report["success_rate_keypoint_world"] == 0.0
    assert report["clips"][0]["success_rate_keypoint_world"] == 0.0
    assert report["heading_drift_rad"] == pytest.approx(2.0 * rate * 1.0)  # after one second
    assert report["root_drift_m"] == pytest.approx(2.0 * radius * (1.0 - np.cos(rate)))
    shown = score()  # with the frames of the library as goal both key-point rules are the one in the world
    assert (shown["success_rate_keypoint"], shown["success_rate_keypoint_world"]) == (0.0, 0.0)
    replay()
    assert score(command=blind(library), goal="latent")["success_rate_keypoint_world"] == 1.0


def test_turning_the_wrong_way_on_the_spot_shows_in_the_heading_alone(replay):
    def turned(qpos, qvel):
        qpos[:, 5:7] *= -1.0
        qvel[:, 5] *= -1.0
        return qpos, qvel

    library = library_of(moving(turn=1.5, frames=101))
    replay(turned)
    report = measured(library, seconds=1.0, starts=(0,), command=blind(library), goal="latent")
    assert report["success_rate_keypoint_world"] == 1.0 and report["root_drift_m"] == 0.0
    assert report["heading_drift_rad"] == pytest.approx(3.0)  # 1.5 rad each way after one second
    assert "heading_drift_rad" in report["errors"]


@pytest.mark.parametrize(
    ("robot", "reference", "expected"),
    [(3.0, -3.0, 2 * np.pi - 6.0), (-3.0, 3.0, 2 * np.pi - 6.0), (0.4, 0.1, 0.3), (0.0, np.pi, np.pi)],
)
def test_heading_errors_take_the_short_way_round(robot, reference, expected):
    def state(angle):
        qpos = standing(1)
        qpos[:, 3:7] = quaternion.from_yaw(np.array([angle]))
        return BodyState(qpos=qpos, qvel=np.zeros((1, 25)), sites=np.zeros((1, 2, 3)))

    assert heading_error(state(robot), state(reference)) == pytest.approx([expected])


def test_codes_are_judged_under_the_robot_and_drift_is_reported(replay):
    def shifted(qpos, qvel):
        qpos[:, :2] += (3.0, 4.0)
        return qpos, qvel

    library = library_of(moving(velocity=(0.5, 0.0)))
    replay(shifted)
    report = measured(library, command=blind(library), goal="latent")
    assert (report["success_rate"], report["success_rate_keypoint"]) == (1.0, 1.0)
    assert report["success_rate_keypoint_world"] == 0.0 and report["heading_drift_rad"] == pytest.approx(0.0, abs=1e-9)
    assert report["keypoint_error_global_mm"] == pytest.approx(5000.0, abs=MICROMETRE)
    assert report["root_drift_m"] == pytest.approx(5.0)
    assert report["keypoint_error_local_mm"] == pytest.approx(0.0, abs=MICROMETRE)
    assert "drift" in report["errors"]


def test_evaluation_draws_codes_that_training_has_not_seen(monkeypatch, toy_dataset, tiny_vae_run, tmp_path):
    """Codes of eight draws of training, of five seeds, against those that evaluation shows with two of its own."""
    config = resolve_config(
        LowLevelFlags(goal="latent", vae=tiny_vae_run, code_draws=8, worlds=4, steps=128, out=tmp_path / "run")
    )
    shown = []
    monkeypatch.setattr(tracking_stage, "load_low_level_config", lambda folder: config)
    monkeypatch.setattr(tracking_stage, "load_dataset", toy_dataset)
    monkeypatch.setattr(tracking_stage.LowLevelPolicy, "load", lambda folder: Still())
    monkeypatch.setattr(
        tracking_stage, "evaluate_tracking", lambda policy, library, command, **_: shown.append(command) or {}
    )
    monkeypatch.setattr(low_level_setup, "load_dataset", toy_dataset)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    for seed in (0, 0, 1):
        evaluate_stack(str(tmp_path / "run"), EvaluateStackFlags(stage="tracking", seed=seed))
    first, again, other = (command.codes for command in shown)
    np.testing.assert_array_equal(first, again)
    assert len(first) == 1 and (first != other).any()
    library, _ = low_level_setup.load_library(config)
    for seed in range(5):
        task, _ = low_level_setup.build_task(replace(config, seed=seed), library, "cpu", draws=8)
        assert len(task.command.codes) == 8
        assert not any((draw == codes[0]).all() for draw in task.command.codes for codes in (first, other))


def test_frames_weigh_alike_and_terminated_episodes_stop_counting(replay):
    """One clip is lost at once, the other kept: only the kept one has errors, and the rate is one half."""

    def change(qpos, qvel):
        qpos[qpos[:, 1] > 50.0, 2] += 1.0
        qpos[:, 0] += 0.05
        return qpos, qvel

    far = standing(101)
    far[:, 1] = 100.0
    replay(change)
    report = measured(library_of(moving(), MotionClip(name="far", qpos=far, hz=HZ)))
    assert report["success_rate"] == 0.5 and report["keypoint_error_global_mm"] == pytest.approx(50.0, abs=MICROMETRE)
    assert report["mean_survival_s"] == pytest.approx(0.5 * SHORT)
    rows = {row["clip"]: row for row in report["clips"]}
    assert rows["far"]["success_rate"] == 0.0 and rows["far"]["keypoint_error_global_mm"] is None
    assert rows["walk1"]["success_rate"] == 1.0 and report["worst"][0]["clip"] == "far"
    assert report["intervals_95"]["keypoint_error_global_mm"] is None  # one episode alone says nothing of spread


def test_a_simulation_that_blows_up_is_a_failure_by_both_rules(replay):
    def change(qpos, qvel):
        return qpos, np.full_like(qvel, np.nan)

    replay(change)
    report = measured(library_of(moving()))
    assert (report["success_rate"], report["success_rate_keypoint"]) == (0.0, 0.0)


def test_ten_second_clips_have_one_start_and_repeats_spread_over_half_a_second():
    library = library_of(moving(frames=501))
    first = stratified_starts(library, 3, 500)
    np.testing.assert_array_equal(first, [0])
    starts = repeated_starts(library, first, 64, 25, 500, distinct=True)
    assert len(starts) == 64 and starts.min() == 0 and starts.max() == 25
    assert np.bincount(starts).min() >= 2  # all 26 frames, evenly
    late = repeated_starts(library, np.array([3, 489, 495]), 2, 25, 500, distinct=False)
    np.testing.assert_array_equal(late, [3, 28, 489, 490, 495, 495])
    np.testing.assert_array_equal(repeated_starts(library, np.array([7]), 1, 25, 500, distinct=True), [7])
    np.testing.assert_array_equal(np.unique(spread_starts(library, 64, 500, 25)), np.arange(25))
    longer = library_of(moving(frames=1001), moving(frames=60, name="short"))
    spread = spread_starts(longer, 40, 500, 25)
    assert spread.min() == 0 and 0.03 < (spread >= 1001).mean() < 0.1 and spread[spread < 1001].max() <= 500


def test_repeats_keep_as_many_full_length_episodes_as_there_can_be():
    library = library_of(moving(frames=501), moving(frames=521, name="b"), moving(frames=81, name="short"))

    def repeat(frame, repeats, *, distinct):
        return repeated_starts(library, np.array([frame]), repeats, 25, 500, distinct=distinct).tolist()

    assert repeat(0, 5, distinct=False) == [0] * 5  # noise makes them differ, and each can last for ten seconds
    assert repeat(0, 5, distinct=True) == [0, 1, 2, 3, 4]  # one of ten seconds, four that miss a few frames
    assert repeat(501, 3, distinct=True) == [501, 511, 521]  # 20 frames to spare
    assert repeat(521, 3, distinct=False) == [501, 511, 521]  # the last start of a run repeats backwards
    assert repeat(1022, 3, distinct=False) == [1022, 1034, 1047]  # too short for ten seconds at any start


def test_the_end_of_a_motion_is_success_and_the_report_says_how_often(replay):
    """Starts with 0.2 s, 0.1 s and 0.04 s of motion left, asked for 0.2 s, everything survived."""
    replay()
    library = library_of(moving(frames=61), moving(frames=61, name="turn_1"))
    report = measured(library, starts=(0, 55, 61 + 58), seconds=0.2)
    assert report["success_rate"] == 1.0 and report["full_length_share"] == pytest.approx(1 / 3)
    assert report["mean_possible_s"] == report["mean_survival_s"] == pytest.approx((0.2 + 0.1 + 0.04) / 3)
    walk, turn = report["clips"]
    assert (walk["mean_possible_s"], walk["full_length_share"]) == (pytest.approx(0.15), 0.5)
    assert (turn["mean_possible_s"], turn["full_length_share"]) == (pytest.approx(0.04), 0.0)
    assert report["categories"][1]["full_length_share"] == 0.0 and "0.2 s or the end" in report["lengths"]
    text = markdown(report, title="x")
    assert "full length [%]" in text and report["lengths"] in text


def test_repeats_with_noise_are_seeded_and_without_it_no_frame_counts_twice():
    library = library_of(moving(frames=80))
    report = measured(library, seconds=0.2, repeats=64)
    assert report["episodes"] == 26 and report["noise"] is False
    noisy = [measured(library, seconds=0.2, repeats=40, noise=True, seed=seed) for seed in (1, 1, 2)]
    assert noisy[0]["episodes"] == 40 and noisy[0] == noisy[1]
    assert noisy[0]["joint_error_rad"] != noisy[2]["joint_error_rad"]
    assert noisy[0]["joint_error_rad"] > report["joint_error_rad"]


def test_robots_that_differ_are_seeded_and_worse_off_than_the_nominal_one():
    library, policy = library_of(moving(frames=80)), Still()
    config = TaskConfig()

    def score(seed, randomisation):
        return evaluate_tracking(
            policy, library, None, robot=ROBOT, config=config, seconds=0.3, per_run=1, repeats=6, seed=seed,
            randomisation=randomisation,
        )  # fmt: skip

    heavy = Randomisation.heavy()
    a, b, c = score(1, heavy), score(1, heavy), score(2, heavy)
    assert a == b and a["joint_error_rad"] != c["joint_error_rad"] and a["randomised"] is True
    assert score(1, None)["randomised"] is False and a["joint_error_rad"] > score(1, None)["joint_error_rad"]


def test_batches_of_robots_do_not_change_the_result(monkeypatch):
    library = library_of(moving(frames=80))
    whole = measured(library, seconds=0.3, repeats=7)
    monkeypatch.setattr(evaluation_tracking, "_BATCH", 3)
    assert measured(library, seconds=0.3, repeats=7) == whole


def test_the_quick_score_is_the_complete_one_on_its_starts():
    library = library_of(moving(frames=80), moving(frames=120, hinge=0.1, name="b"))
    config = TaskConfig()
    quick = quick_score(Still(), library, None, robot=ROBOT, config=config, episodes=6, seconds=0.4, noise=False)
    starts = spread_starts(library, 6, 20, 25)
    complete = measured(library, starts=starts.tolist(), seconds=0.4)
    for key, value in quick.items():
        assert complete[key] == pytest.approx(value), key
    again = [quick_score(Still(), library, None, robot=ROBOT, config=config, episodes=6, seconds=0.3) for _ in range(2)]
    assert again[0] == again[1]


def test_wilson_against_its_closed_form():
    z, n, p = 1.959963984540054, 40, 0.95
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson_interval(38, 40) == pytest.approx((centre - half, centre + half))
    assert wilson_interval(10, 10)[1] == 1.0 and wilson_interval(10, 10)[0] == pytest.approx(10 / (10 + z * z))


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval_and_seeded():
    rng = np.random.default_rng(0)
    x, one = rng.normal(5.0, 2.0, 400), np.ones(400)
    low, high = bootstrap_interval(x, one, seed=1)
    half = 1.96 * x.std() / 20.0
    # 1000 draws place a 2.5 % quantile to about 0.06 standard errors; three times that
    assert low == pytest.approx(x.mean() - half, abs=0.02) and high == pytest.approx(x.mean() + half, abs=0.02)
    assert bootstrap_interval(x, one, seed=1) == (low, high)
    assert bootstrap_interval(np.full(5, 3.0), np.ones(5), seed=0) == (3.0, 3.0)
    assert bootstrap_interval(np.array([1.0, 2.0]), np.array([1.0, 0.0]), seed=0) is None
    assert ratio(np.array([2.0, 30.0]), np.array([1.0, 3.0])) == 8.0  # frames weigh alike, not episodes
    assert np.isnan(ratio(np.zeros(2), np.zeros(2)))


def test_worst_clips_are_those_that_fail_and_then_those_that_err():
    def row(name, success, error):
        return {
            **{"clip": name, "success_rate": success, "keypoint_error_local_mm": error},
            **{"mean_survival_s": 1.0, "mean_possible_s": 2.0, "episodes": 2, "more": 0},
        }

    rows = [row("a", 1.0, 9.0), row("b", 0.5, 1.0), row("c", 1.0, 50.0), row("d", 0.5, None), row("e", 0.5, 3.0)]
    assert [r["clip"] for r in worst_clips(rows, 4)] == ["d", "e", "b", "c"]
    assert category_of("walk1_subject5:500-1001") == "walk" and category_of("dance_sway_2") == "dance_sway"


def test_the_report_of_a_run_comes_with_its_learning_curves(monkeypatch, toy_dataset, replay, tmp_path):
    replay()
    report, run, out = measured(library_of(moving())), tmp_path / "run", tmp_path / "out"
    monkeypatch.setattr(tracking_stage, "load_low_level_config", lambda folder: LowLevelConfig())
    monkeypatch.setattr(tracking_stage, "load_dataset", toy_dataset)
    monkeypatch.setattr(tracking_stage.LowLevelPolicy, "load", lambda folder: Still())
    monkeypatch.setattr(tracking_stage, "evaluate_tracking", lambda *_, **__: report)
    writer = SummaryWriter(str(run / "tensorboard"))
    writer.add_scalar("train/mean_return", 1.0, 10)
    writer.close()
    (run / "config.json").write_text("{}")
    for _ in range(2):  # the second report replaces the first
        result = evaluate_stack(str(run), EvaluateStackFlags(stage="tracking", out=out))
        names = ["tracking.json", "tracking.md", "tracking.png", "curves.png"]
        assert result["files"] == [str(out / name) for name in names]
        assert sorted(path.name for path in out.iterdir()) == sorted(names)


def test_the_report_becomes_files(tmp_path, replay):
    replay()
    report = measured(library_of(moving(), moving(velocity=(0.5, 0.0), name="walk2")), per_run=2)
    folder = tmp_path / "report"
    check_out(folder)
    paths = write_report(folder, report, title="a run")
    assert [path.name for path in paths] == ["tracking.json", "tracking.md", "tracking.png"]
    assert json.loads(paths[0].read_text())["success_rate"] == 1.0
    text = paths[1].read_text()
    assert "take the episodes to be independent" in text
    assert "| walk | 4 | 100.0 [51.0, 100.0] |" in text and "| walk2 | 2 | 100.0 |" in text
    assert Image.open(paths[2]).size[0] > 500
    assert len(clip_figure(report["clips"]).axes) == 2
    check_out(folder)  # an earlier report may be replaced
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        check_out(folder)
    with pytest.raises(UserError, match="is a file"):
        check_out(folder / "notes.txt")
    nothing = replace_all(report, "keypoint_error_local_mm", None)
    assert "–" in markdown(nothing, title="x")  # noqa: RUF001


def replace_all(report, key, value):
    return {**report, key: value, "intervals_95": {**report["intervals_95"], key: None}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--starts", "0"], "--starts must be at least 1"),
        (["--seconds", "0"], "--seconds must be at least 0.1"),
        (["--seconds", "nan"], "--seconds must be"),
        (["--out", "x", "--stage", "data"], "--out is for --stage tracking"),
        (["nowhere", "--stage", "tracking"], "nowhere"),
    ],
)
def test_mistakes_end_in_one_line(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and "Traceback" not in error


def test_unknown_clips_and_empty_starts_are_refused():
    with pytest.raises(UserError, match="no starts"):
        measured(library_of(moving()), starts=())


def test_the_reference_is_read_before_the_step(replay):
    """An environment that moves on inside advance must not shift what the step is compared with."""
    seen = []
    replay()
    original = rollout_recorder.StepRecord

    class Spy(original):
        def __init__(self, **fields):
            seen.append((fields["state"].qpos[0, 0], fields["reference"].qpos[0, 0]))
            super().__init__(**fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout_recorder, "StepRecord", Spy)
        measured(library_of(moving(velocity=(1.0, 0.0))), seconds=0.1, starts=(10,))
    np.testing.assert_allclose(seen, [[(11 + k) / HZ] * 2 for k in range(5)])
