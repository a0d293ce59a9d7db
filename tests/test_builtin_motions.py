"""The built-in motions obey physics: momentum by MuJoCo, single-leg statics, geometry; none of our checks' formulas."""

from collections import defaultdict
from itertools import pairwise

import mujoco
import numpy as np
import pytest
from scipy.spatial import ConvexHull

from motionlex.data import quaternion
from motionlex.data.procedural.dynamics import InverseDynamics
from motionlex.data.procedural.generator import HZ, generate
from motionlex.data.procedural.library import COMMON, LABELS, LibraryConfig, library_plans
from motionlex.data.robots import get_robot

DT = 1.0 / HZ
ROBOT = get_robot("h1")
MASS = 51.437
SHORT = LibraryConfig(seconds=5.0, variants=1, rare_medleys=1, medley_commands=12, held_out_medleys=1)


class Physics:
    """Momenta, soles and centre of mass of a clip, straight from MuJoCo."""

    def __init__(self, clip):
        model = ROBOT.model(control="none")
        data = mujoco.MjData(model)
        root = model.body(ROBOT.root_body).id
        geoms = [model.geom(g).id for foot in ROBOT.foot_geoms for g in foot]
        n = clip.frames
        self.com, self.angular, self.soles = np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 8, 3))
        velocity = clip.qvel()
        for t in range(n):
            data.qpos[:], data.qvel[:] = clip.qpos[t], velocity[t]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_comVel(model, data)
            mujoco.mj_subtreeVel(model, data)
            self.com[t], self.angular[t] = data.subtree_com[root], data.subtree_angmom[root]
            self.soles[t] = data.geom_xpos[geoms]
        self.soles[..., 2] -= model.geom_size[geoms, 0]
        self.acceleration = np.zeros((n, 3))
        self.acceleration[1:-1] = (self.com[2:] - 2 * self.com[1:-1] + self.com[:-2]) / DT**2
        self.moment = np.gradient(self.angular, DT, axis=0)

    def zmp(self):
        """Zero-moment point from the momenta of the whole body."""
        vertical = MASS * (self.acceleration[:, 2] + 9.81)
        x = self.com[:, 0] - (self.com[:, 2] * MASS * self.acceleration[:, 0] + self.moment[:, 1]) / vertical
        y = self.com[:, 1] - (self.com[:, 2] * MASS * self.acceleration[:, 1] - self.moment[:, 0]) / vertical
        return np.stack((x, y), axis=1), vertical


@pytest.fixture(scope="module")
def motions():
    dynamics = InverseDynamics(ROBOT)
    chosen = [p for p in library_plans(SHORT) if p[0].endswith("_0") or p[0] in ("medley_00", "medley_rare_00")]
    return {name: generate(name, commands, dynamics) for name, _, commands in chosen}


@pytest.fixture(scope="module")
def physics(motions):
    return {name: Physics(motion.clip) for name, motion in motions.items()}


def steady(motion, label):
    """Frames of the middle of a single-action clip, away from its ends by a second."""
    span = next(s for s in motion.clip.labels if s.label == label)
    return slice(span.start + 60, span.stop - 25)


def test_no_joint_leaves_its_range_of_the_model(motions):
    limits = ROBOT.model(control="none").jnt_range[1:]
    for name, motion in motions.items():
        hinges = motion.clip.qpos[:, 7:]
        assert (hinges >= limits[:, 0]).all() and (hinges <= limits[:, 1]).all(), name


def test_no_foot_sinks_below_5_mm_and_planted_feet_do_not_slide(motions, physics):
    for name, motion in motions.items():
        soles = physics[name].soles
        assert soles[..., 2].min() > -0.005, name
        for foot in (0, 1):
            planted = motion.plan.contact[:, foot]
            middle = soles[:, 4 * foot : 4 * foot + 4, :2].mean(axis=1)
            speed = np.linalg.norm(np.diff(middle, axis=0), axis=1) / DT
            both = planted[1:] & planted[:-1]
            assert speed[both].max() < 0.02, (name, foot, speed[both].max())


def test_feet_of_the_plan_are_reached(motions, physics):
    for name, motion in motions.items():
        assert motion.miss.max() < 1e-3, name
        for foot in (0, 1):
            planted = motion.plan.contact[:, foot]
            assert physics[name].soles[planted, 4 * foot : 4 * foot + 4, 2].min(axis=1).max() < 0.005, name


def test_zero_moment_point_stays_over_the_soles(motions, physics):
    """Hull of the planted feet's contact spheres, widened by 1 cm of their 2 cm radius."""
    for name, motion in motions.items():
        zmp, vertical = physics[name].zmp()
        outside, checked = 0, 0
        for t in range(2, motion.clip.frames - 2, 3):
            planted = np.repeat(motion.plan.contact[t], 4)
            if vertical[t] < 0.2 * MASS * 9.81 or not planted.any():
                continue
            hull = ConvexHull(physics[name].soles[t, planted, :2])
            outside += bool((hull.equations[:, :2] @ zmp[t] + hull.equations[:, 2]).max() > 0.01)
            checked += 1
        assert outside <= 0.01 * checked, (name, outside, checked)


def test_flight_is_ballistic_and_keeps_the_angular_momentum(motions, physics):
    seen = 0
    for name, motion in motions.items():
        flight = ~motion.plan.contact.any(axis=1)
        seen += flight.sum()
        if not flight.any():
            continue
        error = physics[name].acceleration[flight] + [0, 0, 9.81]
        assert np.linalg.norm(error, axis=1).max() < 0.5, name
        inner = flight & np.roll(flight, 1) & np.roll(flight, -1)
        if inner.any():  # momenta by central differences need both neighbours in the air
            assert np.median(np.linalg.norm(physics[name].moment[inner], axis=1)) < 12.0, name
    assert seen > 50


def test_root_acceleration_is_bounded(motions):
    for name, motion in motions.items():
        position = motion.clip.qpos[:, :3]
        acceleration = np.diff(position, 2, axis=0) / DT**2
        limit = 30.0 if ("hop" in name or "rare" in name) else 16.0
        assert np.linalg.norm(acceleration, axis=1).max() < limit, name


def test_single_support_torques_stay_inside_the_motor_limits(motions):
    """With one foot down the contact wrench follows from the root's rows alone: no distribution to choose."""
    dynamics = InverseDynamics(ROBOT)
    model, data = dynamics.model, dynamics.data
    feet = [model.body(b).id for b in ROBOT.foot_bodies]
    ratios = defaultdict(list)
    for name, motion in motions.items():
        forces = dynamics.forces(np.asarray(motion.clip.qpos), DT)
        single = np.flatnonzero(motion.plan.contact.sum(axis=1) == 1)
        for t in single[::4]:
            data.qpos[:] = motion.clip.qpos[t]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
            mujoco.mj_jacBody(model, data, linear, angular, feet[int(motion.plan.contact[t, 1])])
            jacobian = np.concatenate((linear, angular))
            wrench = np.linalg.solve(jacobian[:, :6].T, forces[t, :6])
            torque = forces[t] - jacobian.T @ wrench
            ratios[name].append(np.abs(torque[6:]) / ROBOT.torque_limit)
    assert len(ratios) > 10
    for name, ratio in ratios.items():
        assert np.quantile(np.max(ratio, axis=1), 0.99) < 1.1, name


@pytest.mark.parametrize(
    ("label", "forward", "left"),
    [
        ("walk_slow", 0.4, 0),
        ("walk_forward", 0.8, 0),
        ("walk_fast", 1.2, 0),
        ("walk_backward", -0.45, 0),
        ("jog", 1.55, 0),
        ("sidestep_left", 0, 0.275),
        ("sidestep_right", 0, -0.275),
        ("march", 0, 0),
    ],
)
def test_gaits_have_their_speed(motions, label, forward, left):
    motion = motions[f"{label}_0"]
    part = motion.clip.qpos[steady(motion, label)]
    velocity = (part[-1, :2] - part[0, :2]) / (len(part) - 1) / DT
    assert velocity == pytest.approx([forward, left], abs=0.15 if abs(forward) > 1 else 0.12)


@pytest.mark.parametrize(("label", "sign"), [("turn_left", 1), ("turn_right", -1)])
def test_turns_are_fast_and_on_the_spot(motions, label, sign):
    motion = motions[f"{label}_0"]
    part = motion.clip.qpos[steady(motion, label)]
    yaw = np.unwrap(quaternion.yaw(part[:, 3:7]))
    assert sign * np.rad2deg(yaw[-1] - yaw[0]) / (len(part) - 1) / DT > 60
    assert np.abs(part[:, :2] - part[:, :2].mean(axis=0)).max() < 0.2


@pytest.mark.parametrize(("label", "sign"), [("walk_turn_left", 1), ("walk_turn_right", -1)])
def test_walking_turns_walk_and_turn(motions, label, sign):
    motion = motions[f"{label}_0"]
    part = motion.clip.qpos[steady(motion, label)]
    yaw = np.unwrap(quaternion.yaw(part[:, 3:7]))
    path = np.linalg.norm(np.diff(part[:, :2], axis=0), axis=1).sum()
    assert sign * np.rad2deg(yaw[-1] - yaw[0]) / (len(part) - 1) / DT > 20
    assert path / (len(part) - 1) / DT > 0.4


def test_actions_on_the_spot_are_as_large_as_asked(motions, physics):
    squat, bow = motions["squat_0"].clip.qpos, motions["bow_0"].clip.qpos
    assert squat[0, 2] - squat[:, 2].min() > 0.2
    tilt = np.arccos(np.clip(quaternion.to_matrix(bow[:, 3:7])[:, 2, 2], -1, 1))
    assert np.rad2deg(tilt.max()) > 33
    hop = physics["hop_0"]
    assert hop.soles[:, :, 2].min(axis=1).max() > 0.05
    assert hop.com[:, 2].max() - hop.com[:5, 2].mean() > 0.0
    takeoff = np.flatnonzero(~motions["hop_0"].plan.contact.any(axis=1))[0]
    assert hop.com[:, 2].max() - hop.com[takeoff - 1, 2] > 0.05
    march = physics["march_0"].soles[:, :, 2]
    assert march[:, :4].min(axis=1).max() > 0.12 and march[:, 4:].min(axis=1).max() > 0.12


def test_jog_leaves_the_floor(physics):
    assert (physics["jog_0"].soles[..., 2].min(axis=1) > 0.005).mean() > 0.05


def test_new_commands_are_obeyed_within_a_second(motions):
    """Base speed [m/s] one to two seconds after a stop order, heading rate after a turn order."""
    clip = motions["medley_00"].clip
    seen = 0
    for span in clip.labels:
        if span.stop - span.start < 90 or span.label not in ("stand", "wave", "turn_left", "turn_right"):
            continue
        part = clip.qpos[span.start + 50 : span.stop]
        if span.label in ("stand", "wave"):
            assert np.linalg.norm(part[-1, :2] - part[0, :2]) / (len(part) * DT) < 0.1, span
        else:
            yaw = np.unwrap(quaternion.yaw(part[:, 3:7]))
            sign = 1 if span.label == "turn_left" else -1
            assert sign * np.rad2deg(yaw[-1] - yaw[0]) / (len(part) * DT) > 45, span
        seen += 1
    assert seen > 0


def test_the_same_seed_gives_the_same_motion_and_another_seed_another(motions):
    again = {n: c for n, _, c in library_plans(SHORT)}["bow_0"]
    other = {n: c for n, _, c in library_plans(LibraryConfig(seed=1, seconds=5.0, variants=1))}["bow_0"]
    dynamics = InverseDynamics(ROBOT)
    np.testing.assert_array_equal(generate("bow_0", again, dynamics).clip.qpos, motions["bow_0"].clip.qpos)
    assert other != again


def test_the_library_is_long_enough_and_covers_every_pair():
    plans = library_plans(LibraryConfig())
    minutes = sum(commands[-1].stop for _, _, commands in plans) / HZ / 60
    medleys = sum(commands[-1].stop for name, _, commands in plans if name.startswith("medley")) / HZ / 60
    assert minutes > 15 and medleys > 0.5 * minutes
    names = [name for name, _, _ in plans]
    assert len(set(names)) == len(names) and len(LABELS) >= 16
    pairs, variants = set(), defaultdict(int)
    for name, held_out, commands in plans:
        assert commands[0].start == 0 and all(a.stop == b.start for a, b in pairwise(commands))
        if name.startswith("medley"):
            assert all(50 <= c.stop - c.start <= 300 for c in commands)
            if not held_out:
                pairs |= {(a.style.label, b.style.label) for a, b in pairwise(commands)}
        else:
            variants[name.rsplit("_", 1)[0]] += 1
    assert {(a, b) for a in COMMON for b in COMMON if a != b} <= pairs
    assert set(variants) == set(LABELS) and min(variants.values()) >= 3
    for label in LABELS:
        assert any(label in (c.style.label for c in commands) and not held for _, held, commands in plans)
