"""Training on MuJoCo Warp: our policy under rsl_rl's PPO, files, resume, several ranks; on Warp's CPU device."""

import builtins
import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from motionlex.controllers import low_level_config, low_level_setup
from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_config import resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.controllers.low_level_setup import load_low_level_config
from motionlex.controllers.ppo_config import PPOConfig
from motionlex.data.errors import UserError
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.task_config import TaskConfig
from motionlex.motion_vae.checkpoint import read_json
from motionlex.scripts import train_lowlevel

MISSING = "the extra [warp] is not installed"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def small(monkeypatch, toy_dataset):
    """Toy motions behind the name builtin, and a recipe of a few updates."""
    monkeypatch.setattr(low_level_setup, "load_dataset", toy_dataset)
    base = low_level_config.on_many_worlds
    recipe = PPOConfig(worlds=6, horizon=8, minibatch=24, epochs=2)
    monkeypatch.setattr(
        low_level_config, "on_many_worlds", lambda config: replace(base(config), hidden=(16, 16), ppo=recipe)
    )


def flags(folder, **changes):
    chosen = {"out": folder, "steps": 144, "evaluate": False, "threads": 1, "backend": "warp", **changes}
    return LowLevelFlags(**chosen)


def latent_policy(*, privileged):
    shape = PolicyShape(
        observation=128, critic_observation=128 + 151 * privileged, actions=19, action_limit=4.0, hidden=(16,),
        tokens=64, vocabulary=32, code_width=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = LowLevelPolicy(shape, TaskConfig(goal="latent"))
        policy.set_codebook(torch.randn(32, 8))
    return policy


@pytest.mark.parametrize("privileged", [True, False])
def test_actor_and_critic_share_out_all_parameters(privileged):
    models = pytest.importorskip("motionlex.controllers.warp_models", reason=MISSING)
    policy = latent_policy(privileged=privileged)
    parts = [*models.WarpActor(policy).parameters(), *models.WarpCritic(policy).parameters()]
    assert len({id(p) for p in parts}) == len(parts)
    assert {id(p) for p in parts} == {id(p) for p in policy.parameters()}


def test_distribution_is_a_diagonal_gaussian():
    models = pytest.importorskip("motionlex.controllers.warp_models", reason=MISSING)
    from tensordict import TensorDict

    policy = latent_policy(privileged=True)
    actor, critic = models.WarpActor(policy), models.WarpCritic(policy)
    seen = torch.cat((torch.full((5, 64), 3.0), torch.linspace(-1, 1, 5 * 215).reshape(5, 215)), dim=1)
    observations = TensorDict({"policy": seen[:, :128], "critic": seen}, batch_size=[5])
    policy.log_std.data.copy_(torch.linspace(-1.0, 0.5, 19))
    action = actor(observations, stochastic_output=True)
    mean, std = policy.mean(seen).double(), policy.log_std.double().exp()
    torch.testing.assert_close(actor(observations), mean.float())
    torch.testing.assert_close(critic(observations)[:, 0], policy.value(seen))
    z = (action.double() - mean) / std
    log_prob = (-0.5 * z**2 - std.log() - 0.5 * np.log(2 * np.pi)).sum(-1)
    torch.testing.assert_close(actor.get_output_log_prob(action).double(), log_prob, rtol=1e-5, atol=1e-4)
    entropy = (0.5 * np.log(2 * np.pi * np.e) + std.log()).sum()
    torch.testing.assert_close(actor.output_entropy.double(), entropy.expand(5), rtol=1e-5, atol=1e-5)
    old = mean + 0.3, 0.5 * std.expand_as(mean)
    kl = (std.log() - old[1].log() + (old[1] ** 2 + 0.09) / (2 * std**2) - 0.5).sum(-1)
    torch.testing.assert_close(actor.get_kl_divergence(old, (mean, std.expand_as(mean))), kl)
    draws = torch.stack([actor(observations, stochastic_output=True) for _ in range(2000)]).double()
    assert ((draws.mean(0) - mean).abs() < 5 * std / np.sqrt(2000)).all()
    assert (draws.std(0) / std - 1).abs().max() < 0.08  # five standard errors of 1.6 %


def test_learning_rate_stays_inside_its_bounds():
    trainer = pytest.importorskip("motionlex.controllers.warp_trainer", reason=MISSING)
    algorithm = object.__new__(trainer.BoundedPPO)
    algorithm.learning_rate = 5.0
    assert algorithm.learning_rate == 5.0
    algorithm.rate_bounds = (1e-4, 1e-3)
    for wanted, kept in ((5.0, 1e-3), (1e-9, 1e-4), (2e-4, 2e-4)):
        algorithm.learning_rate = wanted
        assert algorithm.learning_rate == kept


def test_run_folder_is_that_of_the_cpu(tmp_path, small):
    pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    result = train_low_level(flags(tmp_path / "run", evaluate=True, device="cpu"))
    assert result["steps"] == 144  # three updates of 48
    for key in (
        "run",
        "seconds",
        "seconds_per_step",
        "success_rate",
        "joint_error_rad",
        "kl_nats",
        "overflowed_worlds",
    ):
        assert key in result
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "meta.json", "weights.safetensors", "policy.json", "training_state.pt"} <= names
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    policy, config = LowLevelPolicy.load(tmp_path / "run"), load_low_level_config(tmp_path / "run")
    assert config.backend == "warp" and policy.task == config.task
    assert policy.normaliser.count == 144 and np.abs(policy.act(np.zeros((1, 151)))).max() <= 4.0
    meta = read_json(tmp_path / "run" / "meta.json")
    assert meta["steps"] == 144 and {"warp-lang", "mujoco-warp", "rsl-rl-lib"} == set(meta["warp_versions"])


def test_a_run_that_cools_down_ends_with_the_noise_that_was_asked_for(tmp_path, small):
    training = pytest.importorskip("motionlex.controllers.warp_trainer", reason=MISSING)
    wanted, improve = [], training.WarpTrainer.improve

    def watched(trainer, total):
        improve(trainer, total)
        wanted.append(trainer.algorithm.desired_kl)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.WarpTrainer, "improve", watched)
        train_low_level(flags(tmp_path / "run", set=("cooldown=0.5", "cooldown_std=0.04", "cooldown_kl=0.003")))
    np.testing.assert_allclose(LowLevelPolicy.load(tmp_path / "run").log_std.detach().exp(), 0.04, rtol=1e-5)
    assert wanted[0] == 0.06 and wanted[-1] == pytest.approx(0.003)  # the recipe's own target, then the cool-down's


def test_a_run_saves_the_mean_of_its_weights(tmp_path, small):
    training = pytest.importorskip("motionlex.controllers.warp_trainer", reason=MISSING)
    seen, improve = [], training.WarpTrainer.improve

    def watched(trainer, total):
        improve(trainer, total)
        seen.append(trainer.policy.network.actor[0].weight.detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.WarpTrainer, "improve", watched)
        train_low_level(flags(tmp_path / "run", set=("average=1",)))
    assert len(seen) == 3 and not torch.equal(seen[0], seen[2])
    saved = LowLevelPolicy.load(tmp_path / "run").actor[0].weight
    np.testing.assert_allclose(saved.detach(), sum(seen) / 3, atol=1e-6)


def test_resume_gives_the_same_bits_and_leaves_global_generators_alone(tmp_path, small):
    pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    before = torch.get_rng_state()
    train_low_level(flags(tmp_path / "whole", steps=192))
    assert torch.equal(before, torch.get_rng_state())
    train_low_level(flags(tmp_path / "broken", steps=96))
    again = LowLevelFlags(resume=tmp_path / "broken", steps=192, evaluate=False, threads=1)
    assert train_low_level(again)["steps"] == 192
    whole, broken = (tmp_path / name / "weights.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
    with pytest.raises(UserError, match="done already"):
        train_low_level(again)


@pytest.mark.parametrize(("update", "steps"), [(1, 48), (4, 192)])
def test_an_interrupted_run_is_saved_between_two_updates(tmp_path, small, monkeypatch, own_interrupts, update, steps):
    training = pytest.importorskip("motionlex.controllers.warp_trainer", reason=MISSING)
    train_low_level(flags(tmp_path / "whole", steps=240))
    improve = training.WarpTrainer.improve

    def interrupted(trainer, total):
        if trainer.updates == update - 1:
            signal.raise_signal(signal.SIGTERM)
        improve(trainer, total)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.WarpTrainer, "improve", interrupted)
        train_low_level(flags(tmp_path / "broken", steps=192, evaluate=True))
    assert read_json(tmp_path / "broken" / "meta.json")["steps"] == steps
    assert not (tmp_path / "broken" / "evaluation.json").exists()
    train_low_level(LowLevelFlags(resume=tmp_path / "broken", steps=240, evaluate=False, threads=1))
    whole, broken = (tmp_path / name / "weights.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_robots_that_differ_are_trained_on_and_resumed(tmp_path, small):
    pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    train_low_level(flags(tmp_path / "whole", steps=96, randomise="heavy"))
    train_low_level(flags(tmp_path / "broken", steps=48, randomise="heavy"))
    saved = torch.load(tmp_path / "broken" / "training_state.pt", weights_only=True)["ranks"][0]["env"]
    assert saved["drawn_mass"].shape == (6, 21) and len(saved["drawn_mass"].unique()) == 126
    again = LowLevelFlags(resume=tmp_path / "broken", steps=96, evaluate=False, threads=1)
    assert train_low_level(again)["steps"] == 96
    whole, broken = (tmp_path / name / "weights.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
    assert load_low_level_config(tmp_path / "broken").task.randomisation == Randomisation.heavy()


def test_codes_and_the_privileged_critic_train_and_the_codebook_does_not(tmp_path, small, tiny_vae_run):
    pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    chosen = flags(tmp_path / "run", goal="latent", vae=tiny_vae_run)
    config = resolve_config(chosen)
    library, _ = low_level_setup.load_library(config)
    task, codebook = low_level_setup.build_task(config, library, "cpu", draws=config.code_draws)
    fresh = low_level_setup.build_policy(config, task, codebook)
    train_low_level(chosen)
    trained = LowLevelPolicy.load(tmp_path / "run")
    torch.testing.assert_close(trained.codes.embedding, fresh.codes.embedding, rtol=0, atol=0)
    for name, parameter in fresh.named_parameters():
        assert not torch.equal(dict(trained.named_parameters())[name], parameter), f"{name} did not learn"


def test_two_processes_share_the_robots_and_hold_one_policy(tmp_path, capsys):
    pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    chosen = (
        "--backend warp --processes 2 --worlds 4 --steps 64 --clips walk_forward_2 --no-evaluate --json --threads 1"
    )
    recipe = "--set horizon=8 minibatch=16 epochs=1"
    code = train_lowlevel.main([*chosen.split(), "--out", str(tmp_path / "run"), *recipe.split()])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    result = json.loads(printed.out.strip().splitlines()[-1])
    assert result["processes"] == 2 and result["steps"] == 64
    state = torch.load(tmp_path / "run" / "training_state.pt", weights_only=True)
    first, second = (rank["env"] for rank in state["ranks"])
    assert first["qpos"].shape == (2, 26) and not torch.equal(first["qpos"], second["qpos"])
    torch.testing.assert_close(first["failure"], second["failure"], rtol=0, atol=0)
    assert LowLevelPolicy.load(tmp_path / "run").normaliser.count == 64


def test_recipe_for_many_worlds_can_be_changed_by_name():
    config = resolve_config(LowLevelFlags(backend="warp"))
    assert (config.backend, config.ppo.worlds, config.ppo.target_kl) == ("warp", 4096, 0.01)
    settings = ("horizon=16", "contacts=40", "entropy=0.01")
    changed = resolve_config(LowLevelFlags(backend="warp", worlds=64, set=settings))
    assert (changed.ppo.worlds, changed.ppo.horizon, changed.ppo.entropy) == (64, 16, 0.01)
    assert changed.buffers.contacts == 40
    assert resolve_config(LowLevelFlags()).ppo == PPOConfig()
    assert resolve_config(LowLevelFlags(backend="warp", set=("rate_bounds=0.0001,0.001",))).ppo.rate_bounds[0] == 1e-4
    with pytest.raises(UserError, match=r"rsl_rl keeps the rate within 1e-05 and 0\.01"):
        resolve_config(LowLevelFlags(backend="warp", set=("rate_bounds=0.000001,0.001",)))


def test_what_reached_the_target_is_trained_no_further(tmp_path, small, monkeypatch):
    training = pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    monkeypatch.setattr(training, "Scorer", lambda *_: lambda _: {"success_rate": 1.0})
    result = train_low_level(flags(tmp_path / "run", steps=48 * 6, evaluate_every=48, target_success=0.9))
    scores = read_json(tmp_path / "run/meta.json")["scores"]
    assert [score["steps"] for score in scores] == [48.0, 96.0, 144.0] and result["steps"] == 144


def test_simulation_and_exploration_of_every_process_draw_their_own_numbers(small, tmp_path, monkeypatch):
    training = pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    first = {}
    for rank in (0, 1):
        monkeypatch.setattr(training.distributed, "rank", lambda rank=rank: rank)
        _, trainer, _ = training._prepare(resolve_config(flags(tmp_path / "run")), "cpu", None)
        with torch.random.fork_rng(devices=[]):
            trainer.start_randomness()
            first[f"exploration {rank}"] = torch.randn(1).item()
        generator = torch.Generator().manual_seed(trainer.env.generator.initial_seed())
        first[f"environment {rank}"] = torch.randn(1, generator=generator).item()
    assert len(set(first.values())) == 4


@pytest.mark.parametrize("changes", [{"minibatch": 1}, {"worlds": 1, "horizon": 1, "minibatch": 8}])
def test_mini_batches_without_spread_are_refused(small, tmp_path, monkeypatch, changes):
    pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    given = flags(tmp_path / "run", set=tuple(f"{n}={v}" for n, v in changes.items() if n != "worlds"))
    with pytest.raises(UserError, match="leaves less than two to each of 1 process"):
        train_low_level(replace(given, worlds=changes.get("worlds")))
    assert not list(tmp_path.iterdir())


def test_resume_refuses_another_backend_or_size(tmp_path, small):
    pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    train_low_level(flags(tmp_path / "run", steps=48))
    with pytest.raises(UserError, match="--worlds is fixed when a run is created"):
        train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=96, worlds=12, threads=1))


def test_missing_packages_are_named(tmp_path, monkeypatch, small):
    real = builtins.__import__

    def without(name, *rest):
        if name.endswith("warp_training"):
            raise ModuleNotFoundError("No module named 'mujoco_warp'", name="mujoco_warp")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="needs the package mujoco_warp: install motionlex with its extra 'warp'"):
        train_low_level(flags(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_a_teacher_is_refused(tmp_path, small, tiny_vae_run):
    pytest.importorskip("motionlex.controllers.warp_training", reason=MISSING)
    with pytest.raises(UserError, match="--teacher needs --backend cpu"):
        train_low_level(flags(tmp_path / "run", goal="latent", vae=tiny_vae_run, teacher=tmp_path))
    assert not list(tmp_path.iterdir())


def test_float32_means_float32_on_a_gpu_and_tf32_is_what_nobody_chose():
    warp_trainer = pytest.importorskip("motionlex.controllers.warp_trainer", reason=MISSING)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    found = {precision: warp_trainer.update_arithmetic(precision, gpu) for precision in ("auto", "float32", "bf16")}
    assert found == {"auto": "tf32", "float32": "float32", "bf16": "tf32"}
    assert warp_trainer.update_arithmetic("auto", cpu) == "float32"
