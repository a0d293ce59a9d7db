"""Every measure of tracking against hand-made trajectories: what was put in must come out, in its unit."""

import mujoco
import numpy as np
import pytest
from tracking_doubles import (
    ERRORS,
    HZ,
    MICROMETRE,
    ROBOT,
    SHORT,
    STEP_MM,
    Constant,
    library_of,
    measured,
    moving,
    standing,
)

from motionlex.controllers.tracking_metrics import (
    absolute_power,
    heading_error,
    is_down,
    saturated_share,
    transport_cost,
)
from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.envs.kinematics import SiteKinematics
from motionlex.envs.reference import CommandSource
from motionlex.envs.rewards import BodyState
from motionlex.envs.simulator import Simulator
from motionlex.envs.soles import Soles
from motionlex.envs.terminations import TerminationLimits


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
