"""PPO around the batched environment: returns, normaliser, learning rate, files, exact resume."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from motionlex.controllers import low_level, low_level_setup
from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_config import resolve_config, select_clips
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_policy import LowLevelPolicy, Normaliser, PolicyShape
from motionlex.controllers.ppo import TrackingPPO
from motionlex.controllers.ppo_config import PPOConfig, adapted_rate
from motionlex.data.errors import UserError
from motionlex.data.robots import available_robots, get_robot
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.scripts import train_lowlevel

ROBOT = get_robot("h1")
SHAPE = PolicyShape(observation=151, critic_observation=151, actions=19, action_limit=4.0, hidden=(16, 16))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def flags(folder, **changes):
    return LowLevelFlags(**{"out": folder, "steps": 256, "evaluate": False, "threads": 1, **changes})


class Capture(BaseCallback):
    """Keeps rewards, ends and terminal observations of a rollout."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def _on_step(self):
        terminal = {
            row: (info["terminal_observation"], info["TimeLimit.truncated"])
            for row, info in enumerate(self.locals["infos"])
            if info
        }
        self.steps.append((self.locals["rewards"].copy(), terminal))
        return True


def test_returns_bootstrap_on_truncation_and_not_on_termination():
    task = benchmark_task(50.0)
    task = TrackingTask(ROBOT, task.library, replace(task.config, episode_s=0.2))
    env = BatchedTracking(task, worlds=6, threads=1, generator=np.random.default_rng(0))
    config = PPOConfig(worlds=6, horizon=40, minibatch=60, gamma=0.9, gae_lambda=0.7)
    model = TrackingPPO(env, LowLevelPolicy(SHAPE, task.config), config, torch.Generator().manual_seed(0), "cpu")
    model.policy.network.log_std.data.fill_(1.0)  # wild enough that some episodes are lost
    capture = Capture()
    _, callback = model._setup_learn(1, capture)
    model.collect_rollouts(env, callback, model.rollout_buffer, 40)
    buffer, value = model.rollout_buffer, model.policy.network.value
    with torch.no_grad():
        after = value(torch.as_tensor(model._last_obs)).numpy()
        kinds = set()
        for row in range(6):
            advantage, following = 0.0, after[row]
            for step in reversed(range(40)):
                reward, terminal = capture.steps[step][0][row], capture.steps[step][1].get(row)
                if terminal is not None:
                    kinds.add(terminal[1])
                    advantage = 0.0
                    following = value(torch.as_tensor(terminal[0])[None]).item() if terminal[1] else 0.0
                now = value(torch.as_tensor(buffer.observations[step, row])[None]).item()
                advantage = reward + 0.9 * following - now + 0.9 * 0.7 * advantage
                assert buffer.returns[step, row] == pytest.approx(now + advantage, abs=2e-5)  # float32 buffer
                following = now
    assert kinds == {True, False}  # both ends were met
    env.close()


def test_an_update_ends_amid_a_pass_where_the_policy_has_gone_too_far():
    """The divergence, from the means of the policies before and after, is within bounds before every step."""
    task = benchmark_task(50.0)
    env = BatchedTracking(task, worlds=16, threads=1, generator=np.random.default_rng(0))
    config = PPOConfig(worlds=16, horizon=32, minibatch=64, actor_rate=2e-3, minimum_kl=0.06)  # 8 steps per pass
    torch.manual_seed(0)
    model = TrackingPPO(env, LowLevelPolicy(SHAPE, task.config), config, torch.Generator().manual_seed(0), "cpu")
    network = model.policy.network
    network.log_std.data.fill_(math.log(0.05))
    means, step = [], model.policy.optimizer.step

    def remember():
        with torch.no_grad():
            means.append(network.mean(torch.as_tensor(model.rollout_buffer.observations).flatten(0, 1)))

    model.policy.optimizer.step = lambda: (remember(), step())
    model.learn(16 * 32, log_interval=1 << 30)
    remember()  # with another normaliser, which moves them a little
    env.close()
    apart = [float((mean - means[0]).square().sum(1).mean()) / (2 * 0.05**2) for mean in means]
    assert (len(apart) - 1) % 8  # not at the end of a pass
    assert max(apart[:-1]) < 1.3 * 4 * 0.06 and apart[-1] > 4 * 0.06 / 1.3  # the estimate is of 64 steps
    assert model.statistics["kl_nats"] > 4 * 0.06 and model.actor_rate == pytest.approx(2e-3 / 1.2)


def test_normaliser_equals_numpy_over_batches():
    draw = np.random.default_rng(0)
    parts = [draw.normal(3.0, 2.0, (n, 4)) for n in (7, 1, 50)]
    normaliser = Normaliser(4)
    for part in parts:
        normaliser.update(torch.as_tensor(part))
    together = np.concatenate(parts)
    np.testing.assert_allclose(normaliser.mean, together.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normaliser.variance, together.var(0), rtol=1e-12)
    far = normaliser(torch.full((1, 4), 1e6))
    np.testing.assert_array_equal(far, 8.0)


def test_rate_follows_the_kl():
    bounds = (1e-4, 1e-3)
    assert adapted_rate(5e-4, 0.05, 0.02, bounds) == pytest.approx(5e-4 / 1.2)
    assert adapted_rate(5e-4, 0.009, 0.02, bounds) == pytest.approx(6e-4)
    assert adapted_rate(5e-4, 0.02, 0.02, bounds) == 5e-4
    assert adapted_rate(1e-4, 1.0, 0.02, bounds) == 1e-4 and adapted_rate(1e-3, 0.0, 0.02, bounds) == 1e-3


def test_steps_shrink_with_the_failures_down_to_a_smallest_size():
    config = PPOConfig(target_kl=0.06, minimum_kl=0.01)
    assert [config.kl_target(share) for share in (1.0, 0.5, 0.1, 0.0)] == pytest.approx([0.06, 0.03, 0.01, 0.01])
    constant = PPOConfig(target_kl=0.02, minimum_kl=0.02)
    assert constant.kl_target(0.3) == 0.02
    with pytest.raises(UserError, match="minimum_kl"):
        PPOConfig(target_kl=0.005)


def test_a_cool_down_ends_in_small_steps_and_little_noise():
    config = PPOConfig(
        target_kl=0.08, minimum_kl=0.02, minimum_std=0.2, cooldown=0.25, cooldown_kl=0.005, cooldown_std=0.05
    )
    assert [config.cooled(left) for left in (1.0, 0.25, 0.125, 0.0)] == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert [config.kl_target(0.5, c) for c in (0.0, 0.5, 1.0)] == pytest.approx([0.04, 0.0002**0.5, 0.005])
    bounds = [config.std_bounds(c) for c in (0.0, 0.5, 1.0)]
    assert [low for low, _ in bounds] == pytest.approx([0.2, 0.1, 0.05])
    assert [high for _, high in bounds] == pytest.approx([np.inf, 0.025**0.5, 0.05])
    # What a step of the mean may be at the slowest: it diverges by the KL target at the start and at the end.
    slowest, fastest = zip(*(config.actor_rates(c) for c in (0.0, 1.0)))
    step = 0.2 * math.sqrt(2.0 * 0.02)
    reached = [
        torch.distributions.kl_divergence(
            torch.distributions.Normal(0.0, std), torch.distributions.Normal(step * rate / slowest[0], std)
        ).item()
        for rate, std in zip(slowest, (0.2, 0.05))
    ]
    assert reached == pytest.approx([0.02, 0.005]) and fastest == (5e-4, 5e-4)
    assert PPOConfig().cooled(0.0) == 0.0 and PPOConfig().actor_rates(0.0) == (1e-5, 5e-4)  # none unless asked for
    with pytest.raises(UserError, match="cooldown_kl"):
        PPOConfig(minimum_kl=0.002, cooldown=0.5)


def test_a_saved_policy_acts_the_same_and_damage_is_refused(tmp_path):
    torch.manual_seed(0)
    policy = LowLevelPolicy(SHAPE, TaskConfig(randomisation=Randomisation.heavy()))
    policy.normaliser.update(torch.randn(100, 151))
    policy.save(tmp_path)
    loaded = LowLevelPolicy.load(tmp_path)
    seen = np.random.default_rng(0).normal(size=(3, 151))
    np.testing.assert_array_equal(loaded.act(seen), policy.act(seen))
    assert loaded.task == policy.task and loaded.shape == policy.shape
    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(data[:-8])
    with pytest.raises(UserError, match="damaged"):
        LowLevelPolicy.load(tmp_path)


def test_latent_policy_feels_every_code_but_never_trains_the_embedding():
    torch.manual_seed(0)
    shape = PolicyShape(
        observation=128, critic_observation=128 + 151, actions=19, action_limit=4.0, hidden=(16,), tokens=64,
        vocabulary=32, code_width=8,
    )  # fmt: skip
    policy = LowLevelPolicy(shape, TaskConfig(goal="latent"))
    policy.set_codebook(torch.randn(32, 8))
    torch.nn.init.normal_(policy.actor[-1].weight)
    seen = torch.randn(1, 279)
    seen[:, :64] = 5.0
    base = policy.mean(seen)
    for token in range(64):
        other = seen.clone()
        other[0, token] = 6.0
        assert not torch.equal(policy.mean(other), base)
    np.testing.assert_allclose(policy.act(seen[:, :128].numpy()), policy.act(seen.numpy()), atol=1e-6)
    assert "codes.embedding" not in dict(policy.named_parameters())


def test_a_run_that_cools_down_ends_with_the_noise_that_was_asked_for(tmp_path, small_training):
    cool = ("cooldown=0.5", "cooldown_std=0.04", "cooldown_kl=0.003")
    metrics = train_low_level(flags(tmp_path / "cool", set=cool))
    train_low_level(flags(tmp_path / "warm"))
    noise = {name: LowLevelPolicy.load(tmp_path / name).log_std.exp() for name in ("cool", "warm")}
    np.testing.assert_allclose(noise["cool"].detach(), 0.04, rtol=1e-5)
    assert metrics["action_std"] == pytest.approx(0.04, rel=1e-5) and noise["warm"].min() > 0.3


def test_result_and_run_folder(tmp_path, small_training):
    result = train_low_level(flags(tmp_path / "run", evaluate=True))
    for key in ("run", "steps", "seconds", "seconds_per_step", "success_rate", "mean_survival_s", "joint_error_rad"):
        assert key in result
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "meta.json", "weights.safetensors", "policy.json", "training_state.pt"} <= names
    # The run's own time, not the length of the rollouts that evaluate it.
    assert result["seconds"] / 256 == pytest.approx(result["seconds_per_step"])
    assert all(isinstance(value, str | int | float) for value in result.values())
    assert low_level_setup.load_low_level_config(tmp_path / "run").steps == 256


def test_weights_of_another_run_are_the_start(tmp_path, small_training):
    train_low_level(flags(tmp_path / "first"))
    config = resolve_config(flags(tmp_path / "second", init=tmp_path / "first"))
    library, _ = low_level_setup.load_library(config)
    task, codebook = low_level_setup.build_task(config, library, "cpu")
    policy = low_level_setup.build_policy(config, task, codebook)
    first = LowLevelPolicy.load(tmp_path / "first")
    seen = np.random.default_rng(0).normal(size=(2, 151))
    np.testing.assert_array_equal(policy.act(seen), first.act(seen))


def built(config, init=None):
    """The initial policy of a run and its codebook."""
    library, _ = low_level_setup.load_library(config)
    task, codebook = low_level_setup.build_task(config, library, "cpu")
    return low_level_setup.build_policy(
        replace(config, init=None if init is None else str(init)), task, codebook
    ), codebook


def test_weights_of_another_run_leave_the_new_codebook(tmp_path, small_training, tiny_vae_run):
    config = resolve_config(flags(tmp_path / "new", goal="latent", vae=tiny_vae_run, code_draws=1))
    first, codebook = built(config)
    first.set_codebook(codebook.flip(0) ** 3)
    torch.nn.init.normal_(first.actor[-1].weight)
    first.save(tmp_path / "old")
    second, _ = built(config, tmp_path / "old")
    torch.testing.assert_close(second.codes.embedding, codebook / codebook.std(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second.actor[-1].weight, first.actor[-1].weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hz": 25.0}, "hz is 25.0 there and 50.0 here"),
        ({"control": "torque"}, "control is torque there and pd here"),
        ({"ahead": (2, 8)}, r"ahead is \(2, 8\) there and \(1, 8\) here"),
        ({"residual_scale": 0.5}, "residual_scale is 0.5 there and 0.3 here"),
        ({"action_limit": 2.0}, "action_limit is 2.0 there and 4.0 here"),
        ({"goal": "latent"}, "goal is latent there and reference or decoded here"),
    ],
)
def test_weights_of_another_task_are_refused(tmp_path, small_training, changes, match):
    config = resolve_config(flags(tmp_path / "new"))
    policy, _ = built(config)
    policy.task = replace(policy.task, **changes)
    policy.save(tmp_path / "old")
    with pytest.raises(UserError, match=match):
        built(config, tmp_path / "old")


def test_a_decoded_run_may_start_from_a_reference_one(tmp_path, small_training):
    config = resolve_config(flags(tmp_path / "new"))
    policy, _ = built(config)
    # Same layout; what the reference goal does not use, and rewards, may differ.
    policy.task = replace(policy.task, goal="decoded", absolute_scale=0.1, reward="beyond_mimic", episode_s=3.0)
    policy.save(tmp_path / "old")
    built(config, tmp_path / "old")


def test_a_teacher_that_does_not_fit_is_found_before_the_run_folder_is_made(tmp_path, small_training, tiny_vae_run):
    train_low_level(flags(tmp_path / "teacher", steps=64, control="torque"))
    latent = {"goal": "latent", "vae": tiny_vae_run, "code_draws": 1, "teacher": tmp_path / "teacher"}
    with pytest.raises(UserError, match=r"at 50.0 Hz, pd.* got goal reference at 50.0 Hz, torque"):
        train_low_level(flags(tmp_path / "run", **latent))
    assert not (tmp_path / "run").exists()


def test_scores_count_the_time_of_the_imitation(tmp_path, small_training, tiny_vae_run, monkeypatch):
    train_low_level(flags(tmp_path / "teacher", steps=64))
    monkeypatch.setattr(low_level, "Scorer", lambda *_: lambda _: {"success_rate": 0.0})
    latent = {"goal": "latent", "vae": tiny_vae_run, "code_draws": 1, "teacher": tmp_path / "teacher"}
    train_low_level(flags(tmp_path / "run", steps=192, distill_steps=128, evaluate_every=64, **latent))
    imitation = json.loads((tmp_path / "run" / "imitation.json").read_text())
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert imitation["seconds"] > 0.0
    assert all(imitation["seconds"] < score["seconds"] < meta["seconds"] for score in meta["scores"])
    assert meta["seconds"] == pytest.approx(imitation["seconds"] + meta["seconds_this_session"], abs=1e-9)


def test_clips_are_cut_in_seconds(toy_clips):
    (part,) = select_clips(toy_clips, ("a:1-2",))
    np.testing.assert_array_equal(part.qpos, toy_clips[0].qpos[50:101])
    for wrong in ("c", "a:5", "a:2-1", "a:0-99"):
        with pytest.raises(UserError):
            select_clips(toy_clips, (wrong,))


def test_a_training_that_meets_nan_goes_on_and_counts_it(tmp_path, small_training, monkeypatch):
    simulate, seen = BatchedTracking.simulate, []

    def broken(env, ctrl):
        if len(seen) == 5:
            env.state[1, 30] = np.nan
        applied = simulate(env, ctrl)
        seen.append((env, np.isnan(env.state).any(axis=1)))
        return applied

    monkeypatch.setattr(BatchedTracking, "simulate", broken)
    step, alive = BatchedTracking.step_wait, []
    monkeypatch.setattr(
        BatchedTracking, "step_wait", lambda env: (step(env), alive.append((env.steps.copy(), env.state.copy())))[0]
    )
    result = train_low_level(flags(tmp_path / "run"))
    assert [bad.tolist() for _, bad in seen[4:7]] == [[False] * 4, [False, True, False, False], [False] * 4]
    assert alive[5][0][1] == 0 and np.isfinite(alive[5][1]).all()  # that world starts anew at once
    assert result["steps"] == 256 and result["diverged_worlds"] == 1
    assert json.loads((tmp_path / "run" / "meta.json").read_text())["diverged_worlds"] == 1
    trained = LowLevelPolicy.load(tmp_path / "run")
    assert all(torch.isfinite(parameter).all() for parameter in trained.parameters())


def test_an_unknown_robot_is_answered_by_those_there_are(tmp_path, capsys):
    assert train_lowlevel.main(["--env", "h2", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "unknown robot 'h2'" in error and f"Available: {', '.join(available_robots())}" in error
    assert "h1" in available_robots()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--env", "h2"],
        ["--goal", "latent"],
        ["--goal", "decoded"],
        ["--data", "nothing"],
        ["--steps", "-3"],
        ["--device", "abacus"],
        ["--resume", "no/such/run"],
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(arguments, tmp_path, capsys):
    out = [] if "--resume" in arguments else ["--out", str(tmp_path / "run")]
    assert train_lowlevel.main([*arguments, *out]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("train_lowlevel: error:")
    assert not list(tmp_path.iterdir())
