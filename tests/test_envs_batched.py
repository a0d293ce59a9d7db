"""The batch against single robots in every kind of task, its manners as a VecEnv, and what it does about bad input."""

import itertools
import logging
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from motionlex.data.clip import MotionClip
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs import checks
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.randomisation import Parameters, Randomisation, SensorNoise
from motionlex.envs.reference import CommandSource, MotionLibrary
from motionlex.envs.task import TrackingTask
from motionlex.envs.tracking import H1Track

ROBOT = get_robot("h1")
DIFFERENT = replace(Randomisation.heavy(), noise=SensorNoise(), push_speed=0.0)
"""Robots differ and motors lag; noise and kicks come from the generator of each environment and are left out."""


@pytest.fixture(scope="module", params=[50.0, 100.0], ids=["50Hz", "100Hz"])
def base(request):
    return benchmark_task(request.param)


@pytest.fixture(scope="module")
def task():
    return benchmark_task(50.0)


def commands(library, goal):
    """Codes, or frames that differ from the library's in two ways."""
    draw, frames = np.random.default_rng(4), np.arange(library.frames)
    if goal == "latent":
        codes = draw.integers(0, 32, (2, library.frames // 16 + 1, 64))
        return CommandSource(codes=codes, segment=frames // 16, phase=frames % 16 / 16, vocabulary=32, variants=2)
    if goal == "decoded":
        qpos = np.concatenate([library.qpos, library.qpos])
        qpos[:, 7:] += draw.normal(0.0, 0.03, (len(qpos), 19))
        rows = np.minimum(frames[:, None] + np.array([1, 8]), library.last_frame[:, None])
        return CommandSource(qpos=qpos, qvel=np.concatenate([library.qvel, library.qvel]), rows=rows, variants=2)
    return None


def variant(base, goal, control, ranges):
    config = replace(base.config, goal=goal, control=control, randomisation=ranges)
    return TrackingTask(ROBOT, base.library, config, commands(base.library, goal))


def compare(task, steps, frames=(57, 290)):
    """Step a batch and single robots alike; return how many robot steps were compared."""
    draw = np.random.default_rng(3)
    frames, count = np.array(frames), len(frames)
    batch = BatchedTracking(task, worlds=count, threads=2, generator=draw)
    singles = [H1Track(task) for _ in frames]
    seen = batch.reset_to(frames)
    alone = [env.reset(seed=9, options={"frame": int(frame)})[0] for env, frame in zip(singles, frames, strict=True)]
    np.testing.assert_allclose(seen, alone, rtol=0, atol=1e-9)
    if (drawn := batch.disturbances.parameters) is not None:
        for row, env in enumerate(singles):
            own = {f.name: getattr(drawn, f.name)[row : row + 1] for f in fields(Parameters)}
            env.disturbances.assign(np.zeros(1, dtype=np.int64), Parameters(**own))
    batch.episodes.variant[:] = np.arange(count) % task.command.variants
    for row, env in enumerate(singles):
        env.episodes.variant[:] = row % task.command.variants
    alive, compared = [True] * count, 0
    for _ in range(steps):
        action = draw.normal(0.0, 0.15, (count, 19))
        seen, reward, done, infos = batch.step(action)
        for row, env in enumerate(singles):
            if not alive[row]:
                continue
            compared += 1
            observation, value, terminated, truncated, _ = env.step(action[row])
            expected = infos[row]["terminal_observation"] if done[row] else seen[row]
            np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-9)
            assert value == pytest.approx(reward[row], rel=0, abs=1e-9)
            assert (terminated or truncated) == done[row]
            if not done[row]:
                np.testing.assert_allclose(batch.qpos[row], env.simulator.qpos, rtol=0, atol=1e-9)
                np.testing.assert_allclose(batch.qvel[row], env.simulator.qvel, rtol=0, atol=1e-9)
            alive[row] = not done[row]
    batch.close()
    return compared


@pytest.mark.parametrize(("goal", "control"), itertools.product(("latent", "decoded", "reference"), ("pd", "torque")))
def test_batch_and_single_robots_agree(base, goal, control):
    differ = (control == "pd") == (base.config.hz == 50.0)  # every goal and motor once with robots that differ
    assert compare(variant(base, goal, control, DIFFERENT if differ else Randomisation()), 30) > 20


def test_batch_and_single_robots_agree_for_long(task):
    for ranges, steps in ((Randomisation(), 200), (DIFFERENT, 80)):
        assert compare(endless(variant(task, "reference", "pd", ranges)), steps) == 2 * steps


def endless(task):
    """Never terminate, so that every robot is compared to the end."""
    limits = replace(task.config.limits, height=9.0, orientation=4.0, key_point=9.0)
    return TrackingTask(ROBOT, task.library, replace(task.config, limits=limits), task.command)


@pytest.mark.parametrize("goal", ["reference", "latent"])
def test_a_batch_of_one_draws_what_a_single_robot_draws(task, goal):
    everything = replace(Randomisation.heavy(), push_interval_s=0.3)
    chosen = variant(task, goal, "pd", everything)
    batch = BatchedTracking(chosen, worlds=1, threads=1, generator=np.random.default_rng(11))
    single = H1Track(chosen)
    np.testing.assert_allclose(batch.reset()[0], single.reset(seed=11)[0], atol=1e-9)
    draw, ends = np.random.default_rng(5), 0
    for _ in range(100):
        action = draw.normal(0.0, 0.5, (1, 19))
        seen, reward, done, infos = batch.step(action)
        observation, value, terminated, truncated, _ = single.step(action[0])
        np.testing.assert_allclose(observation, infos[0].get("terminal_observation", seen[0]), atol=1e-9)
        assert value == pytest.approx(reward[0], abs=1e-9) and (terminated or truncated) == done[0]
        if done[0]:
            ends += 1
            np.testing.assert_allclose(single.reset()[0], seen[0], atol=1e-9)
    assert ends >= 2  # how many depends on the version of MuJoCo
    batch.close()


def test_a_world_that_blows_up_restarts_alone_and_is_reported_now_and_then(task, caplog):
    plain, broken = (BatchedTracking(task, worlds=9, threads=1, generator=np.random.default_rng(0)) for _ in range(2))
    for env in (plain, broken):
        env.reset_to(np.arange(9) * 20)
    action = np.random.default_rng(1).normal(0.0, 0.2, (9, 19))
    with caplog.at_level(logging.WARNING, "motionlex"):
        for number in range(1, 9):
            broken.state[4, 7 + number] = np.nan if number % 2 else 1e12
            seen, reward, done, infos = broken.step(action)
            expected = plain.step(action)
            others = np.arange(9) != 4
            assert done[4] and reward[4] == 0.0 and broken.diverged == number
            assert not infos[4]["TimeLimit.truncated"] and np.isfinite(infos[4]["terminal_observation"]).all()
            assert np.isfinite(seen).all() and np.isfinite(broken.state).all()
            np.testing.assert_array_equal(seen[others], expected[0][others])  # neighbours on the same thread
            np.testing.assert_array_equal(reward[others], expected[1][others])
    assert [record.args[0] for record in caplog.records] == [1, 2, 4, 8]
    plain.close(), broken.close()


def test_a_blow_up_leaves_no_file_and_no_line_on_the_terminal(task, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    # A command that ran before in this process logs to a stderr that pytest has closed since.
    kept = [handler for handler in logging.root.handlers if isinstance(handler, type(caplog.handler))]
    monkeypatch.setattr(logging.root, "handlers", kept)
    for threads in (1, 2):
        env = BatchedTracking(task, worlds=9, threads=threads, generator=np.random.default_rng(0))
        env.reset()
        env.state[:, 30] = np.nan
        with caplog.at_level(logging.DEBUG, "motionlex"):
            env.step(np.zeros((9, 19)))
        env.close()
    assert not list(tmp_path.iterdir()) and "unstable" not in "".join(capfd.readouterr())
    assert "MuJoCo: Nan, Inf or huge value" in caplog.text


def test_a_single_robot_that_blows_up_ends_with_numbers(task):
    env = H1Track(task)
    env.reset(seed=0)
    env.simulator.data.qvel[3] = np.nan
    seen, reward, terminated, _, info = env.step(np.zeros(19))
    assert terminated and reward == 0.0 and info["diverged"] and np.isfinite(seen).all()
    assert np.isfinite(env.reset()[0]).all()


@pytest.mark.parametrize(("worlds", "threads", "match"), [(0, 1, "--worlds"), (-2, 1, "--worlds"), (3, 0, "--threads")])
def test_nothing_to_simulate_is_refused(task, worlds, threads, match):
    with pytest.raises(UserError, match=f"{match} must be positive"):
        BatchedTracking(task, worlds=worlds, threads=threads, generator=np.random.default_rng(0))


def test_more_threads_than_cores_work_and_are_mentioned_once(task, caplog):
    checks._warn_of_threads.cache_clear()
    states = []
    with caplog.at_level(logging.WARNING, "motionlex"):
        for threads in (1, 67, 67):
            env = BatchedTracking(task, worlds=5, threads=threads, generator=np.random.default_rng(0))
            env.reset()
            for _ in range(3):
                env.step(np.zeros((5, 19)))
            states.append(env.state)
            env.close()
    np.testing.assert_array_equal(states[0], states[1])
    assert len(caplog.records) == 1 and "67 physics threads" in caplog.text


def test_actions_that_cannot_be_meant_are_refused(task):
    env, single = BatchedTracking(task, worlds=3, threads=1, generator=np.random.default_rng(0)), H1Track(task)
    env.reset(), single.reset(seed=0)
    before = env.state.copy()
    for shape in ((3, 18), (2, 19)):
        with pytest.raises(UserError, match=r"wanted \(3, 19\)"):
            env.step(np.zeros(shape))
    with pytest.raises(UserError, match=r"shape \(18,\), wanted \(19,\)"):
        single.step(np.zeros(18))
    broken = np.zeros((3, 19))
    broken[1, 7] = np.nan
    with pytest.raises(UserError, match=r"NaN.*1 of 3 robots.*robot 1"):
        env.step(broken)
    with pytest.raises(UserError, match="NaN"):
        single.step(broken[1])
    np.testing.assert_array_equal(before, env.state)  # nothing moved
    env.step(np.full((3, 19), np.inf))  # infinite is merely too large
    np.testing.assert_array_equal(env.episodes.last_action, 4.0)
    env.close()


def test_frames_that_do_not_exist_are_refused(task):
    env, single = BatchedTracking(task, worlds=2, threads=1, generator=np.random.default_rng(0)), H1Track(task)
    for wrong in ([0, 500], [-1, 0]):
        with pytest.raises(UserError, match="frames 0 to 499"):
            env.reset_to(np.array(wrong))
    with pytest.raises(UserError, match="3 start frames for 2 robots"):
        env.reset_to(np.array([0, 1, 2]))
    with pytest.raises(UserError, match="frame 9999"):
        single.reset(options={"frame": 9999})
    env.close()


def test_clips_that_are_too_short_or_of_another_robot_are_refused(task):
    with pytest.raises(UserError, match=r"at least 40 valid frames \(0.80 s\)"):
        MotionLibrary([MotionClip(name="short", qpos=task.library.qpos[:39], hz=50.0)], ROBOT, 50.0)
    wide = np.concatenate([task.library.qpos, np.zeros((500, 4))], axis=1)
    with pytest.raises(UserError, match=r"'other' has 23 joints.*19"):
        MotionLibrary([MotionClip(name="other", qpos=wide, hz=50.0)], ROBOT, 50.0)


def test_ppo_of_stable_baselines_trains_on_it(task):
    torch.manual_seed(0)
    env = VecMonitor(BatchedTracking(task, worlds=4, threads=1, generator=np.random.default_rng(0)))
    ppo = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "device": "cpu", "seed": 3}
    model = PPO("MlpPolicy", env, **ppo)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(2 * 4 * 16)
    assert model.num_timesteps == 128 and model._n_updates == 4
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert len(model.ep_info_buffer) and all(info["l"] >= 1 for info in model.ep_info_buffer)
    again = PPO(
        "MlpPolicy", BatchedTracking(task, worlds=4, threads=1, generator=np.random.default_rng(77)), **ppo
    ).learn(2 * 4 * 16)  # the seed reaches the environment as well, whatever its generator was
    for a, b in zip(model.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    env.close()


@pytest.mark.filterwarnings("ignore::UserWarning")  # it recommends symmetric spaces of [-1, 1]
def test_stable_baselines_accepts_a_single_robot(task):
    check_env(H1Track(variant(task, "latent", "torque", Randomisation.heavy())), skip_render_check=True)


def test_wrappers_of_stable_baselines_fit(task):
    inner = BatchedTracking(task, worlds=3, threads=1, generator=np.random.default_rng(0))
    env = VecNormalize(VecMonitor(inner), training=True)
    seen = env.reset()
    assert seen.shape == (3, 151) and seen.dtype == np.float32
    totals = np.zeros(3)
    for count in range(1, 200):
        seen, _, done, infos = env.step(np.random.default_rng(count).normal(0.0, 2.0, (3, 19)))
        totals += env.get_original_reward()
        for row in np.flatnonzero(done):
            assert infos[row]["episode"]["r"] == pytest.approx(totals[row], abs=1e-4)  # VecMonitor sums in float32
            assert infos[row]["terminal_observation"].shape == (151,)
            totals[row] = 0.0
        if count > 3 and done.any():
            break
    assert done.any() and np.abs(seen).max() <= 10.0
    assert env.get_attr("diverged") == [0, 0, 0] and env.get_attr("diverged", [1]) == [0]
    assert len(env.env_method("observe")) == 3 and env.env_is_wrapped(VecMonitor) == [False] * 3
    env.set_attr("diverged", 5)
    assert inner.diverged == 5
    env.close()


def test_seeded_resets_repeat(task):
    env = BatchedTracking(task, worlds=3, threads=1, generator=np.random.default_rng(0))
    first = (env.seed(7), env.reset())[1]
    following = env.reset()
    assert not np.array_equal(first, following)  # one seed counts for one reset
    env.seed(7)
    np.testing.assert_array_equal(env.reset(), first)
    np.testing.assert_array_equal(env.reset(), following)
    env.close()
