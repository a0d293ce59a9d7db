"""Parts of the motion generator against closed forms, and the data set's cache and split."""

from itertools import pairwise

import mujoco
import numpy as np
import pytest

from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.datasets import builtin, load_dataset
from motionlex.data.procedural.centre_of_mass import GRAVITY, horizontal_path, lever, rocking, vertical_path
from motionlex.data.procedural.dynamics import InverseDynamics, derivatives, root_wrench, zmp_of
from motionlex.data.procedural.feasibility import check_clip, summarise, support_margin
from motionlex.data.procedural.footsteps import compose, plan_footsteps
from motionlex.data.procedural.inverse_kinematics import SoleTarget, axis_rotation, solve_leg
from motionlex.data.procedural.library import LABELS, LibraryConfig, all_pairs, library_plans, sample_style
from motionlex.data.procedural.style import Command, Style
from motionlex.data.robots import get_robot

ROBOT = get_robot("h1")
DT = 0.02
STAND = Style(label="stand")
WALK = Style(label="walk_forward", stepping=True, velocity=(0.8, 0.0, 0.0), half_width=0.18)


@pytest.fixture(scope="module")
def dynamics():
    return InverseDynamics(ROBOT)


def standing(frames=60):
    qpos = np.zeros((frames, 26))
    qpos[:, 2], qpos[:, 3], qpos[:, 7:] = ROBOT.standing_height, 1.0, ROBOT.default_pose
    return qpos


# Centre of mass


def test_flight_is_the_parabola_through_its_ends():
    flight = np.zeros(120, dtype=bool)
    flight[50:64] = True
    z = vertical_path(np.full(120, 0.9), flight, dt=DT)
    t = DT * np.arange(49, 65)
    fit = np.polyfit(t, z[49:65], 2)
    assert fit[0] == pytest.approx(-GRAVITY / 2, rel=1e-3)
    assert np.abs(np.polyval(fit, t) - z[49:65]).max() < 1e-5
    assert abs(z[:20] - 0.9).max() < 0.02


def test_resting_reference_stays_at_rest():
    z = vertical_path(np.full(80, 0.95), np.zeros(80, dtype=bool), dt=DT)
    np.testing.assert_allclose(z, 0.95, atol=1e-9)
    np.testing.assert_allclose(lever(z, dt=DT), 0.95 / GRAVITY, atol=1e-9)


def test_horizontal_path_solves_the_pendulum():
    """For x = a sin(w t) the zero-moment point is a (1 + w^2 z/g) sin(w t): the path must come back from it."""
    t = DT * np.arange(400)
    omega, height, size = 3.0, 0.9, 0.05
    window = np.sin(np.pi * np.arange(400) / 399) ** 2
    path = size * window * np.sin(omega * t)
    acceleration = np.gradient(np.gradient(path, DT), DT)
    zmp = path - height / GRAVITY * acceleration
    out = horizontal_path(zmp[:, None], np.full(400, height / GRAVITY), np.zeros(400, dtype=bool), dt=DT)[:, 0]
    assert np.abs(out - path).max() < 2e-3


def test_horizontal_path_coasts_in_flight():
    flight = np.zeros(100, dtype=bool)
    flight[50:60] = True
    zmp = np.where(np.arange(100) < 55, 0.0, 0.3)[:, None]
    x = horizontal_path(zmp, np.full(100, 0.1), flight, dt=DT)[:, 0]
    assert np.abs(np.diff(x, 2)[49:59] / DT**2).max() < 0.02


def test_rocking_takes_up_the_moment():
    flight = np.zeros(80, dtype=bool)
    flight[40:50] = True
    moment = np.where(flight, 20.0, 0.0)[:, None]
    angle = rocking(moment, np.array([4.0]), flight, dt=DT)[:, 0]
    second = np.diff(angle, 2)[39:49] / DT**2
    np.testing.assert_allclose(second, -5.0, atol=0.25)
    assert np.abs(angle).max() < 0.2


# Legs and dynamics


def test_leg_solution_is_what_forward_kinematics_says(dynamics):
    rng = np.random.default_rng(0)
    n = 40
    pelvis = np.tile([0.3, -0.2, 0.95], (n, 1)) + 0.03 * rng.standard_normal((n, 3))
    yaw, pitch, roll = 0.1 * rng.standard_normal((3, n)) + np.array([[1.0], [0.3], [0.0]])
    rotation = axis_rotation(2, yaw) @ axis_rotation(1, pitch) @ axis_rotation(0, roll)
    data = mujoco.MjData(dynamics.model)
    for foot, side, name in ((0, 1.0, "left_ankle_link"), (1, -1.0, "right_ankle_link")):
        offset = np.stack((rng.uniform(-0.15, 0.2, n), side * rng.uniform(0.12, 0.3, n)), axis=1)
        c, s = np.cos(yaw), np.sin(yaw)
        point = np.zeros((n, 3))
        point[:, 0] = pelvis[:, 0] + c * offset[:, 0] - s * offset[:, 1]
        point[:, 1] = pelvis[:, 1] + s * offset[:, 0] + c * offset[:, 1]
        target = SoleTarget(point=point, yaw=yaw + 0.1 * rng.standard_normal(n), pitch=rng.uniform(-0.1, 0.3, n))
        leg = solve_leg(side, pelvis, rotation, target, iterations=6)
        assert (leg.miss == 0).all()
        for t in range(n):
            half = [quaternion.from_rotvec(np.eye(3)[k] * a) for k, a in ((2, yaw[t]), (1, pitch[t]), (0, roll[t]))]
            data.qpos[:] = 0
            data.qpos[:3] = pelvis[t]
            data.qpos[3:7] = quaternion.multiply(quaternion.multiply(half[0], half[1]), half[2])
            data.qpos[7 + 5 * foot : 12 + 5 * foot] = leg.angles[t]
            mujoco.mj_kinematics(dynamics.model, data)
            frame = data.body(name).xmat.reshape(3, 3)
            sole = data.body(name).xpos - 0.07 * frame[:, 2]
            np.testing.assert_allclose(sole[:2], point[t, :2], atol=2e-4)
            heading = np.arctan2(frame[1, 0], frame[0, 0])
            assert np.angle(np.exp(1j * (heading - target.yaw[t]))) == pytest.approx(0, abs=2e-3)
            assert -np.arcsin(frame[2, 0]) == pytest.approx(target.pitch[t], abs=2e-3)


def test_free_fall_needs_no_force_and_standing_needs_the_weight(dynamics):
    falling = standing(20)
    falling[:, 2] -= 0.5 * GRAVITY * (DT * np.arange(20)) ** 2
    assert np.abs(dynamics.forces(falling, DT)[1:-1, :6]).max() < 1e-6
    still = standing(10)
    forces = dynamics.forces(still, DT)
    assert forces[5, 2] == pytest.approx(51.437 * 9.81, rel=1e-6)
    com = dynamics.centre_of_mass(still)
    np.testing.assert_allclose(zmp_of(still, forces)[5], com[5, :2], atol=1e-9)
    force, moment = root_wrench(still, forces)
    np.testing.assert_allclose(moment[5], np.cross(com[5], force[5]), atol=1e-8)


def test_derivatives_of_a_spin_and_a_sine():
    t = DT * np.arange(100)
    qpos = standing(100)
    qpos[:, 3:7] = quaternion.from_yaw(0.8 * t)
    qpos[:, 10] = 0.3 * np.sin(2 * t)
    velocity, acceleration = derivatives(qpos, DT)
    np.testing.assert_allclose(velocity[1:-1, 3:6], np.tile([0, 0, 0.8], (98, 1)), atol=1e-9)
    np.testing.assert_allclose(velocity[1:-1, 9], 0.6 * np.cos(2 * t[1:-1]), atol=3e-4)
    np.testing.assert_allclose(acceleration[1:-1, 9], -1.2 * np.sin(2 * t[1:-1]), atol=1e-3)


# Footsteps


def test_compose_is_the_planar_group():
    pose = compose(np.array([1.0, 2.0, np.pi / 2]), (1.0, 0.0, 0.5))
    np.testing.assert_allclose(pose, [1.0, 3.0, np.pi / 2 + 0.5], atol=1e-12)


def test_steps_alternate_and_end_side_by_side():
    commands = (
        Command(start=0, stop=50, style=STAND),
        Command(start=50, stop=250, style=WALK),
        Command(start=250, stop=350, style=STAND),
    )
    plan = plan_footsteps(commands, dt=DT)
    assert plan.contact.any(axis=1).all()
    single = plan.contact.sum(axis=1) == 1
    assert ((plan.left_share[single] == 1.0) == plan.contact[single, 0]).all()
    left, right = plan.position[-1]
    np.testing.assert_allclose(left - right, [0, 0.4, 0], atol=1e-9)
    landings = [np.flatnonzero(np.diff(plan.contact[:, foot].astype(int)) == 1) for foot in (0, 1)]
    order = np.argsort(np.concatenate(landings))
    assert (np.abs(np.diff((order >= len(landings[0])).astype(int))) == 1).all()
    steady = plan.position[180, :, 0].max() - plan.position[105, :, 0].max()
    assert steady / (75 * DT) == pytest.approx(0.8, abs=0.15)
    assert plan.ready[2] < 250 + 70


def test_all_pairs_takes_every_pair_once():
    walk = all_pairs(("a", "b", "c", "d"), np.random.default_rng(3))
    pairs = list(pairwise(walk))
    assert len(pairs) == 12 == len(set(pairs)) and all(a != b for a, b in pairs)


@pytest.mark.parametrize("label", LABELS)
def test_styles_vary_but_keep_their_label(label):
    styles = [sample_style(label, np.random.default_rng(k)) for k in range(4)]
    assert {s.label for s in styles} == {label} and len(set(styles)) == 4
    assert all(np.sign(s.velocity[1] + s.velocity[2]) == -1 for s in styles if label.endswith("right"))


# Feasibility


def test_support_margin_of_a_square():
    square = np.array([[[0, 0], [1, 0], [1, 1], [0, 1]]], float).repeat(3, axis=0)
    touching = np.ones((3, 4), dtype=bool)
    margin = support_margin(np.array([[0.5, 0.5], [0.9, 0.5], [1.2, 0.5]]), square, touching)
    np.testing.assert_allclose(margin, [0.5, 0.1, -0.2], atol=1e-3)
    assert support_margin(np.zeros((1, 2)), square[:1], ~touching[:1])[0] == -np.inf


def test_checks_find_what_is_wrong(dynamics):
    good = check_clip(MotionClip(name="good", qpos=standing(), hz=50.0), dynamics)
    assert (
        good.torque_ratio < 1 and good.zmp_outside_share == 0 and good.flight_share == 0 and good.wrench_residual < 0.01
    )
    leaning = standing()  # the whole body turned about the ankles until it hangs over the toes
    dynamics.centre_of_mass(leaning[:1])
    ankle = dynamics.data.body("left_ankle_link").xpos * [1, 0, 1]
    tilt = quaternion.from_rotvec(np.array([0, 0.2, 0]))
    leaning[:, :3] = ankle + quaternion.rotate(tilt, leaning[0, :3] - ankle)
    leaning[:, 3:7] = tilt
    leaning[:, [11, 16]] -= 0.2
    report = check_clip(MotionClip(name="leaning", qpos=leaning, hz=50.0), dynamics)
    assert report.zmp_margin_m < -0.01 and report.zmp_outside_share == 1 and report.slide_m_s == 0
    sliding = standing()
    sliding[:, 0] = 0.3 * DT * np.arange(60)
    assert check_clip(MotionClip(name="sliding", qpos=sliding, hz=50.0), dynamics).slide_m_s == pytest.approx(0.3)
    hovering = standing()
    hovering[:, 2] += 0.1
    floating = check_clip(MotionClip(name="floating", qpos=hovering, hz=50.0), dynamics)
    assert floating.flight_share == 1 and floating.flight_force == pytest.approx(1.0, abs=1e-3)
    bent = standing()
    bent[:, 7] = ROBOT.upper[0] + 0.1
    assert check_clip(MotionClip(name="bent", qpos=bent, hz=50.0), dynamics).range_excess_rad == pytest.approx(0.1)
    text = summarise((good, floating), ROBOT)
    assert len(text.splitlines()) == 3 and "floating" in text


# Data set


TINY = LibraryConfig(seconds=1.5, variants=1, medley_commands=400, rare_medleys=0, held_out_medleys=0)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A library of six clips in a cache of its own; generation is counted."""
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path))
    calls = []

    def few(config):
        calls.append(config)
        return [p for p in library_plans(config) if p[0].rsplit("_", 1)[0] in ("stand", "turn_left", "bow")]

    monkeypatch.setattr(builtin, "library_plans", few)
    return calls


def test_second_load_reads_the_cache_and_gives_the_same(tiny):
    first = builtin.load(None, 50.0, TINY)
    second = builtin.load(None, 50.0, TINY)
    assert len(tiny) == 1
    for a, b in zip(first.clips, second.clips, strict=True):
        assert a.name == b.name and a.labels == b.labels
        np.testing.assert_array_equal(a.qpos, b.qpos)
    builtin.load(None, 50.0, LibraryConfig(seed=5, seconds=1.5, variants=1))
    assert len(tiny) == 2


def test_split_is_by_clip_and_rates_are_resampled(tiny):
    data = builtin.load(None, 30.0, TINY)
    assert {c.hz for c in data.clips} == {30.0} and data.hz == 30.0
    assert not {c.name for c in data.train} & {c.name for c in data.validation}
    assert len(data.train) == 3 == len(data.validation)
    assert {s.label for c in data.train for s in c.labels} == {"stand", "turn_left", "bow"}
    bow = next(c for c in data.train if c.name.startswith("bow"))
    assert bow.label_at(0) == "stand" and bow.label_at(bow.frames // 2) == "bow"


def test_builtin_is_registered_and_needs_no_folder(tiny, monkeypatch):
    monkeypatch.setattr(builtin, "LibraryConfig", lambda: TINY)
    assert load_dataset("builtin", None, hz=50.0).name == "builtin"
