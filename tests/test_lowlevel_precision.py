"""The arithmetic of PPO's updates: where bf16 products are harmless, where not, and who chooses."""

import math

import numpy as np
import pytest
import torch

from motionlex.controllers import low_level_setup
from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.controllers.ppo import TrackingPPO
from motionlex.controllers.ppo_config import PPOConfig, native_precision
from motionlex.envs.batched import BatchedTracking
from motionlex.envs.benchmark import benchmark_task


def updates(precision, std=0.02, floor=0.01, epochs=1, **changes):
    """One PPO update in one precision: the first gradients of actor and critic, and the statistics."""
    task = benchmark_task(50.0)
    env = BatchedTracking(task, worlds=16, threads=1, generator=np.random.default_rng(0))
    torch.manual_seed(0)
    shape = PolicyShape(observation=151, critic_observation=151, actions=19, action_limit=4.0, hidden=(64, 64))
    policy = LowLevelPolicy(shape, task.config)
    config = PPOConfig(worlds=16, horizon=32, minibatch=512, epochs=epochs, precision=precision, minimum_std=floor)
    policy.log_std.data.fill_(math.log(std))
    model = TrackingPPO(env, policy, config, torch.Generator().manual_seed(0), "cpu", **changes)
    gradients = []
    step = model.policy.optimizer.step
    model.policy.optimizer.step = lambda: (
        gradients.extend(torch.cat([p.grad.flatten() for p in group]) for group in model.policy.groups),
        step(),
    )
    model.learn(512, log_interval=1 << 30)
    env.close()
    assert all(parameter.dtype == torch.float32 for parameter in policy.parameters())
    return *gradients, model.statistics


def test_bf16_products_give_the_gradient_of_float32_up_to_rounding():
    (actor, exact, told), (same_actor, rounded, told_too) = updates("float32"), updates("bf16")
    assert torch.equal(actor, same_actor) and actor.any()  # see the next test
    rough, *_ = updates("bf16", std=0.4)
    plain, *_ = updates("float32", std=0.4)
    assert not torch.equal(rough, plain) and torch.nn.functional.cosine_similarity(rough, plain, dim=0) > 0.999
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    # bf16 keeps 8 bits: errors of 2^-9 per product, averaged over 512 samples and 64 inputs.
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.999
    assert told_too["value_loss"] == pytest.approx(told["value_loss"], rel=0.02)


def test_an_actor_that_rests_does_not_diverge_whatever_the_precision():
    """Means in bf16 would differ from those that drew the actions: a divergence, and clipped steps, out of nothing."""
    *_, told = updates("bf16", critic_first=1)
    assert abs(told["kl_nats"]) < 1e-6 and told["clip_fraction"] == 0.0


def test_a_floor_above_the_noise_of_a_trained_policy_is_no_divergence():
    """From 0.08 to a floor of 0.15 it would be 19 * (log(0.15 / 0.08) + 0.08^2 / (2 * 0.15^2) - 0.5) = 5 nat."""
    *_, told = updates("float32", std=0.08, floor=0.15, epochs=2, critic_first=1)
    assert abs(told["kl_nats"]) < 1e-6 and told["action_std"] == pytest.approx(0.15)


def test_precision_is_chosen_by_what_the_processor_multiplies(monkeypatch):
    for capabilities, expected in (
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c, raising=False)
        assert native_precision("cpu") == expected


def test_precision_is_fixed_when_a_run_is_created(small_training, tmp_path):
    train_low_level(LowLevelFlags(out=tmp_path / "run", worlds=4, steps=32, evaluate=False))
    assert low_level_setup.load_low_level_config(tmp_path / "run").ppo.precision == native_precision("cpu")
