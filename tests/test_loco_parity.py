"""LocoMuJoCo's own code as the truth: its MimicReward, its environment, its reading of our files (`make test-loco`)."""

import os
from dataclasses import fields, replace
from functools import partial

import mujoco
import numpy as np
import pytest
import torch

from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs import loco
from motionlex.envs.benchmark import benchmark_clip, benchmark_task
from motionlex.envs.kinematics import SiteKinematics
from motionlex.envs.mimic_reward import Effort, LocoMujocoWeights, loco_mujoco_reward
from motionlex.envs.rewards import BodyState, Transition
from motionlex.envs.rival_processes import LocoStepper, ProcessContestant
from motionlex.envs.simulator import Simulator
from motionlex.envs.task_config import TaskConfig

ROBOT = get_robot("h1")
KINEMATICS = SiteKinematics(ROBOT)
DEEPMIMIC_SITES = ("upper_body_mimic", "left_hand_mimic", "left_foot_mimic", "right_hand_mimic", "right_foot_mimic")
THEIRS = {
    "qpos": "qpos_w_sum",
    "qvel": "qvel_w_sum",
    "site_position": "rpos_w_sum",
    "site_rotation": "rquat_w_sum",
    "site_velocity": "rvel_w_sum",
    "qpos_exponent": "qpos_w_exp",
    "qvel_exponent": "qvel_w_exp",
    "site_position_exponent": "rpos_w_exp",
    "site_rotation_exponent": "rquat_w_exp",
    "site_velocity_exponent": "rvel_w_exp",
    "action_out_of_bounds": "action_out_of_bounds_coeff",
    "joint_acceleration": "joint_acc_coeff",
    "joint_torque": "joint_torque_coeff",
    "action_rate": "action_rate_coeff",
}


if not loco.installed():
    pytest.skip("loco-mujoco is not installed (see `make test-loco`)", allow_module_level=True)


def make(weights=None, sites=None, **options):
    physics = loco.LocoPhysics.of_task(ROBOT, TaskConfig())
    parameters = {THEIRS[name]: value for name, value in vars(weights or LocoMujocoWeights()).items()}
    return loco.LocoMimic(
        benchmark_clip(50.0), physics, reward=parameters | ({"sites_for_mimic": sites} if sites else {}), **options
    )


def random_states(seed, count):
    draw = np.random.default_rng(seed)
    qpos = np.concatenate(
        (draw.normal(0, 1, (count, 3)), draw.normal(size=(count, 4)), draw.uniform(-2, 2, (count, 19))), axis=1
    )
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    return qpos, draw.normal(0, 2, (count, 25))


def near(states, seed):
    """States about as far away as those of a policy that still learns: every kernel is well above zero."""
    draw = np.random.default_rng(seed)
    qpos = states[0] + draw.normal(0, 0.1, states[0].shape)
    qpos[:, 3:7] *= draw.choice([-1.0, 1.0], (len(qpos), 1)) / np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    return qpos, states[1] + draw.normal(0, 0.7, states[1].shape)


def follow(env, reference):
    """Let the environment's trajectory be these states, as MuJoCo sees them, in float64."""
    model, data = env.loco.model, mujoco.MjData(env.loco.model)
    names = ("qpos", "qvel", "xpos", "xquat", "cvel", "subtree_com", "site_xpos", "site_xmat")
    rows = {name: [] for name in names}
    for data.qpos[:], data.qvel[:] in zip(*reference):
        mujoco.mj_forward(model, data)
        for name in names:
            rows[name].append(np.array(getattr(data, name)))
    handler = env.loco.th
    stacked = {name: np.stack(values) for name, values in rows.items()}
    splits = np.array([0, len(reference[0])])
    handler.traj = replace(handler.traj, data=handler.traj.data.replace(**stacked, split_points=splits))


def their_rewards(env, states, reference, actions, last_actions, last_qvel):
    """Ask its MimicReward for every row; returns rewards and the motor torques that it saw."""
    follow(env, reference)
    theirs, model, data = env.loco, env.loco.model, env.loco.data
    rewards, torques = [], []
    for row in range(len(actions)):
        env.reset(seed=0, options={"frame": row})
        data.qpos[:], data.qvel[:] = states[0][row], states[1][row]
        data.ctrl[:] = np.clip(actions[row], -1.0, 1.0) * ROBOT.torque_limit
        mujoco.mj_forward(model, data)
        state = theirs._additional_carry.reward_state.replace(last_qvel=last_qvel[row], last_action=last_actions[row])
        carry = theirs._additional_carry.replace(reward_state=state)
        assert carry.traj_state.subtraj_step_no == row
        value, _ = theirs._reward_function(None, actions[row], None, False, {}, theirs, model, data, carry, np)
        rewards.append(float(value))
        torques.append(data.qfrc_actuator[6:].copy())
    return np.array(rewards), np.stack(torques)


def our_rewards(states, reference, actions, last_actions, last_qvel, torques, weights, sites, kind):
    def state(qpos, qvel):
        motion = KINEMATICS.states(kind(qpos), kind(qvel))
        return BodyState(qpos=kind(qpos), qvel=kind(qvel), sites=motion.position, motion=motion)

    step = Transition(
        state=state(*states),
        reference=state(*reference),
        action=kind(actions),
        last_action=kind(last_actions),
        torque=kind(np.zeros((len(actions), 19))),
        lower=kind(ROBOT.lower),
        upper=kind(ROBOT.upper),
        end_effectors=(3, 6, 11, 14),
    )
    effort = Effort(
        action_bound=1.0,
        control_period=0.02,
        joint_velocity_before=kind(last_qvel[:, 6:]),
        joint_torque=kind(torques),
    )
    anchor = ROBOT.sites.index("upper_body_mimic")
    others = tuple(ROBOT.sites.index(name) for name in sites or ROBOT.sites if name != "upper_body_mimic")
    return loco_mujoco_reward(step, anchor=anchor, sites=others, weights=weights, effort=effort)


@pytest.mark.parametrize(
    ("weights", "sites"),
    [
        (LocoMujocoWeights(), None),
        (LocoMujocoWeights.deepmimic(), DEEPMIMIC_SITES),
        # Every term counts and none is drowned: softer exponents, penalties of the size of the kernels.
        (
            LocoMujocoWeights(
                qpos=0.7,
                qvel=0.6,
                site_position=0.5,
                site_rotation=0.4,
                site_velocity=0.3,
                qpos_exponent=0.5,
                qvel_exponent=0.4,
                site_position_exponent=2.0,
                site_rotation_exponent=0.6,
                site_velocity_exponent=0.05,
                action_out_of_bounds=0.2,
                joint_acceleration=0.005,
                joint_torque=0.0005,
                action_rate=0.1,
            ),
            None,
        ),
    ],
    ids=["default", "deepmimic", "all"],
)
def test_the_reward_is_its_mimic_reward(weights, sites):
    env = make(weights, list(sites) if sites else None)
    draw = np.random.default_rng(7)
    reference = random_states(1, 40)
    for states, some in ((near(reference, 2), True), (random_states(3, 40), False), (reference, True)):
        actions, last_actions = draw.normal(0, 1, (2, 40, 19))
        last_qvel = states[1] + draw.normal(0, 0.3, (40, 25))
        theirs, torques = their_rewards(env, states, reference, actions, last_actions, last_qvel)
        assert not some or np.mean(theirs > 0.01) > 0.5
        for kind in (np.asarray, torch.tensor):
            ours = our_rewards(states, reference, actions, last_actions, last_qvel, torques, weights, sites, kind)
            np.testing.assert_allclose(np.asarray(ours), theirs, atol=1e-6, rtol=0)
    env.close()


def test_equal_physics_are_our_physics():
    env = make()
    config = TaskConfig(control="torque")
    ours = Simulator(ROBOT, config)
    task = benchmark_task(50.0)
    env.reset(seed=0, options={"frame": 30})
    # It reads positions and velocities as we wrote them; what follows from equal states and torques is equal.
    np.testing.assert_allclose(env.loco.data.qpos, task.library.qpos[30], atol=1e-12)
    ours.reset(env.loco.data.qpos.copy(), env.loco.data.qvel.copy())
    draw = np.random.default_rng(0)
    for _ in range(10):
        action = draw.uniform(-0.3, 0.3, 19)
        env.step(action)
        ours.step(action * ROBOT.torque_limit)
        np.testing.assert_array_equal(env.loco.data.qpos, ours.qpos)


def test_its_environment_runs_behind_gymnasium():
    env = make(goal="GoalTrajMimic")
    seen, _ = env.reset(seed=3)
    again, _ = make(goal="GoalTrajMimic").reset(seed=3)
    np.testing.assert_array_equal(seen, again)
    assert env.observation_space.shape == seen.shape == (434,) and env.action_space.shape == (19,)
    ends = 0
    for _ in range(100):
        seen, reward, terminated, truncated, _ = env.step(np.zeros(19))
        assert seen.shape == (434,) and 0.0 <= reward <= 0.8
        if terminated or truncated:
            env.reset()
            ends += 1
    assert ends  # without torques the robot falls
    assert mujoco.get_mju_user_warning() is None  # its handler, which raises, is not left behind


@pytest.mark.skipif(not os.environ.get(loco.MODEL_VARIABLE), reason=f"{loco.MODEL_VARIABLE} is not set")
def test_its_own_physics_are_its_defaults():
    physics = loco.LocoPhysics.own()
    env = loco.LocoMimic(benchmark_clip(physics.hz), physics)
    model = env.loco.model
    assert (model.opt.timestep, physics.hz, model.nmesh) == (0.001, pytest.approx(100.0), 21)
    seen, _ = env.reset(seed=0)
    assert seen.shape == (49,)
    env.step(np.zeros(19))
    assert env.loco.data.time == pytest.approx(0.01)


def test_its_processes_take_turns():
    physics = loco.LocoPhysics.of_task(ROBOT, TaskConfig())
    contestant = ProcessContestant("loco", partial(LocoStepper, benchmark_clip(50.0), physics), 2)
    contestant.turn(0.1)
    assert contestant.seconds >= 0.1 and contestant.steps >= 2
    contestant._processes[0].kill()
    with pytest.raises(UserError, match="one of 2 processes of loco ended early"):
        contestant.turn(0.1)
    contestant.close()
    with pytest.raises(UserError, match="Error opening file"):
        ProcessContestant("loco", partial(LocoStepper, benchmark_clip(50.0), replace(physics, model="nowhere.xml")), 1)


def test_every_weight_has_its_name():
    assert set(THEIRS) == {field.name for field in fields(LocoMujocoWeights)}
