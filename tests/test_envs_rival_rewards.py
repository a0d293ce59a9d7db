"""Rewards of other projects against closed forms; parity with LocoMuJoCo's own code is in test_loco_parity.py."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.beyond_mimic import beyond_mimic_reward, beyond_mimic_terms
from motionlex.envs.episodes import Episodes
from motionlex.envs.kinematics import SiteKinematics, SiteStates
from motionlex.envs.mimic_reward import Effort, LocoMujocoWeights, loco_mujoco_reward
from motionlex.envs.rewards import BodyState, Transition
from motionlex.envs.task import TrackingTask

ROBOT = get_robot("h1")
KINEMATICS = SiteKinematics(ROBOT)
ANCHOR = ROBOT.sites.index(ROBOT.anchor_site)
ALL = tuple(i for i in range(15) if i != ANCHOR)
BODIES = tuple(i for i in ALL if i != ROBOT.sites.index(ROBOT.head_site))
KERNELS = (
    *("anchor_position", "anchor_orientation", "body_position", "body_orientation"),
    *("body_velocity", "body_angular_velocity"),
)


def random_state(seed, count=6):
    draw = np.random.default_rng(seed)
    qpos = np.concatenate(
        (draw.normal(0, 2, (count, 3)), draw.normal(size=(count, 4)), draw.uniform(-2, 2, (count, 19))), axis=1
    )
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    return at(qpos, draw.normal(size=(count, 25)))


def standing(count=1, seed=None):
    """Upright robots in the default pose; with a seed, anywhere and in other poses inside their limits."""
    qpos = np.tile(np.concatenate(([0, 0, 1, 1, 0, 0, 0], ROBOT.default_pose)), (count, 1))
    if seed is not None:
        draw = np.random.default_rng(seed)
        qpos[:, :2] += draw.normal(size=(count, 2))
        qpos[:, 7:] += draw.uniform(-0.05, 0.05, (count, 19))
    return at(qpos, np.zeros((count, 25)))


def at(qpos, qvel):
    motion = KINEMATICS.states(qpos, qvel)
    return BodyState(qpos=qpos, qvel=qvel, sites=motion.position, motion=motion)


def transition(state, reference, action=None, last_action=None):
    still = np.zeros((len(state.qpos), 19))
    return Transition(
        state=state,
        reference=reference,
        action=still if action is None else action,
        last_action=still if last_action is None else last_action,
        torque=still,
        lower=ROBOT.lower,
        upper=ROBOT.upper,
        end_effectors=(3, 6, 11, 14),
    )


def as_tensors(step):
    """The same transition made of torch tensors."""

    def state(s):
        motion = SiteStates(**{f.name: torch.tensor(getattr(s.motion, f.name)) for f in fields(SiteStates)})
        return BodyState(
            qpos=torch.tensor(s.qpos), qvel=torch.tensor(s.qvel), sites=torch.tensor(s.sites), motion=motion
        )

    arrays = {name: torch.tensor(getattr(step, name)) for name in ("action", "last_action", "torque", "lower", "upper")}
    return replace(step, state=state(step.state), reference=state(step.reference), **arrays)


def moved(state, rotation=None, shift=(0, 0, 0), about=None):
    """Turn rigid robots about a point (by default each one's torso site), then move them; velocities stay zero."""
    rotation = rotation or Rotation.identity()
    qpos = state.qpos.copy()
    centre = state.motion.position[:, ANCHOR] if about is None else np.asarray(about)
    qpos[:, :3] = rotation.apply(qpos[:, :3] - centre) + centre + np.asarray(shift)
    x, y, z, w = rotation.as_quat()
    qpos[:, 3:7] = quaternion.multiply(np.tile([w, x, y, z], (len(qpos), 1)), qpos[:, 3:7])
    return at(qpos, state.qvel)


def with_motion(state, **changes):
    """Replace parts of the key points' motion, as if bodies were free."""
    motion = replace(state.motion, **changes)
    return replace(state, motion=motion, sites=motion.position)


def beyond(state, reference, **actions):
    return beyond_mimic_terms(transition(state, reference, **actions), anchor=ANCHOR, sites=BODIES)


def expect(terms, **values):
    """Kernels that are not named must be 1, penalties 0."""
    for name, value in terms.items():
        default = 1.0 if name in KERNELS else 0.0
        np.testing.assert_allclose(value, values.get(name, default), rtol=1e-9, atol=1e-12, err_msg=name)


def test_quaternions_of_matrices_equal_scipy():
    vectors = np.concatenate(
        (Rotation.random(500, random_state=0).as_rotvec(), 3.1415926 * np.eye(3), np.zeros((1, 3)))
    )
    matrices = Rotation.from_rotvec(vectors).as_matrix()
    for kind in (np.asarray, torch.tensor):
        found = quaternion.to_rotvec(quaternion.from_matrix(kind(matrices)))
        np.testing.assert_allclose(np.asarray(found), vectors, atol=1e-12)


def test_replaying_a_reference_scores_exactly_the_maximum():
    """Also where the reference leaves the limits, as these random poses do."""
    step = transition(random_state(0), random_state(0))
    assert (np.abs(step.state.qpos[:, 7:]) > ROBOT.upper).any()
    np.testing.assert_array_equal(beyond_mimic_reward(step, anchor=ANCHOR, sites=BODIES), 5.0)
    np.testing.assert_array_equal(loco_mujoco_reward(step, anchor=ANCHOR, sites=ALL), 0.8)
    deepmimic = loco_mujoco_reward(step, anchor=ANCHOR, sites=ALL, weights=LocoMujocoWeights.deepmimic())
    np.testing.assert_allclose(deepmimic, 0.4 + 0.2 + 0.5 + 0.3 + 2 * 0.1, rtol=1e-12)


def test_numpy_and_torch_agree():
    draw = np.random.default_rng(1)
    step = transition(random_state(1), random_state(2), draw.normal(size=(6, 19)), draw.normal(size=(6, 19)))
    near = at(step.state.qpos + 0.05 * draw.normal(size=(6, 26)), step.state.qvel)
    effort = {"joint_velocity_before": draw.normal(size=(6, 19)), "joint_torque": draw.normal(size=(6, 19))}
    weights = replace(
        LocoMujocoWeights.deepmimic(),
        joint_acceleration=0.1,
        joint_torque=0.1,
        action_rate=0.1,
        action_out_of_bounds=0.1,
    )
    for case in (step, replace(step, reference=near)):
        tensors = as_tensors(case)
        ours = beyond_mimic_terms(case, anchor=ANCHOR, sites=BODIES)
        for name, value in beyond_mimic_terms(tensors, anchor=ANCHOR, sites=BODIES).items():
            assert isinstance(value, torch.Tensor)
            np.testing.assert_allclose(value.numpy(), ours[name], atol=1e-12, err_msg=name)
        for kind, what in ((np.asarray, case), (torch.tensor, tensors)):
            full = Effort(action_bound=1.0, control_period=0.02, **{k: kind(v) for k, v in effort.items()})
            value = loco_mujoco_reward(what, anchor=ANCHOR, sites=ALL, weights=weights, effort=full)
            assert type(value) is type(what.action)
            if kind is np.asarray:
                expected = value
        np.testing.assert_allclose(value.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shift", [(0.2, 0.0, 0.0), (-0.1, 0.25, 0.0)])
def test_beyond_mimic_a_displacement_costs_the_anchor_alone(shift):
    state = standing(3, seed=0)
    expect(beyond(moved(state, shift=shift), state), anchor_position=np.exp(-np.dot(shift, shift) / 0.09))


def test_beyond_mimic_height_is_the_references():
    state = standing(2, seed=1)
    cost = np.exp(-0.04 / 0.09)
    expect(beyond(moved(state, shift=(0.5, 0, 0.2)), state), anchor_position=np.exp(-0.29 / 0.09), body_position=cost)


@pytest.mark.parametrize("angle", [0.3, -2.5])
def test_beyond_mimic_heading_costs_the_anchor_alone(angle):
    state = standing(3, seed=2)
    turned = moved(state, Rotation.from_rotvec([0, 0, angle]))
    expect(beyond(turned, state), anchor_orientation=np.exp(-(angle**2) / 0.16))


def test_beyond_mimic_heading_is_that_of_the_relative_rotation():
    """Both lean, the robot is turned further: by the yaw of the whole turn, not by a difference of two yaws."""
    lean = Rotation.from_rotvec([0.4, 0.7, 0.2])
    state = moved(standing(1, seed=3), lean)
    turned = moved(state, Rotation.from_rotvec([0, 0, 1.1]))
    expect(beyond(turned, state), anchor_orientation=np.exp(-(1.1**2) / 0.16))


def test_beyond_mimic_tilt_costs_every_body():
    state = standing(2, seed=4)
    tilted = moved(state, Rotation.from_rotvec([0.25, 0, 0]))
    terms = beyond(tilted, state)
    cost = np.exp(-0.0625 / 0.16)
    np.testing.assert_allclose(terms["anchor_orientation"], cost, rtol=1e-9)
    np.testing.assert_allclose(terms["body_orientation"], cost, rtol=1e-9)
    # A turn about x by a moves a point by 2 sin(a / 2) times its distance from that axis.
    arms = (state.motion.position - state.motion.position[:, [ANCHOR]])[:, [ANCHOR, *BODIES]]
    squared = 4 * np.sin(0.125) ** 2 * (arms[:, :, 1] ** 2 + arms[:, :, 2] ** 2)
    np.testing.assert_allclose(terms["body_position"], np.exp(-squared.mean(axis=1) / 0.09), rtol=1e-9)


def test_beyond_mimic_bodies_are_averaged_over_fourteen():
    state = standing(1)
    hand = ROBOT.sites.index("left_hand_mimic")
    position, rotation = state.motion.position.copy(), state.motion.rotation.copy()
    position[0, hand] += [0.12, 0.0, -0.16]  # 0.2 m
    rotation[0, hand] = Rotation.from_rotvec([0, 0.5, 0]).as_matrix() @ rotation[0, hand]
    position[0, ROBOT.sites.index("head_mimic")] += 1.0  # the head does not count
    expect(
        beyond(with_motion(state, position=position, rotation=rotation), state),
        body_position=np.exp(-0.04 / 14 / 0.09),
        body_orientation=np.exp(-0.25 / 14 / 0.16),
    )
    linear, angular = state.motion.linear + np.array([0.3, 0.4, 0]), state.motion.angular + np.array([0, 0, 3.14])
    expect(
        beyond(with_motion(state, linear=linear, angular=angular), state),
        body_velocity=np.exp(-0.25),
        body_angular_velocity=np.exp(-1.0),
    )


def test_beyond_mimic_penalties():
    state = standing(1)
    terms = beyond(state, state, action=np.full((1, 19), 0.5), last_action=np.full((1, 19), -0.5))
    np.testing.assert_allclose(terms["action_rate"], 19.0)
    knee, elbow = (7 + ROBOT.joint_names.index(name) for name in ("knee_angle_l", "left_elbow"))
    beyond_limits = state.qpos.copy()
    # Soft limits are nine tenths of the range about its middle: knee (-0.26, 2.05), elbow (-1.25, 2.61).
    beyond_limits[0, knee] = 0.895 + 0.9 * 1.155 + 0.2
    beyond_limits[0, elbow] = 0.68 - 0.9 * 1.93 - 0.1
    bent = at(beyond_limits, state.qvel)
    np.testing.assert_allclose(beyond(bent, state)["joint_limit"], 0.3, atol=1e-12)
    np.testing.assert_array_equal(beyond(bent, bent)["joint_limit"], 0.0)
    total = beyond_mimic_reward(transition(bent, bent, action=np.full((1, 19), 1.0)), anchor=ANCHOR, sites=BODIES)
    np.testing.assert_allclose(total, 5.0 - 0.1 * 19.0)


def loco(state, reference, effort=None, actions=(None, None), **weights):
    off = {"site_position": 0.0, "site_rotation": 0.0}
    step = transition(state, reference, *actions)
    chosen = LocoMujocoWeights(**{**off, **weights})
    return loco_mujoco_reward(step, anchor=ANCHOR, sites=ALL, weights=chosen, effort=effort)


def test_loco_mujoco_states_by_hand():
    state = standing(1)
    lifted = moved(state, shift=(0, 0, 0.3))
    np.testing.assert_allclose(loco(lifted, state, qpos=1.0), np.exp(-10 * 0.09 / 22))
    np.testing.assert_allclose(loco(lifted, state, site_position=0.5, site_rotation=0.3), 0.8)
    # The root's angle enters as it is, not squared; both signs of a quaternion are one rotation.
    turned = moved(state, Rotation.from_rotvec([0, 0.05, 0]), about=[[0, 0, 1]])
    for sign in (1.0, -1.0):
        qpos = turned.qpos * np.where((np.arange(26) >= 3) & (np.arange(26) < 7), sign, 1.0)
        np.testing.assert_allclose(loco(at(qpos, state.qvel), state, qpos=1.0), np.exp(-0.5), rtol=1e-7)
    fast = at(state.qpos, np.where(np.arange(25) == 0, 2.5, 0.0)[None])
    np.testing.assert_allclose(loco(fast, state, qvel=1.0), np.exp(-2 * 6.25 / 25))


def test_loco_mujoco_positions_depend_on_heading_and_rotations_do_not():
    state = standing(1, seed=5)
    turned = moved(state, Rotation.from_rotvec([0, 0, np.pi]))
    arms = (state.motion.position - state.motion.position[:, [ANCHOR]])[:, list(ALL)]
    squared = (4 * (arms[:, :, :2] ** 2).sum(axis=2)).mean() / 3  # half a turn doubles the horizontal part
    np.testing.assert_allclose(loco(turned, state, site_position=1.0), np.exp(-100 * squared))
    np.testing.assert_allclose(loco(turned, state, site_rotation=1.0), 1.0)
    hand = ROBOT.sites.index("left_hand_mimic")
    rotation = np.tile(np.eye(3), (1, 15, 1, 1))
    bent = rotation.copy()
    bent[0, hand] = Rotation.from_rotvec([0, 0, 0.9]).as_matrix()
    reference = with_motion(state, rotation=rotation)
    found = loco(with_motion(state, rotation=bent), reference, site_rotation=1.0)
    np.testing.assert_allclose(found, np.exp(-10 * 0.81 / 14 / 3))


def test_loco_mujoco_relative_velocities_turn_the_wrong_way():
    state = standing(1)
    eye = np.tile(np.eye(3), (1, 15, 1, 1))
    rotation, linear, angular = eye.copy(), np.zeros((1, 15, 3)), np.zeros((1, 15, 3))
    rotation[0, ANCHOR] = Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix()
    linear[0, ANCHOR] = [1.0, 0.0, 0.0]
    angular[0, list(ALL)] = [1.0, 0.0, 0.0]
    turned = with_motion(state, rotation=rotation, linear=linear, angular=angular)
    upright = with_motion(state, rotation=eye, linear=linear, angular=angular)
    # (1, 0, 0) becomes (0, 1, 0), not the (0, -1, 0) of the torso's own frame.
    np.testing.assert_allclose(loco(turned, upright, site_velocity=1.0), 2 * np.exp(-0.1 * 2 / 3))
    away = with_motion(state, rotation=eye, linear=np.roll(linear, 1, axis=2), angular=np.roll(angular, 1, axis=2))
    np.testing.assert_allclose(loco(turned, away, site_velocity=1.0), 2.0)


def test_loco_mujoco_penalties_by_hand():
    state = at(standing(1).qpos, np.full((1, 25), 0.5))
    actions = np.full((1, 19), 1.5), np.full((1, 19), 1.3)
    effort = Effort(
        action_bound=1.0,
        control_period=0.01,
        joint_velocity_before=np.full((1, 19), 0.4),
        joint_torque=np.full((1, 19), -2.0),
    )

    def cost(**weights):
        quiet = {"site_position": 1.0, "action_out_of_bounds": 0.0, **weights}
        return 1.0 - loco(state, state, effort, actions, **quiet)[0]

    assert cost() == 0.0
    assert cost(action_out_of_bounds=0.1) == pytest.approx(0.1 * 0.25)
    assert cost(joint_acceleration=0.05) == pytest.approx(0.05**2 * 19 * 0.1**2 / 0.01)
    assert cost(joint_torque=0.05) == pytest.approx(0.05**2 * 19 * 4.0)
    assert cost(action_rate=0.05) == pytest.approx(0.05**2 * 19 * 0.2**2)
    both = {"site_position": 0.8, "qpos": 0.8, "joint_torque": 9.0}
    assert loco(state, state, effort, actions, **both) == pytest.approx(0.6)  # all penalties together take 1 at most
    assert loco(state, state, effort, actions, site_position=0.5, joint_torque=9.0) == 0.0


def test_loco_mujoco_edges():
    state = standing(2)
    broken = at(np.where(np.arange(26) == 9, np.nan, state.qpos), state.qvel)
    np.testing.assert_array_equal(loco(broken, state, site_position=1.0, qpos=1.0), 0.0)
    with pytest.raises(ValueError, match="effort"):
        loco(state, state, joint_torque=0.1)
    with pytest.raises(UserError, match="joint_torque must be at least 0"):
        LocoMujocoWeights(joint_torque=-0.1)


@pytest.mark.parametrize(("name", "most"), [("beyond_mimic", 5.0), ("loco_mujoco", 0.8)])
def test_the_task_hands_out_the_rewards_for_both_kinds_of_arrays(name, most):
    base = benchmark_task(50.0)
    frames, off = np.array([10, 200]), np.array([[0.0], [0.05]])
    found = []
    for library in (base.library, base.library.to("cpu", torch.float64)):
        task = TrackingTask(ROBOT, library, replace(base.config, reward=name))
        kind = np.asarray if library is base.library else torch.tensor
        still = kind(np.zeros((2, 19)))
        zero = kind(np.zeros(2, dtype=np.int64))
        place = kind(np.zeros((2, 3)))
        episodes = Episodes(frame=kind(frames.copy()), start=kind(frames), variant=zero, last_action=still, place=place)
        qpos, qvel = base.library.qpos[frames + 1], base.library.qvel[frames + 1]
        qpos[:, 7:] += off
        result = task.advance(episodes, kind(qpos), kind(qvel), still, kind(qpos[:, 7:]))
        found.append(np.asarray(result.reward))
    assert found[0][0] == pytest.approx(0.1 * most, abs=1e-12) and found[0][1] < 0.1 * most - 1e-3
    np.testing.assert_allclose(found[1], found[0], atol=1e-12)
