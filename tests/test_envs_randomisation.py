"""Robots that differ, late motors, noisy sensors and kicks, against closed forms and models built by hand."""

from dataclasses import dataclass, fields, replace

import mujoco
import numpy as np
import pytest
from varied_robots import ROBOT, batch, task_with

from motionlex.controllers.low_level_config import resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.data.errors import UserError
from motionlex.data.robots.robot import Joint, Robot
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.disturbances import Disturbances, ModelWriter
from motionlex.envs.randomisation import Parameters, Randomisation
from motionlex.envs.simulator import Simulator, task_model
from motionlex.envs.task_config import TaskConfig
from motionlex.motion_vae.registry import from_plain, to_plain


@pytest.fixture(scope="module")
def nominal():
    return benchmark_task(50.0)


EVERYTHING = replace(Randomisation.heavy(), push_interval_s=0.5)


def drawn(count=1, bodies=21, joints=19, **changes):
    """Nominal parameters with some changed."""
    shapes = {"friction": (), "mass": (bodies,), "com": (3,), "delay": ()}
    values = {f.name: np.ones((count, *shapes.get(f.name, (joints,)))) for f in fields(Parameters)}
    values |= {"com": np.zeros((count, 3)), "delay": np.zeros(count, dtype=np.int64)}
    return Parameters(**(values | {name: np.asarray(value) for name, value in changes.items()}))


@dataclass(frozen=True, kw_only=True)
class Toy(Robot):
    """A block on the floor whose mass can be anything, with one arm that turns about its own centre of mass."""

    block_kg: float = 10.0
    """Mass of the block [kg]."""

    def xml(self):
        return f"""<mujoco><option gravity="0 0 -9.81"/><worldbody>
          <geom name="floor" type="plane" size="0 0 1" friction="1"/>
          <body name="block" pos="0 0 0.1"><freejoint/>
            <geom type="box" size="0.3 0.3 0.1" mass="{self.block_kg}" friction="1"/>
            <body name="arm" pos="0 0 0.5"><joint name="turn" axis="0 0 1" damping="1" armature="0.1"/>
              <inertial pos="0 0 0" mass="0.01" diaginertia="0.4 0.4 0.4"/>
              <geom type="sphere" size="0.05" contype="0" conaffinity="0" mass="0"/></body>
          </body></worldbody></mujoco>"""


def toy(block_kg):
    joint = Joint(name="turn", lower=-9.0, upper=9.0, torque_limit=20.0, stiffness=50.0, damping=4.0, default=0.0)
    return Toy(
        name="toy", asset="", joints=(joint,), sites=(), anchor_site="", head_site="", root_body="block",
        torso_body="arm", foot_bodies=("block", "block"), foot_geoms=((), ()), standing_height=0.1, block_kg=block_kg,
    )  # fmt: skip


def slide(friction):
    """Distance [m] and time [s] in which a block slows down from 2 to 0.2 m/s."""
    robot = toy(10.0)
    model = robot.model(timestep=0.001, iterations=50)
    ModelWriter(model, robot).write(model, drawn(bodies=3, joints=1, friction=[friction]), 0)
    data = mujoco.MjData(model)
    data.qpos[2] = 0.0999
    data.qvel[0] = 2.0
    while data.qvel[0] > 0.2:
        mujoco.mj_step(model, data)
    return data.qpos[0], data.time


def test_doubled_friction_halves_the_slide():
    for factor in (0.25, 0.5, 1.0):
        distance, seconds = slide(factor)
        # (v0^2 - v1^2) / (2 mu g) and (v0 - v1) / (mu g). At rest MuJoCo's regularised friction creeps: hence not to 0.
        assert distance == pytest.approx((2.0**2 - 0.2**2) / (2 * factor * 9.81), rel=0.01)
        assert seconds == pytest.approx(1.8 / (factor * 9.81), rel=0.01)


def test_contacts_of_the_robot_feel_the_factor(nominal):
    env = batch(task_with(nominal, Randomisation(friction=(0.4, 0.4))), 1)
    env.reset_to(np.array([0]))
    data = mujoco.MjData(env.models[0])
    data.qpos[:], data.qvel[:] = env.qpos[0], env.qvel[0]
    data.qpos[2] -= 0.01
    mujoco.mj_forward(env.models[0], data)
    assert data.ncon >= 8
    for contact in data.contact:
        assert contact.friction[0] == pytest.approx(0.4) and contact.friction[2] > 0.0
    env.close()


def test_mass_changes_by_exactly_the_factor(nominal):
    env = batch(task_with(nominal, Randomisation(mass=(1.25, 1.25))), 2)
    env.reset()
    plain = task_model(ROBOT, nominal.config)
    assert mujoco.mj_getTotalmass(env.models[1]) == pytest.approx(1.25 * mujoco.mj_getTotalmass(plain), rel=1e-14)
    env.close()


def edited_text_model(config, drawn):
    """The same robot, its numbers changed in the model's description before compiling."""
    from motionlex.envs.simulator import task_model_xml

    spec = mujoco.MjSpec.from_string(task_model_xml(ROBOT, config))
    order = task_model(ROBOT, config)  # a description lists its bodies in another order in older MuJoCo
    for body in spec.bodies:
        index = order.body(body.name).id
        body.mass *= drawn.mass[0, index]
        body.inertia = np.asarray(body.inertia) * drawn.mass[0, index]
        if body.name == ROBOT.torso_body:
            body.ipos = np.asarray(body.ipos) + drawn.com[0]
    for geom in spec.geoms:
        geom.friction[0] *= drawn.friction[0]
    joints, motors = ({part.name: part for part in parts} for parts in (spec.joints, spec.actuators))
    for index, name in enumerate(ROBOT.joint_names):
        joint, motor = joints[name], motors[name]
        joint.damping = np.asarray(joint.damping) * drawn.joint_damping[0, index]  # one number in older MuJoCo
        joint.armature *= drawn.armature[0, index]
        if config.control == "torque":
            motor.gear[0] *= drawn.strength[0, index]
            continue
        motor.gainprm[0] *= drawn.stiffness[0, index]
        motor.biasprm[1] *= drawn.stiffness[0, index]
        motor.biasprm[2] *= drawn.damping[0, index]
        motor.forcerange = np.asarray(motor.forcerange) * drawn.strength[0, index]
    return spec.compile()


@pytest.mark.parametrize("control", ["pd", "torque"])
def test_a_model_changed_in_place_is_the_model_compiled_from_changed_text(nominal, control):
    config = replace(nominal.config, control=control)
    ranges = Randomisation.heavy()
    uniform = np.random.default_rng(1).random((1, ranges.draws(21, 19)))
    values = ranges.sample(uniform, bodies=21, joints=19)
    changed, compiled = task_model(ROBOT, config), edited_text_model(config, values)
    writer = ModelWriter(changed, ROBOT)
    writer.write(changed, ranges.sample(uniform[:, ::-1], bodies=21, joints=19), 0)  # the last episode leaves nothing
    writer.write(changed, values, 0)
    for name in ("body_mass", "body_inertia", "body_ipos", "body_subtreemass", "body_invweight0", "dof_invweight0",
                 "dof_M0", "dof_damping", "dof_armature", "geom_friction", "actuator_gainprm", "actuator_biasprm",
                 "actuator_forcerange", "actuator_gear", "actuator_acc0"):  # fmt: skip
        np.testing.assert_allclose(getattr(changed, name), getattr(compiled, name), rtol=1e-9, atol=1e-12, err_msg=name)
    assert changed.stat.meaninertia == pytest.approx(compiled.stat.meaninertia, rel=1e-9)


def test_nominal_factors_give_the_nominal_motion_to_the_bit(nominal):
    ends = []
    for writes in (False, True):
        simulator = Simulator(ROBOT)
        if writes:
            ModelWriter(simulator.model, ROBOT).write(simulator.model, drawn(), 0)
        simulator.reset(nominal.library.qpos[20], nominal.library.qvel[20])
        for frame in range(25):
            simulator.step(nominal.library.qpos[20 + frame, 7:])
        ends.append(np.concatenate((simulator.qpos, simulator.qvel)))
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize(("gain", "strength"), [(1.0, 1.0), (1.5, 1.0), (0.5, 1.0), (1.0, 0.3)])
def test_gains_and_strength_against_a_joint_integrated_by_hand(gain, strength):
    robot = toy(1e7)  # so heavy that the arm is alone
    model = robot.model(control="pd", timestep=0.0005)
    ModelWriter(model, robot).write(
        model, drawn(bodies=3, joints=1, stiffness=[[gain]], damping=[[gain]], strength=[[strength]]), 0
    )
    model.opt.gravity[:] = 0.0
    data = mujoco.MjData(model)
    data.qpos[2] = 5.0
    angle, speed, step = 0.0, 0.0, 1e-5
    for count in range(1, 1001):
        data.ctrl[0] = 0.3
        mujoco.mj_step(model, data)
        for _ in range(50):
            torque = np.clip(gain * (50.0 * (0.3 - angle) - 4.0 * speed), -20.0 * strength, 20.0 * strength)
            speed += step * (torque - 1.0 * speed) / (0.4 + 0.1)
            angle += step * speed
        if count % 250 == 0:
            assert data.qpos[7] == pytest.approx(angle, abs=5e-4)  # first order in steps of 0.5 ms


@pytest.mark.parametrize("delays", [[0, 1, 2, 3], [4, 5, 6, 9]])
@pytest.mark.parametrize("control", ["pd", "torque"])
def test_the_response_starts_exactly_as_many_steps_later(nominal, delays, control):
    task = task_with(nominal, Randomisation(delay=(0, 9)), control=control)
    env = batch(task, 4)
    env.reset_to(np.full(4, 30))
    env.disturbances.assign(np.arange(4), drawn(4, delay=delays))
    rest = np.zeros(19) if control == "torque" else env.qpos[0, 7:].copy()
    command = [rest + 5.0 * np.sin(np.arange(19) + n) * (40.0 if control == "torque" else 0.02) for n in range(3)]
    model = task_model(ROBOT, task.config)
    steps = [mujoco.MjData(model) for _ in delays]
    for data in steps:
        data.qpos[:], data.qvel[:] = task.library.qpos[30], task.library.qvel[30]
    for period in range(3):
        last = env.simulate(np.tile(command[period], (4, 1)))
        for row, (delay, data) in enumerate(zip(delays, steps, strict=True)):
            for inner in range(4):
                age = 4 * period + inner - delay
                data.ctrl[:] = rest if age < 0 else command[age // 4]
                np.testing.assert_array_equal(env.held[row, inner], data.ctrl)
                mujoco.mj_step(model, data)
                np.testing.assert_array_equal(env.passed[row, inner, 1:27], data.qpos)
            np.testing.assert_array_equal(last[row], data.ctrl)
    env.close()


def test_the_torque_penalty_sees_what_the_motors_got(nominal):
    ranges = Randomisation(delay=(8, 8), gain=(1.2, 1.2), strength=(0.7, 0.7))
    task = task_with(nominal, ranges)
    env = batch(task, 1)
    env.reset_to(np.array([40]))
    seen = []
    advance = task.reward
    task.reward = lambda step: seen.append(step.torque) or advance(step)
    env.step(np.full((1, 19), 4.0))  # arrives only after two control steps
    model, data = env.models[0], mujoco.MjData(env.models[0])
    data.qpos[:], data.qvel[:] = env.qpos[0], env.qvel[0]
    data.ctrl[:] = task.library.qpos[40, 7:]
    mujoco.mj_forward(model, data)
    limit = 0.7 * ROBOT.torque_limit
    np.testing.assert_allclose(seen[0][0], data.actuator_force / limit, atol=1e-5)  # six digits in model files
    env.close()


def test_kicks_come_at_their_rate_and_size(nominal):
    env = batch(task_with(nominal, Randomisation(push_speed=0.4, push_interval_s=0.2)), 2000)
    env.reset_to(np.zeros(2000, dtype=np.int64))
    before = env.qvel.copy()
    env.disturbances.strike(env.qvel, env.generator)
    change = env.qvel - before
    hit = change.any(axis=1)
    assert hit.mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / 2000))  # 50 Hz, every 0.2 s
    assert not change[:, 2:].any() and np.abs(change).max() <= 0.4
    assert np.std(change[hit, :2]) == pytest.approx(0.4 / np.sqrt(3), rel=0.1)
    env.close()


def test_draws_fill_their_ranges():
    ranges = Randomisation.heavy()
    uniform = np.random.default_rng(0).random((4000, ranges.draws(21, 19)))
    values = ranges.sample(uniform, bodies=21, joints=19)
    wanted = {"friction": ranges.friction, "mass": ranges.mass, "com": (-0.05, 0.05), "stiffness": ranges.gain,
              "damping": ranges.gain, "strength": ranges.strength, "joint_damping": ranges.joint_damping,
              "armature": ranges.armature}  # fmt: skip
    for name, (low, high) in wanted.items():
        value = getattr(values, name)
        assert low <= value.min() and value.max() < high
        assert value.mean() == pytest.approx((low + high) / 2, abs=5 * (high - low) / np.sqrt(12 * len(value)))
    np.testing.assert_allclose(np.bincount(values.delay) / 4000, 0.2, atol=0.04)
    correlation = np.corrcoef(np.concatenate([values.mass, values.stiffness, values.damping], axis=1).T)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.08  # links and joints differ independently


def test_no_draw_exceeds_the_longest_delay():
    """The largest number below 1 in single precision, as MuJoCo Warp draws them, rounds in sums."""
    for first, last in ((0, 4), (1, 1), (3, 4), (2, 9), (5, 8)):
        ranges = Randomisation(delay=(first, last))
        uniform = np.full((2, ranges.draws(21, 19)), 1 - 2.0**-24, dtype=np.float32)
        uniform[1] = 0.0
        np.testing.assert_array_equal(ranges.sample(uniform, bodies=21, joints=19).delay, [last, first])


def test_every_episode_draws_new_robots(nominal):
    env = batch(task_with(nominal, EVERYTHING), 3)
    env.reset()
    first = env.disturbances.snapshot()
    masses = [model.body_mass.copy() for model in env.models]
    assert not np.allclose(masses[0], masses[1])
    env.reset()
    for name, value in env.disturbances.snapshot().items():
        if name != "drawn_delay":
            assert not np.array_equal(value, first[name]), name
    assert not np.allclose(env.models[0].body_mass, masses[0])
    env.close()


def run(env, steps, seed=5):
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(steps):
        seen, reward, done, _ = env.step(draw.normal(0.0, 0.5, (env.num_envs, 19)))
        rows.append(np.concatenate((seen, reward[:, None], done[:, None]), axis=1))
    return np.stack(rows)


def test_seeds_decide_everything(nominal):
    task = task_with(nominal, EVERYTHING)
    results = []
    for seed in (1, 1, 2):
        env = batch(task, 4, seed)
        env.reset()
        results.append(run(env, 60))
        env.close()
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert results[0][..., -1].any()  # episodes ended and began on the way


@pytest.mark.parametrize("goal", ["reference", "latent"])
def test_a_restored_batch_goes_on_as_if_nothing_had_happened(nominal, goal):
    task = task_with(nominal, EVERYTHING, goal=goal)
    env = batch(task, 5)
    env.reset()
    run(env, 50, seed=1)
    saved, generator = env.snapshot(), env.generator.bit_generator.state
    onward = run(env, 50, seed=2)
    assert onward[..., -1].any()
    other = batch(task, 5, seed=99)
    other.reset()
    for resumed in (env, other):  # the same object, and another one as after a new start of the program
        resumed.restore(saved)
        resumed.generator.bit_generator.state = generator
        np.testing.assert_array_equal(run(resumed, 50, seed=2), onward)
        resumed.close()


def test_what_is_off_draws_nothing_and_copies_nothing(nominal):
    env = batch(nominal, 4)
    env.reset_to(np.array([0, 10, 20, 30]))
    before = env.generator.bit_generator.state
    assert env.models[0] is env.models[3] and env.disturbances.parameters is None
    assert not run(env, 3)[..., -1].any()
    assert env.generator.bit_generator.state == before
    assert env.disturbances.snapshot() == {}
    env.close()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"friction": (1.2, 0.8)}, "friction.*rise"),
        ({"mass": (0.0, 1.0)}, "mass.*positive"),
        ({"gain": (-0.5, 1.0)}, "gain"),
        ({"strength": (1.0, float("nan"))}, "strength.*finite"),
        ({"delay": (3, 1)}, "delay.*rise"),
        ({"push_interval_s": 0.0}, "push_interval_s"),
        ({"com_offset": -0.1}, "com_offset"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(changes, match):
    with pytest.raises(UserError, match=match):
        Randomisation(**changes)


def test_saved_tasks_of_before_and_of_now_are_read():
    config = TaskConfig(randomisation=Randomisation.heavy())
    plain = to_plain(config)
    assert from_plain(TaskConfig, plain) == config
    del plain["randomisation"]
    old = from_plain(TaskConfig, {**plain, "push_speed": 0.3, "push_interval_s": 2.0})
    assert old == TaskConfig(randomisation=Randomisation(push_speed=0.3, push_interval_s=2.0))
    with pytest.raises(UserError, match="unknown fields: pull_speed"):
        from_plain(TaskConfig, {**plain, "pull_speed": 1.0})


def test_flags_choose_presets_and_kicks():
    def ranges(**flags):
        return resolve_config(LowLevelFlags(**flags)).task.randomisation

    assert ranges() == Randomisation()
    assert ranges(push=0.5) == Randomisation(push_speed=0.5)
    assert ranges(randomise="light") == Randomisation.light()
    assert ranges(randomise="heavy", push=0.0) == replace(Randomisation.heavy(), push_speed=0.0)
    assert Randomisation.heavy().physical and Randomisation.heavy().delayed and Randomisation.heavy().noisy


def test_a_snapshot_of_other_options_is_refused(nominal):
    env, plain = batch(task_with(nominal, EVERYTHING), 2), batch(nominal, 2)
    plain.reset()
    with pytest.raises(KeyError):
        env.restore(plain.snapshot())
    assert isinstance(env.disturbances, Disturbances)
