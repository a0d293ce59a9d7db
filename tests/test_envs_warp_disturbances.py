"""Robots that differ, late motors and noisy sensors on MuJoCo Warp, against MuJoCo's models set by hand."""

from dataclasses import fields, replace

import mujoco
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from varied_robots import ROBOT, task_with

from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.derived_constants import DERIVED_FIELDS, DerivedConstants
from motionlex.envs.disturbances import Disturbances
from motionlex.envs.randomisation import Parameters, Randomisation, SensorNoise
from motionlex.envs.simulator import task_model
from motionlex.envs.task import TrackingTask
from motionlex.envs.terminations import TerminationLimits
from motionlex.envs.varied_model import VARIED_FIELDS

WarpTracking = pytest.importorskip("motionlex.envs.warp", reason="the extra [warp] is not installed").WarpTracking
EVERYTHING = replace(Randomisation.heavy(), push_interval_s=0.5)
BODIES = replace(EVERYTHING, delay=(0, 0), noise=SensorNoise(), push_speed=0.0)
FREE = TerminationLimits(height=9.0, orientation=9.0, key_point=9.0)


@pytest.fixture(scope="module")
def nominal():
    return benchmark_task(50.0)


def environment(nominal, ranges, worlds=6, seed=0, **changes):
    exact = task_with(nominal, ranges, **changes)
    task = TrackingTask(ROBOT, exact.library.to("cpu"), exact.config, exact.command.to("cpu"))
    return WarpTracking(task, worlds=worlds, generator=torch.Generator().manual_seed(seed))


def host(x):
    return x.double().numpy()


def drawn(env):
    """Parameters of all worlds in double precision."""
    return {item.name: getattr(env.disturbances.parameters, item.name).numpy().copy() for item in fields(Parameters)}


def model_by_hand(config, values, row):
    """MuJoCo's model with what was drawn for a world, written field by field."""
    model = task_model(ROBOT, config)
    value = {name: x[row].astype(np.float64) for name, x in values.items()}
    model.geom_friction[:, 0] *= value["friction"]
    for body in range(model.nbody):
        model.body_mass[body] *= value["mass"][body]
        model.body_inertia[body] *= value["mass"][body]
    model.body(ROBOT.torso_body).ipos += value["com"]
    for motor in range(model.nu):
        dof = model.jnt_dofadr[model.actuator_trnid[motor, 0]]
        model.dof_damping[dof] *= value["joint_damping"][motor]
        model.dof_armature[dof] *= value["armature"][motor]
        if config.control == "torque":
            model.actuator_gear[motor, 0] *= value["strength"][motor]
            continue
        model.actuator_gainprm[motor, 0] *= value["stiffness"][motor]
        model.actuator_biasprm[motor, 1] *= value["stiffness"][motor]
        model.actuator_biasprm[motor, 2] *= value["damping"][motor]
        model.actuator_forcerange[motor] *= value["strength"][motor]
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


class Reached:
    """Notes the states that every step reached, before finished worlds restart, and what the reward saw of motors."""

    def __init__(self, env):
        self.advance, self.reward = env.task.advance, env.task.reward
        self.states, self.torques = [], []
        env.task.advance, env.task.reward = self, self.see

    def __call__(self, episodes, qpos, qvel, action, ctrl, parameters=None):
        self.states.append((host(qpos), host(qvel), host(ctrl)))
        return self.advance(episodes, qpos, qvel, action, ctrl, parameters)

    def see(self, step):
        self.torques.append(host(step.torque))
        return self.reward(step)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_derived_constants_are_those_of_mujoco(nominal, precision):
    ranges = Randomisation(mass=(0.3, 3.0), com_offset=0.2, armature=(0.0, 2.0))
    uniform = torch.rand((8, ranges.draws(21, 19)), generator=torch.Generator().manual_seed(0), dtype=precision)
    values = ranges.sample(uniform, bodies=21, joints=19)
    given = {item.name: getattr(values, item.name).numpy() for item in fields(Parameters)}
    models = [model_by_hand(nominal.config, given, row) for row in range(8)]
    result = DerivedConstants(task_model(ROBOT, nominal.config), ROBOT, uniform)(values)
    assert set(result) == set(DERIVED_FIELDS)
    for name, value in result.items():
        wanted = np.stack([getattr(model, name) for model in models])
        # The inertia matrix has a condition number of some hundreds.
        np.testing.assert_allclose(host(value), wanted, rtol=1e-12 if precision == torch.float64 else 1e-5)


@pytest.mark.parametrize(("control", "steps"), [("pd", 40), ("torque", 20)])
def test_every_world_moves_like_mujoco_with_its_values(nominal, control, steps):
    """Float32 rounds velocities of 20 rad/s by 2e-6 in each of 160 steps; measured at the end: 1e-6 and 5e-5."""
    env = environment(nominal, BODIES, limits=FREE, control=control, iterations=20, ls_iterations=20)
    frames = torch.arange(6) * 60
    env.reset_to(frames)
    values, config = drawn(env), env.task.config
    models = [model_by_hand(config, values, row) for row in range(6)]
    states = [mujoco.MjData(model) for model in models]
    for row, data in enumerate(states):
        data.qpos[:], data.qvel[:] = nominal.library.qpos[60 * row], nominal.library.qvel[60 * row]
    reached, draw = Reached(env), torch.Generator().manual_seed(1)
    scale = 0.3 if control == "pd" else 0.1
    for _ in range(steps):
        _, _, done, _ = env.step(scale * torch.randn((6, 19), generator=draw))
        assert not done.any()
        for row, (model, data) in enumerate(zip(models, states, strict=True)):
            data.ctrl[:] = reached.states[-1][2][row]
            mujoco.mj_step(model, data, 4)
            np.testing.assert_allclose(reached.states[-1][0][row], data.qpos, atol=2e-5)
            np.testing.assert_allclose(reached.states[-1][1][row], data.qvel, atol=1e-3)
    if control == "pd":  # the penalty of the reward sees the servos that were drawn
        for row, (model, data) in enumerate(zip(models, states, strict=True)):
            mujoco.mj_forward(model, data)
            share = data.actuator_force / (ROBOT.torque_limit * values["strength"][row])
            np.testing.assert_allclose(reached.torques[-1][row], share, atol=2e-5)  # six digits in model files


@pytest.mark.parametrize("control", ["pd", "torque"])
def test_motors_follow_exactly_as_many_steps_later(nominal, control):
    delays = [0, 1, 2, 4, 5, 9]
    env = environment(nominal, Randomisation(delay=(0, 9)), control=control, iterations=20, ls_iterations=20)
    env.reset_to(torch.full((6,), 30))
    env.disturbances.parameters.delay.copy_(torch.tensor(delays))
    reached, sent, decide = Reached(env), [], env.task.control
    env.task.control = lambda *given: sent.append(decide(*given)) or sent[-1]
    rest = np.zeros(19) if control == "torque" else nominal.library.qpos[30, 7:]
    model = task_model(ROBOT, env.task.config)
    states = [mujoco.MjData(model) for _ in delays]
    for data in states:
        data.qpos[:], data.qvel[:] = nominal.library.qpos[30], nominal.library.qvel[30]
    draw = torch.Generator().manual_seed(1)
    for period in range(5):
        env.step(0.3 * torch.randn((6, 19), generator=draw))
        for row, (delay, data) in enumerate(zip(delays, states, strict=True)):
            for inner in range(4):
                age = 4 * period + inner - delay
                data.ctrl[:] = rest if age < 0 else host(sent[age // 4][row])
                np.testing.assert_allclose(host(env.physics.held[row, inner]), data.ctrl, rtol=1e-6)
                mujoco.mj_step(model, data)
            qpos, qvel, ctrl = (part[row] for part in reached.states[-1])
            np.testing.assert_array_equal(ctrl, host(env.physics.held[row, -1]))
            np.testing.assert_allclose(qpos, data.qpos, atol=2e-5)
            np.testing.assert_allclose(qvel, data.qvel, atol=1e-3)


@pytest.mark.parametrize("goal", ["reference", "latent"])
def test_sensors_err_as_much_as_asked_and_as_on_the_cpu(nominal, goal):
    noise = SensorNoise(joint=0.1, joint_velocity=0.5, gravity=0.2, angular_velocity=0.3)
    env = environment(nominal, Randomisation(noise=noise), 300, goal=goal)
    exact = env.task.observe(env.qpos, env.qvel, env.episodes)
    cpu = Disturbances(task_with(nominal, Randomisation(noise=noise), goal=goal), [env.physics.host_model])
    errors = []
    for _ in range(4):
        seen = env.get_observations()
        whole = seen["critic" if goal == "latent" else "policy"]
        again = env.get_observations()
        assert all(torch.equal(again[group], seen[group]) for group in seen.keys())  # to look is not to measure again
        wanted = cpu.measure(host(exact), host(env.disturbances.state()["noise"]))
        np.testing.assert_allclose(host(whole), wanted, atol=2e-5)  # turned columns are of order 1, in float32
        errors.append(host(whole - exact))
        env.disturbances.sense()
    error, first = np.stack(errors), 65 if goal == "latent" else 0
    for size, deviation in ((19, 0.1), (19, 0.05), (3, 0.2), (3, 0.3)):  # velocities are shown in tens of rad/s
        part = error[..., first : first + size]
        assert np.std(part) == pytest.approx(deviation, rel=5 / np.sqrt(2 * part.size))  # five standard errors
        assert abs(np.mean(part)) < 5 * deviation / np.sqrt(part.size)
        assert abs(np.mean(part[1:] * part[:-1])) < 5 * deviation**2 / np.sqrt(part.size)  # white
        first += size
    if goal == "latent":
        assert not error[..., first:].any() and not error[..., :65].any()  # the critic sees no error, codes have none
        return
    shown = host(whole[:, :19] + whole[:, 67:86])  # measured angles, and what is missing to the command
    np.testing.assert_allclose(shown, nominal.library.qpos[env.episodes.frame + 1, 7:], atol=2e-6)
    columns = host(whole[:, 89:95]).reshape(-1, 2, 3)
    matrix = np.stack((columns[:, 0], columns[:, 1], np.cross(columns[:, 0], columns[:, 1])), axis=-1)
    goals = Rotation.from_quat(nominal.library.qpos[env.episodes.frame + 1, 3:7], scalar_first=True)
    base = goals * Rotation.from_matrix(matrix).inv()  # the base that sees the command so
    measured = host(whole[:, 38:41])
    measured /= np.linalg.norm(measured, axis=1, keepdims=True)
    np.testing.assert_allclose(base.inv().apply([0.0, 0.0, -1.0]), measured, atol=1e-5)


def test_only_worlds_that_restart_draw_anew(nominal):
    env = environment(nominal, EVERYTHING, episode_s=0.4, limits=FREE)
    env.reset_to(torch.arange(6) * 50)
    env.episodes.start -= torch.tensor([0, 18, 0, 18, 0, 0])  # two are close to their end
    env.step(torch.ones((6, 19)))
    before = {name: x.clone() for name, x in (env.disturbances.state() | env.physics.fields).items()}
    assert not env.episode_length_buf.eq(0).any()
    _, _, done, _ = env.step(torch.ones((6, 19)))
    np.testing.assert_array_equal(done, [False, True, False, True, False, False])
    after = env.disturbances.state() | env.physics.fields
    for name, value in after.items():
        same = (value == before[name]).reshape(6, -1).all(dim=1)
        if name not in ("line", "noise", "drawn_delay", "actuator_gear"):  # gears are what torque motors vary
            np.testing.assert_array_equal(same, ~done, err_msg=name)
    pose = env.qpos[done][:, None, 7:].expand(-1, 8, -1)
    assert torch.equal(after["line"][done], pose)  # until the first command arrives
    assert not (after["noise"] == before["noise"]).any()
    mass = task_model(ROBOT, env.task.config).body_mass
    np.testing.assert_allclose(host(after["body_mass"]), host(after["drawn_mass"]) * mass, rtol=1e-6)
    assert len(after["drawn_friction"].unique()) == 6


def test_draws_fill_their_ranges(nominal):
    env = environment(nominal, EVERYTHING, 200)
    ranges = {"friction": (0.3, 1.6), "mass": (0.7, 1.3), "com": (-0.05, 0.05), "stiffness": (0.75, 1.25),
              "damping": (0.75, 1.25), "strength": (0.8, 1.2), "joint_damping": (0.5, 1.5),
              "armature": (0.8, 1.2)}  # fmt: skip
    values = drawn(env)
    for name, (low, high) in ranges.items():
        value, width = values[name], high - low
        assert low <= value.min() < low + 0.1 * width and high - 0.1 * width < value.max() <= high
        assert value.mean() == pytest.approx((low + high) / 2, abs=5 * width / np.sqrt(12 * len(value)))
    np.testing.assert_allclose(np.bincount(values["delay"]) / 200, 0.2, atol=0.12)  # four standard errors
    floor = env.physics.fields["geom_friction"]
    np.testing.assert_allclose(floor[:, 0, 0], values["friction"], rtol=1e-6)  # nominally 1


def test_a_restored_environment_has_the_same_future(nominal):
    whole, broken = (environment(nominal, EVERYTHING, seed=seed, goal="latent", episode_s=0.2) for seed in (0, 5))
    draw = torch.Generator().manual_seed(2)
    actions = [0.5 * torch.randn((6, 19), generator=draw) for _ in range(26)]
    for action in actions[:13]:
        with torch.inference_mode():  # as rsl_rl steps
            whole.step(action)
    saved, ends = whole.snapshot(), 0
    for resumed in (broken, whole):  # another object, as after a new start of the program, then the same one
        resumed.restore(saved)
    for name, value in whole.physics.fields.items():
        assert torch.equal(broken.physics.fields[name], value), name
    for action in actions[13:]:
        (seen, *rest), (wanted, *others) = broken.step(action)[:3], whole.step(action)[:3]
        assert all(torch.equal(seen[group], wanted[group]) for group in wanted.keys())
        assert all(torch.equal(one, other) for one, other in zip(rest, others, strict=True))
        ends += int(rest[1].sum())
    assert ends > 0


def test_what_is_off_holds_no_memory_draws_nothing_and_changes_no_bit(nominal):
    plain = environment(nominal, Randomisation.preset("none"))
    late = environment(nominal, Randomisation(delay=(0, 4)))  # the only part that can be on and without effect
    assert plain.disturbances.parameters is None and plain.disturbances.state() == {}
    assert plain.physics.fields == {} and plain.physics.held.numel() == 0
    assert all(getattr(plain.physics.model, name).shape[0] == 1 for name in (*VARIED_FIELDS, *DERIVED_FIELDS))
    assert late.physics.fields == {} and set(late.disturbances.state()) > {"line", "drawn_delay"}
    frames = torch.arange(6) * 50
    for env in (plain, late):
        env.reset_to(frames)
    late.disturbances.parameters.delay.zero_()
    generator, draw = plain.generator.clone_state(), torch.Generator().manual_seed(3)
    for _ in range(8):
        action = 0.3 * torch.randn((6, 19), generator=draw)
        seen, reward, done, _ = plain.step(action)
        other, same, _, _ = late.step(action)
        assert not done.any() and torch.equal(seen["policy"], other["policy"]) and torch.equal(reward, same)
        # What a step draws: starts and variants of the next episodes, and their noise.
        torch.rand((2, 6), generator=generator, dtype=torch.float64)
        torch.randint(1, (6,), generator=generator)
        torch.randn((6, plain.task.start_draws), generator=generator)
    assert torch.equal(generator.get_state(), plain.generator.get_state())


def test_what_is_not_varied_keeps_its_bits(nominal):
    env = environment(nominal, Randomisation(friction=(0.3, 1.6)))
    for name in VARIED_FIELDS:
        given = torch.as_tensor(getattr(env.physics.host_model, name), dtype=torch.float32)
        same = torch.equal(env.physics.fields[name], given.expand_as(env.physics.fields[name]))
        assert same == (name != "geom_friction"), name
