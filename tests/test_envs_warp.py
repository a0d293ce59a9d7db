"""MuJoCo Warp against MuJoCo, the environment on it against the task in numpy, restarts, resume, and no waiting."""

from dataclasses import fields, replace

import mujoco
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.derived_constants import DERIVED_FIELDS
from motionlex.envs.episodes import Episodes
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.reference import CommandSource
from motionlex.envs.simulator import task_model
from motionlex.envs.start_sampler import StartSampler
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import StartNoise
from motionlex.envs.terminations import TerminationLimits
from motionlex.envs.varied_model import VARIED_FIELDS
from motionlex.envs.warp_config import WarpBuffers

MISSING = "the extra [warp] is not installed"
warp_module = pytest.importorskip("motionlex.envs.warp", reason=MISSING)
WarpPhysics = pytest.importorskip("motionlex.envs.warp_physics", reason=MISSING).WarpPhysics
WarpTracking, LEARN_EVERY = warp_module.WarpTracking, warp_module.LEARN_EVERY
ROBOT = get_robot("h1")
EVERY_FIELD = (*VARIED_FIELDS, *DERIVED_FIELDS)
SHAPES = {"qpos": (8, 26), "qvel": (8, 25), "ctrl": (8, 19), "held": (8, 4, 19)}


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="module")
def task():
    return benchmark_task(50.0)


def latent_command(library):
    draw = np.random.default_rng(0)
    return CommandSource(
        codes=draw.integers(0, 32, (2, library.frames // 16 + 1, 64)),
        segment=np.arange(library.frames) // 16,
        phase=(np.arange(library.frames) % 16) / 16,
        vocabulary=32,
        variants=2,
    )


def moved(task, device):
    return TrackingTask(ROBOT, task.library.to(device), task.config, task.command.to(device))


def environment(task, device, worlds=8, seed=0, **options):
    generator = torch.Generator(device=device).manual_seed(seed)
    return WarpTracking(moved(task, device), worlds=worlds, generator=generator, **options)


def host(x):
    return x.cpu().double().numpy()


class Mujoco:
    """The same model stepped by MuJoCo, one world after the other."""

    def __init__(self, config):
        self.model = task_model(ROBOT, config)
        self.data = mujoco.MjData(self.model)

    def __call__(self, qpos, qvel, ctrl):
        reached = []
        for state in zip(qpos, qvel, ctrl):
            mujoco.mj_resetData(self.model, self.data)
            self.data.qpos[:], self.data.qvel[:], self.data.ctrl[:] = state
            mujoco.mj_step(self.model, self.data, 4)
            reached.append((self.data.qpos.copy(), self.data.qvel.copy()))
        return (np.stack(part) for part in zip(*reached))


@pytest.mark.parametrize(("control", "steps"), [("pd", 50), ("torque", 25)])
def test_physics_follows_mujoco_where_the_solver_converges(task, device, control, steps):
    """Two hundred physics steps in contact with the floor, from the same start with the same controls.

    Float32 has a relative step of 1.2e-7: velocities of up to 20 rad/s round by 2e-6 in each of them, and integrated
    positions by 1e-7. Measured at the end: 3e-6 and 1e-4; under torques the robots fall and, after 25 control steps,
    impacts make any difference grow.
    """
    config = replace(task.config, control=control, iterations=20, ls_iterations=20)
    physics, truth = WarpPhysics(ROBOT, config, worlds=8, device=device), Mujoco(config)
    draw, frames = np.random.default_rng(0), np.linspace(0, 440, 8).astype(int)
    qpos, qvel = task.library.qpos[frames], task.library.qvel[frames]
    physics.qpos.copy_(torch.as_tensor(qpos))
    physics.qvel.copy_(torch.as_tensor(qvel))
    for step in range(steps):
        ctrl = draw.normal(0.0, 0.1, (8, 19)) + task.library.qpos[frames + step + 1, 7:]
        ctrl = draw.normal(0.0, 10.0, (8, 19)) if control == "torque" else ctrl
        physics.ctrl.copy_(torch.as_tensor(ctrl))
        physics.simulate()
        qpos, qvel = truth(qpos, qvel, ctrl)
        np.testing.assert_allclose(host(physics.qpos), qpos, atol=2e-5)
        np.testing.assert_allclose(host(physics.qvel), qvel, atol=1e-3)
    assert not physics.overflow()


def test_physics_of_the_recipe_differs_only_where_four_iterations_do_not_suffice(task, device):
    """Single control steps with the recipe's solver; each simulator tells by itself where it has not converged."""
    config = task.config
    longer = replace(config, iterations=30, ls_iterations=30)
    short, long = Mujoco(config), Mujoco(longer)
    quick, patient = (WarpPhysics(ROBOT, c, worlds=8, device=device) for c in (config, longer))
    draw, frames = np.random.default_rng(1), np.linspace(0, 440, 8).astype(int)
    qpos, qvel = task.library.qpos[frames], task.library.qvel[frames]
    settled, errors = [], []
    for step in range(50):
        ctrl = draw.normal(0.0, 0.1, (8, 19)) + task.library.qpos[frames + step + 1, 7:]
        for physics in (quick, patient):
            physics.qpos.copy_(torch.as_tensor(qpos))
            physics.qvel.copy_(torch.as_tensor(qvel))
            physics.ctrl.copy_(torch.as_tensor(ctrl))
            physics.simulate()
        _, exact = long(qpos, qvel, ctrl)
        qpos, qvel = short(qpos, qvel, ctrl)
        ours = np.abs(qvel - exact).max(axis=1) < 1e-5
        theirs = host((quick.qvel - patient.qvel).abs().amax(dim=1)) < 1e-4
        settled.append(np.stack((ours, theirs)))
        error = np.abs(host(quick.qvel) - qvel).max(axis=1)
        errors += list(error[ours & theirs])
    # A sole that touches the floor by less than float32 resolves is in contact in one simulator and not in the other.
    assert np.mean(np.array(errors) < 1e-3) > 0.98 and np.median(errors) < 2e-5
    assert (np.mean(settled, axis=(0, 2)) > 0.85).all()  # measured: 0.89 and 0.91


class Reached:
    """Notes the states that every step reached, before finished worlds restart."""

    def __init__(self, env):
        self.task, self.advance, self.states = env.task, env.task.advance, []
        env.task.advance = self

    def __call__(self, episodes, qpos, qvel, action, ctrl, parameters=None):
        now = {item.name: getattr(episodes, item.name).clone() for item in fields(Episodes)}
        self.states.append((now, qpos.clone(), qvel.clone(), action.clone(), ctrl.clone()))
        return self.advance(episodes, qpos, qvel, action, ctrl, parameters)


@pytest.mark.parametrize(
    ("goal", "reward"),
    [("reference", "deepmimic"), ("latent", "deepmimic"), ("reference", "beyond_mimic"), ("latent", "loco_mujoco")],
)
def test_rewards_ends_and_observations_are_those_of_the_task_in_numpy(task, device, goal, reward):
    config = replace(task.config, goal=goal, reward=reward, episode_s=0.5)
    exact = TrackingTask(ROBOT, task.library, config, latent_command(task.library) if goal == "latent" else None)
    env = environment(exact, device, worlds=16)
    reached = Reached(env)
    draw = torch.Generator().manual_seed(1)
    kinds = torch.zeros(3, dtype=torch.int64)
    for _ in range(40):
        action = 3.0 * torch.randn((16, 19), generator=draw)
        seen, values, done, extras = env.step(action.to(device))
        episodes, *state = reached.states[-1]
        bookkeeping = Episodes(
            **{name: host(x) if x.is_floating_point() else x.cpu().numpy() for name, x in episodes.items()}
        )
        qpos, qvel, bounded, ctrl = (host(x) for x in state)
        np.testing.assert_allclose(bounded, action.double().clamp(-4, 4), atol=1e-6)
        np.testing.assert_allclose(ctrl, exact.control(bookkeeping, bounded), atol=1e-5)
        result = exact.advance(bookkeeping, qpos, qvel, bounded, ctrl)
        np.testing.assert_array_equal(done.cpu(), result.terminated | result.truncated)
        np.testing.assert_array_equal(extras["time_outs"].cpu(), result.truncated)
        # exp() of errors around 1 in float32, and hinge velocities of up to 20 rad/s, whose squares are summed
        np.testing.assert_allclose(host(values), result.reward, atol=1e-5 * max(1.0, np.abs(result.reward).max()))
        on = ~done.cpu().numpy()
        expected = exact.observe(qpos, qvel, bookkeeping)
        whole = host(seen["critic" if goal == "latent" else "policy"])
        np.testing.assert_allclose(whole[on], expected[on], atol=2e-5, rtol=1e-5)
        np.testing.assert_array_equal(host(seen["policy"]), whole[:, : exact.policy_size])
        kinds += torch.tensor([int(result.terminated.sum()), int(result.truncated.sum()), int(on.sum())])
    assert (kinds > 0).all()  # failures, ends of time and running episodes were met
    report = env.report()
    assert report.lost == kinds[0] and report.episodes == kinds[0] + kinds[1]


def test_only_finished_worlds_restart_and_exactly_on_the_reference_without_noise(task, device):
    still = StartNoise(joint=0.0, joint_velocity=0.0, position=0.0, orientation=0.0, velocity=0.0)
    env = environment(TrackingTask(ROBOT, task.library, replace(task.config, noise=still, episode_s=0.4)), device)
    env.reset_to(torch.arange(8, device=device))
    env.episodes.start -= torch.tensor([15, 0, 15, 0, 0, 0, 0, 0], device=device)  # two are close to their end
    steps = []
    reached = Reached(env)
    for _ in range(6):
        before = host(env.qpos)
        _, _, done, _ = env.step(torch.zeros((8, 19), device=device))
        steps.append((done.cpu().numpy(), before, host(env.qpos), env.episodes.frame.cpu().numpy().copy()))
    done, _, after, frames = steps[4]
    np.testing.assert_array_equal(done, [True, False, True, False, False, False, False, False])
    assert not any(other[0].any() for other in (*steps[:4], steps[5]))
    np.testing.assert_allclose(after[done], task.library.qpos[frames[done]], atol=1e-6)
    np.testing.assert_array_equal(after[~done], host(reached.states[4][1])[~done])
    np.testing.assert_array_equal(env.episode_length_buf.cpu(), [1, 6, 1, 6, 6, 6, 6, 6])
    np.testing.assert_array_equal(env.episodes.last_action.cpu(), 0.0)
    report = env.report()
    assert (report.episodes, report.steps, report.lost, report.diverged) == (2, 10, 0, 0)
    assert env.report().episodes == 0


def test_start_noise_has_the_wanted_size(task, device):
    env = environment(task, device, worlds=400)
    clean = task.library.qpos[env.episodes.frame.cpu().numpy()]
    moved_by = (host(env.qpos) - clean)[:, 7:].std()
    assert moved_by == pytest.approx(task.config.noise.joint, rel=0.05)  # 7600 numbers: 0.8 % standard error
    assert len(np.unique(env.episodes.frame.cpu())) > 200


def test_the_sampler_learns_what_the_one_in_numpy_learns(task, device):
    limits = TerminationLimits(height=0.08)
    env = environment(TrackingTask(ROBOT, task.library, replace(task.config, limits=limits, episode_s=0.6)), device)
    reached = Reached(env)
    truth = StartSampler(task.library)
    ends = []
    for step in range(2 * LEARN_EVERY):
        action = torch.full((8, 19), 0.2 * (-1) ** step, device=device)
        _, _, done, extras = env.step(action)
        episodes = reached.states[-1][0]
        ends += [
            (int(episodes["start"][row]), int(episodes["frame"][row]) + 1, not bool(extras["time_outs"][row]))
            for row in np.flatnonzero(done.cpu())
        ]
        if (step + 1) % LEARN_EVERY == 0:
            start, end, failed = (np.array(column) for column in zip(*ends))
            truth.update(start, end, failed)
            ends = []
            np.testing.assert_allclose(env.sampler.failure.cpu(), truth.failure, atol=1e-6)  # powers in float32
    assert truth.failure[0].min() < 0.9


def test_a_world_that_blows_up_is_restarted_and_counted_and_harms_no_other(task, device):
    plain, hurt = environment(task, device), environment(task, device)
    for env in (plain, hurt):
        env.reset_to(torch.arange(8, device=device) * 20)
    hurt.qvel[3, 8] = float("nan")
    action = torch.zeros((8, 19), device=device)
    _, _, _, _ = plain.step(action)
    seen, reward, done, extras = hurt.step(action)
    np.testing.assert_array_equal(done.cpu(), np.arange(8) == 3)
    assert not extras["time_outs"].any() and reward[3] == 0.0
    assert all(torch.isfinite(group).all() for group in seen.values())
    others = [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_array_equal(host(hurt.qpos)[others], host(plain.qpos)[others])
    assert hurt.report().diverged == 1 and hurt.diverged == 1
    for _ in range(5):
        seen, *_ = hurt.step(action)
    assert torch.isfinite(seen["policy"]).all() and hurt.report().diverged == 0


def test_a_restored_environment_has_the_same_future(task, device):
    if device == "cuda":
        pytest.skip("the order of contacts, and with it rounding, is not fixed on a GPU")
    config = replace(task.config, episode_s=0.3, randomisation=Randomisation(push_speed=0.5, push_interval_s=0.2))
    whole, broken = (environment(TrackingTask(ROBOT, task.library, config), device, seed=s) for s in (0, 5))
    draw = torch.Generator().manual_seed(2)
    actions = [torch.randn((8, 19), generator=draw) for _ in range(2 * LEARN_EVERY)]
    for action in actions[:40]:
        with torch.inference_mode():  # as rsl_rl steps
            whole.step(action)
    broken.restore(whole.snapshot())
    for action in actions[40:]:
        for one, other in zip(whole.step(action)[:3], broken.step(action)[:3]):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(whole.sampler.failure, broken.sampler.failure, rtol=0, atol=0)


def test_kicks_come_as_often_and_as_hard_as_asked(task, device):
    kicks = Randomisation(push_speed=2.0, push_interval_s=0.1)
    env = environment(TrackingTask(ROBOT, task.library, replace(task.config, randomisation=kicks)), device, worlds=2000)
    env.qvel.zero_()
    env.disturbances.strike(env.qvel)
    speed = host(env.qvel)
    kicked = np.abs(speed[:, :2]).max(axis=1) > 0
    assert kicked.mean() == pytest.approx(0.2, abs=0.04)  # 50 Hz, 0.1 s; four standard errors
    assert np.abs(speed[:, :2]).max() <= 2.0 and speed[kicked, :2].std() == pytest.approx(2.0 / np.sqrt(3.0), rel=0.08)
    assert not speed[:, 2:].any()


def test_what_does_not_fit_a_buffer_is_reported(task, device):
    env = environment(task, device, buffers=WarpBuffers(contacts=88, constraints=12))
    env.reset_to(torch.zeros(8, dtype=torch.int64, device=device))  # standing: two feet, eight contacts, 32 rows
    env.step(torch.zeros((8, 19), device=device))
    assert env.physics.overflow() == {"nefc": 8}
    env.physics.qpos[:, 2] += 5.0  # in the air nothing is too small
    env.physics.simulate()
    assert env.physics.overflow() == {}


@pytest.mark.parametrize("settings", [{"integrator": "implicit"}, {"solver": "PGS"}])
def test_settings_that_mujoco_warp_does_not_have_are_refused(task, device, settings):
    with pytest.raises(UserError, match="MuJoCo Warp has no integrator 'implicit' and no solver 'PGS'"):
        WarpPhysics(ROBOT, replace(task.config, **settings), worlds=1, device=device)


def test_mistakes_are_refused(task, device):
    with pytest.raises(UserError, match="contacts must be positive"):
        WarpBuffers(contacts=0)
    with pytest.raises(TypeError, match="must be torch tensors"):
        WarpTracking(task, worlds=2, generator=torch.Generator())


def test_runner_of_rsl_rl_accepts_the_environment(task, device, tmp_path):
    from rsl_rl.runners import OnPolicyRunner

    exact = TrackingTask(ROBOT, task.library, replace(task.config, goal="latent"), latent_command(task.library))
    model = {"class_name": "MLPModel", "hidden_dims": [16], "obs_normalization": True}
    noise = {"class_name": "GaussianDistribution", "init_std": 0.5}
    runner = OnPolicyRunner(
        environment(exact, device),
        {
            "algorithm": {"class_name": "PPO", "num_mini_batches": 2},
            "actor": {**model, "distribution_cfg": noise},
            "critic": model,
            "obs_groups": {"actor": ["policy"], "critic": ["critic"]},
            "num_steps_per_env": 4,
            "save_interval": 100,
        },
        log_dir=None,
        device=device,
    )
    runner.learn(2)
    assert runner.alg.actor.obs_dim == exact.policy_size and runner.alg.critic.obs_dim == exact.observation_size


class NothingMeetsTheHost(TorchFunctionMode):
    """Refuses what makes the host wait for a GPU: numbers asked from it, and arrays of the host sent to it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        asked = {"item", "tolist", "__bool__", "cpu", "numpy", "nonzero", "bincount", "unique", "__float__", "__int__"}
        assert name not in asked, f"{name} waits for the device"
        if name in ("as_tensor", "tensor", "asarray"):
            assert isinstance(args[0], torch.Tensor), f"{name}({args[0]!r}) sends something to the device"
        if name in ("__getitem__", "__setitem__"):
            for index in args[1] if isinstance(args[1], tuple) else (args[1],):
                assert not isinstance(index, (list, np.ndarray)), "a list of places is sent to the device"
                if isinstance(index, torch.Tensor):
                    assert index.dtype != torch.bool and index.device.type == "meta", "a mask is counted on the host"
        return func(*args, **(kwargs or {}))


class NothingOfTheHost(TorchDispatchMode):
    """Refuses operations that mix arrays of the host and of the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, out)):
            assert not isinstance(x, torch.Tensor) or x.device.type == "meta", f"{func} uses an array of the host"
        return out


@pytest.mark.parametrize(
    ("goal", "reward", "ranges"),
    [
        ("reference", "deepmimic", Randomisation.heavy()),
        ("latent", "deepmimic", Randomisation(push_speed=0.1)),
        ("reference", "beyond_mimic", Randomisation(push_speed=0.1)),
        ("latent", "loco_mujoco", Randomisation.heavy()),
    ],
)
def test_a_step_never_waits_for_the_device(task, monkeypatch, goal, reward, ranges):
    """Arrays on torch's device without numbers stand for the GPU's: whoever asks for a number fails."""
    config = replace(task.config, goal=goal, reward=reward, randomisation=ranges)
    exact = TrackingTask(ROBOT, task.library, config, latent_command(task.library) if goal == "latent" else None)
    model = task_model(ROBOT, config)
    physics = object.__new__(WarpPhysics)
    vars(physics).update({name: torch.empty(shape, device="meta") for name, shape in SHAPES.items()})
    physics.fields = {n: torch.empty((8, *getattr(model, n).shape), device="meta") for n in EVERY_FIELD}
    physics.device, physics.host_model, physics.simulate = torch.device("meta"), model, lambda: None
    monkeypatch.setattr(warp_module, "WarpPhysics", lambda *_, **__: physics)
    sampler = StartSampler(task.library)
    for name in ("_starts", "_size", "_joined", "_floor", "failure"):
        setattr(sampler, name, torch.as_tensor(getattr(sampler, name), device="meta"))
    monkeypatch.setattr(warp_module, "StartSampler", lambda _: sampler)
    env = WarpTracking(moved(exact, "meta"), worlds=8, generator=torch.Generator())
    action = torch.zeros((8, 19), device="meta")
    env.step(action)
    with NothingMeetsTheHost(), NothingOfTheHost():
        for _ in range(3):
            env.step(action)
