"""Rewards, terminations and observations against closed forms and symmetries."""

import mujoco
import numpy as np
import pytest

from motionlex.data import quaternion
from motionlex.data.robots import get_robot
from motionlex.envs import observations, rewards, terminations
from motionlex.envs.kinematics import SiteKinematics
from motionlex.envs.rewards import BodyState, DeepMimicWeights, Transition

ROBOT = get_robot("h1")
KINEMATICS = SiteKinematics(ROBOT)


def random_state(seed, count=5):
    draw = np.random.default_rng(seed)
    qpos = np.concatenate(
        (draw.normal(0, 2, (count, 3)), draw.normal(size=(count, 4)), draw.uniform(-1, 1, (count, 19))), axis=1
    )
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    return BodyState(qpos=qpos, qvel=draw.normal(size=(count, 25)), sites=KINEMATICS(qpos))


def transition(state, reference, action=None, last_action=None, torque=None):
    still = np.zeros((len(state.qpos), 19))
    return Transition(
        state=state,
        reference=reference,
        action=still if action is None else action,
        last_action=still if last_action is None else last_action,
        torque=still if torque is None else torque,
        lower=ROBOT.lower,
        upper=ROBOT.upper,
        end_effectors=(3, 6, 11, 14),
    )


def turned(state, yaw, shift):
    """The same robots after walking elsewhere: turned about the vertical through the origin, then moved."""
    turn = np.tile(quaternion.from_yaw(yaw), (len(state.qpos), 1))
    qpos, qvel = state.qpos.copy(), state.qvel.copy()
    qpos[:, :3] = quaternion.rotate(turn, qpos[:, :3]) + shift
    qpos[:, 3:7] = quaternion.multiply(turn, qpos[:, 3:7])
    qvel[:, :3] = quaternion.rotate(turn, qvel[:, :3])
    return BodyState(qpos=qpos, qvel=qvel, sites=KINEMATICS(qpos))


def test_site_positions_equal_mujoco():
    model = ROBOT.model(control="none")
    data = mujoco.MjData(model)
    state = random_state(0)
    for qpos, sites in zip(state.qpos, state.sites):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        expected = np.stack([data.site(name).xpos for name in ROBOT.sites])
        np.testing.assert_allclose(sites, expected, atol=1e-12)  # rounding only


def test_site_motion_equals_mujoco():
    model = ROBOT.model(control="none")
    data = mujoco.MjData(model)
    state = random_state(1)
    motion = KINEMATICS.states(state.qpos, state.qvel)
    for row in range(len(state.qpos)):
        data.qpos[:], data.qvel[:] = state.qpos[row], state.qvel[row]
        mujoco.mj_forward(model, data)
        for index, name in enumerate(ROBOT.sites):
            site, velocity = data.site(name), np.zeros(6)
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, site.id, velocity, 0)
            np.testing.assert_allclose(motion.position[row, index], site.xpos, atol=1e-12)
            np.testing.assert_allclose(motion.rotation[row, index].ravel(), site.xmat, atol=1e-12)
            np.testing.assert_allclose(motion.angular[row, index], velocity[:3], atol=1e-12)
            np.testing.assert_allclose(motion.linear[row, index], velocity[3:], atol=1e-12)


def test_perfect_tracking_scores_the_maximum():
    state = random_state(1)
    total = 0.25 + 0.10 + 0.15 + 0.10 + 0.15 + 0.10 + 0.10 + 0.05
    score = rewards.deepmimic_reward(transition(state, state), DeepMimicWeights())
    np.testing.assert_allclose(score, 0.1 * total, rtol=1e-12)


def test_each_term_by_hand():
    state = random_state(2, count=1)
    sites = state.sites + np.array([0.0, 0.0, 0.3])  # as the root, so that nothing moves relative to it ...
    hand = ROBOT.sites.index("left_hand_mimic")
    sites[0, hand] += quaternion.rotate(state.qpos[0, 3:7], np.array([0.0, 0.2, 0.0]))  # ... but one hand, by 0.2 m
    moved = BodyState(qpos=state.qpos.copy(), qvel=state.qvel.copy(), sites=sites)
    moved.qpos[0, 2] += 0.3  # |dp|^2 = 0.09
    moved.qpos[0, 7:] += 0.1  # mean square 0.01
    moved.qvel[0, 6:] += 2.0  # mean square 4
    moved.qvel[0, 0] += 0.5  # |dv|^2 = 0.25
    terms = rewards.deepmimic_terms(transition(moved, state))
    expected = {
        "root_position": np.exp(-1.0),
        "joint": np.exp(-0.25),
        "joint_velocity": np.exp(-1.0),
        "root_velocity": np.exp(-0.5),
        "key_point": np.exp(-0.04 / 15 / 0.02),
        "end_effector": np.exp(-0.04 / 4 / 0.02),
        "root_orientation": 1.0,
        "root_angular_velocity": 1.0,
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-9, err_msg=name)


def test_orientation_term_by_angle_and_sign():
    level = random_state(3, count=1)
    level.qpos[:, 3:7] = [1.0, 0.0, 0.0, 0.0]
    for sign in (1.0, -1.0):
        tilted = BodyState(qpos=level.qpos.copy(), qvel=level.qvel, sites=level.sites)
        tilted.qpos[:, 3:7] = sign * quaternion.from_rotvec(np.array([[0.0, 0.4, 0.0]]))
        term = rewards.deepmimic_terms(transition(tilted, level))["root_orientation"]
        np.testing.assert_allclose(term, np.exp(-1.0), rtol=1e-9)


def test_key_points_are_blind_to_place_and_heading_of_the_root():
    state = random_state(4)
    elsewhere = turned(state, 1.3, np.array([2.0, -1.0, 0.4]))
    terms = rewards.deepmimic_terms(transition(elsewhere, state))
    for name in ("key_point", "end_effector", "joint"):
        np.testing.assert_allclose(terms[name], 1.0, atol=1e-12)
    assert (terms["root_position"] < 0.9).all() and (terms["root_orientation"] < 0.9).all()


def test_penalties_by_hand():
    state = random_state(3, count=1)
    state.qpos[:, 7:] = ROBOT.default_pose
    weights = DeepMimicWeights()
    jump = np.full((1, 19), 2.0)
    calm = rewards.deepmimic_reward(transition(state, state), weights)
    rough = rewards.deepmimic_reward(transition(state, state, action=jump), weights)
    np.testing.assert_allclose(calm - rough, 0.1 * 0.01 * 4.0, rtol=1e-9)
    strained = rewards.deepmimic_reward(transition(state, state, torque=np.full((1, 19), -0.5)), weights)
    np.testing.assert_allclose(calm - strained, 0.1 * 0.01 * 0.25, rtol=1e-9)
    beyond = BodyState(qpos=state.qpos.copy(), qvel=state.qvel, sites=state.sites)
    knee = 7 + ROBOT.joint_names.index("knee_angle_l")
    beyond.qpos[0, knee] = ROBOT.upper[knee - 7] + 0.3
    np.testing.assert_allclose(rewards.penalties(transition(beyond, state))["joint_limit"], 0.09, rtol=1e-9)
    # A reference that is itself beyond the limit allows as much, and no more.
    np.testing.assert_array_equal(rewards.penalties(transition(beyond, beyond))["joint_limit"], 0.0)
    further = BodyState(qpos=beyond.qpos.copy(), qvel=state.qvel, sites=state.sites)
    further.qpos[0, knee] += 0.1
    np.testing.assert_allclose(rewards.penalties(transition(further, beyond))["joint_limit"], 0.01, rtol=1e-9)


@pytest.mark.parametrize("yaw", [0.3, 2.0, -3.1])
def test_rewards_and_observations_do_not_depend_on_place_and_heading(yaw):
    state, reference = random_state(4), random_state(5)
    there, reference_there = (turned(s, yaw, np.array([3.0, -2.0, 0.0])) for s in (state, reference))
    action = np.zeros((5, 19))
    for function in (
        lambda s, r: rewards.deepmimic_reward(transition(s, r), DeepMimicWeights()),
        lambda s, r: observations.tracking_observation(
            s.qpos, s.qvel, action, np.stack([r.qpos, r.qpos], 1), np.stack([r.qvel, r.qvel], 1)
        ),
    ):
        np.testing.assert_allclose(function(there, reference_there), function(state, reference), atol=1e-9)


def test_observation_of_a_reference_that_is_met():
    state = random_state(6, count=2)
    goals = np.stack([state.qpos, state.qpos], 1), np.stack([state.qvel, state.qvel], 1)
    seen = observations.tracking_observation(state.qpos, state.qvel, np.ones((2, 19)), *goals)
    assert seen.shape == (2, 151)
    np.testing.assert_array_equal(seen[:, :19], state.qpos[:, 7:])
    np.testing.assert_array_equal(seen[:, 48:67], 1.0)
    for start in (67, 98):
        np.testing.assert_allclose(seen[:, start : start + 22], 0.0, atol=1e-12)  # joint and position error
        np.testing.assert_allclose(seen[:, start + 22 : start + 28], [[1, 0, 0, 0, 1, 0]] * 2, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(seen[:, 38:41], axis=1), 1.0)  # gravity is a unit vector


def test_torso_angular_velocity_equals_mujoco():
    state = random_state(7, count=3)
    model = ROBOT.model(control="none")
    data = mujoco.MjData(model)
    torso = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, ROBOT.torso_body)
    seen = observations.torso_angular_velocity(state.qpos, state.qvel, ROBOT.joint_names.index("back_bkz"))
    for row in range(3):
        data.qpos[:], data.qvel[:] = state.qpos[row], state.qvel[row]
        mujoco.mj_forward(model, data)
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, torso, velocity, 1)
        np.testing.assert_allclose(seen[row], velocity[:3], atol=1e-12)


def test_termination_at_each_limit():
    limits = terminations.TerminationLimits()
    errors = np.array([[0.25, 0.8, 0.5], [0.26, 0, 0], [0, 0.81, 0], [0, 0, 0.51], [np.nan, 0, 0]])
    np.testing.assert_array_equal(terminations.lost(*errors.T, limits), [False, True, True, True, True])


def test_divergence_is_seen():
    qpos, qvel = np.zeros((4, 26)), np.zeros((4, 25))
    qpos[1, 3], qvel[2, 0], qvel[3, 4] = np.nan, np.inf, 1e4
    np.testing.assert_array_equal(terminations.diverged(qpos, qvel), [False, True, True, True])
