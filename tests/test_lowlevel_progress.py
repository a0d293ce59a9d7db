"""How a low-level run is set up, scored and ended: settings by name, an end at a target."""

import itertools
import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from motionlex.controllers import low_level, low_level_scores, low_level_setup
from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_config import LowLevelConfig, resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.controllers.low_level_resume import progress_plan
from motionlex.controllers.low_level_seeds import seed_of, torch_seed_of
from motionlex.controllers.ppo import TrackingActorCritic, TrackingPPO
from motionlex.controllers.ppo_config import PPOConfig
from motionlex.data.errors import UserError
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.task_config import TaskConfig


@pytest.fixture
def small(monkeypatch, toy_dataset):
    """Toy motions behind the name builtin."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(low_level_setup, "load_dataset", toy_dataset)


SHAPE = PolicyShape(observation=151, critic_observation=151, actions=19, action_limit=4.0, hidden=(16, 16))
SIZES = ("hidden=16,16", "horizon=8", "minibatch=32", "epochs=1")


@pytest.mark.parametrize(
    ("rates", "scored"),
    [((1.0, 1.0, 1.0, 1.0, 1.0), 3), ((1.0, 0.9, 1.0, 0.96, 0.95, 1.0), 5), ((0.9,) * 8, 8)],
)
def test_training_ends_once_the_target_was_reached_three_times_in_a_row(small, monkeypatch, tmp_path, rates, scored):
    found = iter(rates)
    monkeypatch.setattr(low_level, "Scorer", lambda *_: lambda _: {"success_rate": next(found)})
    result = train_low_level(
        LowLevelFlags(
            out=tmp_path / "run", worlds=4, steps=8 * 64 + 32, evaluate_every=64, target_success=0.95, set=SIZES,
            evaluate=False,
        )
    )  # fmt: skip
    scores = json.loads((tmp_path / "run/meta.json").read_text())["scores"]
    assert [score["evaluation/success_rate"] for score in scores] == list(rates[:scored])
    assert [score["steps"] for score in scores] == [64.0 * (i + 1) for i in range(scored)]
    stopped = 64 * scored + 4  # the first step after the score sees the end
    assert result["steps"] == (stopped if scored < len(rates) else 8 * 64 + 32)


def test_a_resumed_run_is_scored_and_ended_as_before(small, monkeypatch, tmp_path):
    monkeypatch.setattr(low_level, "Scorer", lambda *_: lambda _: {"success_rate": 1.0})
    plain = {"evaluate": False, "threads": 1}
    train_low_level(
        LowLevelFlags(
            out=tmp_path / "run", worlds=4, steps=160, evaluate_every=64, target_success=0.95, set=SIZES, **plain
        )
    )
    again = train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=640, **plain))
    meta = json.loads((tmp_path / "run/meta.json").read_text())
    assert [score["steps"] for score in meta["scores"]] == [64.0, 128.0, 192.0]
    assert again["steps"] == 196  # ended at the third score
    assert (meta["evaluate_every"], meta["target_success"]) == (64, 0.95)
    more = train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=320, evaluate_every=0, **plain))
    assert more["steps"] >= 320  # no scores, no early end


@pytest.mark.parametrize(
    ("given", "steps", "every"),
    [
        ({}, 3_000_000, 250_000),
        ({}, 40_000_000, 2_000_000),  # a twentieth
        ({}, 64, 250_000),  # never on the way
        ({"evaluate_every": 0}, 40_000_000, 0),
        ({"evaluate_every": 5000}, 40_000_000, 5000),
        ({"target_success": 0.9}, 40_000_000, 150_000),
    ],
)
def test_new_runs_are_scored_now_and_then(given, steps, every):
    config = LowLevelConfig(steps=steps)
    plan, meta = progress_plan(LowLevelFlags(**given), config, {})
    assert plan.evaluate_every == every and (meta["evaluate_every"] or 0) == every


@pytest.mark.parametrize(("had", "every"), [({}, 0), ({"evaluate_every": None}, 0), ({"evaluate_every": 7000}, 7000)])
def test_resumed_runs_are_scored_as_they_were(tmp_path, had, every):
    config = LowLevelConfig(steps=40_000_000)
    plan, _ = progress_plan(LowLevelFlags(resume=tmp_path), config, had)
    assert plan.evaluate_every == every
    assert progress_plan(LowLevelFlags(resume=tmp_path, evaluate_every=9000), config, had)[0].evaluate_every == 9000


def test_a_target_is_never_without_scores(tmp_path, small):
    config, resumed = LowLevelConfig(steps=40_000_000), {"resume": tmp_path}
    plan, _ = progress_plan(LowLevelFlags(**resumed, target_success=0.9), config, {"evaluate_every": 0})
    assert plan.evaluate_every == 150_000
    plan, _ = progress_plan(LowLevelFlags(**resumed, evaluate_every=0), config, {"target_success": 0.9})
    assert plan.evaluate_every == 0  # who asks for none now gets none
    with pytest.raises(UserError, match="--target-success is found by scoring"):
        train_low_level(LowLevelFlags(out=tmp_path / "run", target_success=0.9, evaluate_every=0))


def test_a_score_of_which_nothing_survived_is_saved(small, monkeypatch, tmp_path):
    nothing = {"success_rate": 0.0, "keypoint_error_local_mm": math.nan}
    monkeypatch.setattr(low_level, "Scorer", lambda *_: lambda _: nothing)
    folder = tmp_path / "run"
    more = {"evaluate_every": 64, "evaluate": False, "threads": 1}
    train_low_level(LowLevelFlags(out=folder, worlds=4, steps=96, set=SIZES, **more))
    assert json.loads((folder / "meta.json").read_text())["scores"][0]["evaluation/keypoint_error_local_mm"] is None
    assert train_low_level(LowLevelFlags(resume=folder, steps=160, **more))["steps"] == 160


def test_scores_on_the_way_leave_the_training_as_it_is(small, monkeypatch, tmp_path):
    quick = low_level_scores.quick_score
    monkeypatch.setattr(
        low_level_scores, "quick_score", lambda *a, **k: quick(*a, **{**k, "episodes": 2, "seconds": 0.2})
    )
    for name, every in (("scored", 64), ("plain", 0)):
        train_low_level(
            LowLevelFlags(
                out=tmp_path / name, worlds=4, steps=192, evaluate_every=every, set=SIZES, evaluate=False, threads=1
            )
        )
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("scored", "plain")]
    assert weights[0] == weights[1]
    scores = json.loads((tmp_path / "scored/meta.json").read_text())["scores"]
    assert len(scores) == 2 and {"evaluation/success_rate", "evaluation/keypoint_error_local_mm"} <= scores[0].keys()


def test_seconds_of_scores_go_on_over_breaks(small, monkeypatch, tmp_path):
    """A clock that moves by one second whenever it is asked: later scores are later, across sessions."""
    monkeypatch.setattr(low_level, "Scorer", lambda *_: lambda _: {"success_rate": 0.0})
    clock = itertools.count(1000.0)
    monkeypatch.setattr("motionlex.controllers.low_level_state.time.perf_counter", lambda: next(clock))
    plain = {"evaluate": False, "threads": 1}
    train_low_level(LowLevelFlags(out=tmp_path / "run", worlds=4, steps=160, evaluate_every=64, set=SIZES, **plain))
    told = json.loads((tmp_path / "run/meta.json").read_text())
    train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=320, **plain))
    after = json.loads((tmp_path / "run/meta.json").read_text())
    seconds = [score["seconds"] for score in after["scores"]]
    assert len(seconds) == 4 and seconds == sorted(seconds) and seconds[:2] == [s["seconds"] for s in told["scores"]]
    assert seconds[2] > told["seconds"] and after["seconds"] > seconds[-1]
    assert after["seconds"] == told["seconds"] + after["seconds_this_session"]


def test_streams_of_seeds_purposes_and_ranks_never_meet():
    drawn = {}
    for seed, purpose, rank in itertools.product((0, 1, 7919, 2 * 7919), ("environment", "exploration"), range(3)):
        numbers = np.random.default_rng(seed_of(seed, purpose, rank)).random(4)
        noise = torch.randn(4, generator=torch.Generator().manual_seed(torch_seed_of(seed, purpose, rank)))
        drawn[seed, purpose, rank] = (*numbers.tolist(), *noise.tolist())
    assert len({values[0] for values in drawn.values()}) == len(drawn)
    assert len({values[4] for values in drawn.values()}) == len(drawn)
    assert torch_seed_of(5, "exploration", 1) == torch_seed_of(5, "exploration", 1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"clip": -0.2}, "clip must be positive, got -0.2"),
        ({"entropy": -1.0}, "entropy must be at least 0"),
        ({"rate_bounds": (1e-3, 1e-4)}, "two rising positive rates"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(changes, match):
    with pytest.raises(UserError, match=match):
        PPOConfig(**changes)


def test_a_mini_batch_is_shared_by_processes():
    assert [PPOConfig(minibatch=8).minibatch_of(ranks) for ranks in (1, 2, 3, 8)] == [8, 4, 2, 1]
    with pytest.raises(UserError, match="9 processes share every mini-batch of 8 steps: give --set minibatch=9"):
        PPOConfig(minibatch=8).minibatch_of(9)


@pytest.mark.parametrize("minibatch", [1, 11])
def test_a_mini_batch_of_one_step_keeps_the_weights_finite(minibatch):
    task = benchmark_task(50.0)
    env = BatchedTracking(task, worlds=4, threads=1, generator=np.random.default_rng(0))
    policy = LowLevelPolicy(SHAPE, task.config)
    config = PPOConfig(worlds=4, horizon=3, minibatch=minibatch, epochs=1)  # 12 steps: 11 and a remainder of 1
    model = TrackingPPO(env, policy, config, torch.Generator().manual_seed(0), "cpu")
    model.learn(12, log_interval=1 << 30)
    env.close()
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())
    assert all(np.isfinite(value) for value in model.statistics.values())


def test_noise_is_drawn_where_the_generator_is_and_moved(monkeypatch):
    """The generator stays on the CPU when the networks are elsewhere, as under --device cuda."""
    policy = LowLevelPolicy(SHAPE, TaskConfig()).to("meta")
    drawn = []
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: drawn.append(randn(*a, **k)) or drawn[-1])
    space = spaces.Box(-1.0, 1.0, (151,), np.float32), spaces.Box(-4.0, 4.0, (19,), np.float32)
    actor = TrackingActorCritic(*space, lambda _: 1e-3, network=policy, generator=torch.Generator())
    actions, values, log_prob = actor(torch.zeros(3, 151, device="meta"))
    assert drawn[-1].device.type == "cpu" and drawn[-1].shape == (3, 19)
    assert {actions.device.type, values.device.type, log_prob.device.type} == {"meta"}


def test_settings_are_found_by_name_or_by_path():
    config = resolve_config(LowLevelFlags(set=("horizon=8", "noise.joint=0.01", "weights.joint=0.5", "hidden=64,32")))
    assert config.ppo.horizon == 8 and config.hidden == (64, 32)
    assert config.task.noise.joint == 0.01 and config.task.weights.joint == 0.5
    with pytest.raises(UserError, match=r"several.*noise\.joint"):
        resolve_config(LowLevelFlags(set=("joint=0.1",)))
    with pytest.raises(UserError, match="horizon"):
        resolve_config(LowLevelFlags(set=("horizn=8",)))
    with pytest.raises(UserError, match="epochs"):
        resolve_config(LowLevelFlags(set=("epochs=0",)))


def test_settings_win_over_what_flags_leave_to_the_preset(tmp_path):
    config = resolve_config(
        LowLevelFlags(
            init=tmp_path, randomise="light", set=("actor_rate=2e-5", "friction=0.2,1.8", "push_interval_s=7")
        )
    )
    assert config.ppo.actor_rate == 2e-5
    assert config.task.randomisation.friction == (0.2, 1.8) and config.task.randomisation.push_interval_s == 7.0
    assert config.task.randomisation.mass == (0.9, 1.1)  # of the preset
    assert resolve_config(LowLevelFlags(init=tmp_path)).ppo.actor_rate == 1.5e-4


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ("reward=beyond_mimic", "--reward"),
        ("seed=3", "--seed"),
        ("prepare=true", "--prepare"),
        ("goal=latent", "--goal"),
        ("worlds=8", "--worlds"),
        ("ppo.worlds=8", "--worlds"),
        ("push_speed=1", "--push"),
        ("robot=h2", "--env"),
        ("distill_steps=5", "--distill-steps"),
    ],
)
def test_settings_that_have_a_flag_name_it(setting, flag):
    with pytest.raises(UserError, match=f"use {flag}$"):
        resolve_config(LowLevelFlags(set=(setting,)))


def test_every_setting_that_a_flag_decides_is_refused():
    """Whatever a flag of the same name can change in the configuration is nothing for --set."""
    saved = {item.name for item in fields(LowLevelConfig)} | {item.name for item in fields(TaskConfig)}
    for name in saved & {item.name for item in fields(LowLevelFlags)}:
        with pytest.raises(UserError, match="flag of its own"):
            resolve_config(LowLevelFlags(set=(f"{name}=1",)))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"generated_share": 0.5}, "--generated-share means nothing without --generated"),
        ({"generated_minutes": 3.0}, "--generated-minutes means nothing without --generated"),
        ({"distill_steps": 2_000_000}, "--distill-steps means nothing without --teacher"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(given, match):
    with pytest.raises(UserError, match=match):
        resolve_config(LowLevelFlags(**given))


@pytest.mark.parametrize(
    ("backend", "settings", "match"),
    [
        ("warp", ("critic_rate=0.001",), r"^--set critic_rate=0.001: means nothing with --backend warp.*actor_rate"),
        ("warp", ("horizon=8", "ppo.critic_rate=3e-4"), "^--set ppo.critic_rate=3e-4: means nothing with"),
        ("warp", ("minimum_kl=0.002",), r"^--set minimum_kl=0.002: means nothing with.*set target_kl, now 0.01, or"),
        ("warp", ("minimum_kl=0.01", "target_kl=0.02"), "^--set minimum_kl=0.01: means nothing with.*now 0.02"),
        ("cpu", ("contacts=40",), "^--set contacts=40: means nothing without --backend warp"),
        ("cpu", ("buffers.constraints=99",), "^--set buffers.constraints=99: means nothing without --backend warp"),
    ],
)
def test_settings_that_the_backend_takes_no_notice_of_are_refused(backend, settings, match):
    with pytest.raises(UserError, match=match):
        resolve_config(LowLevelFlags(backend=backend, set=settings))


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_settings_that_the_backend_heeds_and_presets_go_through(preset):
    plain = resolve_config(LowLevelFlags(backend="warp", preset=preset)).ppo
    assert (plain.critic_rate, plain.minimum_kl, plain.target_kl) == (1e-3, 0.01, 0.01)
    constant = ("target_kl=0.004", "minimum_kl=0.004", "contacts=40")  # the second is what the first needs
    changed = resolve_config(LowLevelFlags(backend="warp", preset=preset, set=constant))
    assert (changed.ppo.minimum_kl, changed.ppo.target_kl, changed.buffers.contacts) == (0.004, 0.004, 40)
    assert resolve_config(LowLevelFlags(backend="warp", set=("target_kl=0.02",))).ppo.target_kl == 0.02
    on_cpu = resolve_config(LowLevelFlags(preset=preset, set=("critic_rate=2e-3", "minimum_kl=0.004"))).ppo
    assert (on_cpu.critic_rate, on_cpu.minimum_kl) == (2e-3, 0.004)


@pytest.mark.parametrize("flags", [LowLevelFlags(hz=100.0), LowLevelFlags(preset="paper")])
def test_another_rate_keeps_all_durations(flags):
    slow, fast = resolve_config(LowLevelFlags()), resolve_config(flags)
    assert fast.task.hz == 100.0 and fast.task.ahead == (2, 16)
    assert fast.ppo.horizon / fast.task.hz == slow.ppo.horizon / slow.task.hz
    # A reward a second ahead counts as much at either rate.
    assert fast.ppo.gamma**100 == pytest.approx(slow.ppo.gamma**50, rel=1e-12)
    assert fast.ppo.gae_lambda**100 == pytest.approx(slow.ppo.gae_lambda**50, rel=1e-12)
    assert resolve_config(LowLevelFlags(hz=100.0, set=("horizon=8",))).ppo.horizon == 8


@pytest.mark.parametrize(
    ("preset", "hz", "control", "hidden", "limit"),
    [("small", 50.0, "pd", (256, 256), 4.0), ("paper", 100.0, "torque", (2048, 1024, 512), 1.0)],
)
@pytest.mark.usefixtures("small")
def test_presets_hold_the_numbers_that_are_written_down(tmp_path, preset, hz, control, hidden, limit):
    """DAPS appendix K for ``paper``: 100 Hz, torques, and three hidden layers with ELU in actor and critic alike."""
    config = resolve_config(LowLevelFlags(preset=preset))
    assert (config.preset, config.hidden) == (preset, hidden)
    assert (config.task.hz, config.task.control) == (hz, control)
    toys = replace(config, task=replace(config.task, hz=50.0))  # the rate of the toy motions
    library, _ = low_level_setup.load_library(toys)
    policy = low_level_setup.build_policy(config, *low_level_setup.build_task(toys, library, "cpu"))
    for network, outputs in ((policy.actor, 19), (policy.critic, 1)):
        linear, others = network[::2], network[1::2]
        assert [layer.out_features for layer in linear] == [*hidden, outputs]
        assert len(others) == len(hidden) and all(type(layer) is torch.nn.ELU for layer in others)
        assert all(layer.alpha == 1.0 for layer in others)
    assert policy.shape.action_limit == limit  # a share of the motor's torque, or a number of residuals
