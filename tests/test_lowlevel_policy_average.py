"""The mean of the weights along a training: its formula, what a run saves of it, and that training does not see it."""

import numpy as np
import pytest
import torch

from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.controllers.policy_average import PolicyAverage
from motionlex.controllers.ppo import TrackingPPO
from motionlex.controllers.ppo_config import PPOConfig
from motionlex.data.errors import UserError
from motionlex.envs.task_config import TaskConfig
from motionlex.motion_vae.checkpoint import load_state

SHAPE = PolicyShape(observation=5, critic_observation=5, actions=2, action_limit=4.0, hidden=(3,))


def averaged(share, values):
    """Let every weight of a policy take the values in turn; return the mean's weights after each."""
    policy = LowLevelPolicy(SHAPE, TaskConfig())
    average, means = PolicyAverage(policy, share), []
    for value in values:
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.fill_(value)
            policy.normaliser.mean.fill_(value)
        average.update()
        weights = torch.cat(
            [p.detach().flatten() for name, p in average.policy.named_parameters() if name != "log_std"]
        )
        assert weights.min() == weights.max()
        assert (average.policy.log_std == value).all() and (average.policy.normaliser.mean == value).all()
        means.append(float(weights[0]))
    return means


def test_the_whole_run_as_horizon_is_the_arithmetic_mean_and_none_is_the_last_policy():
    values = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(averaged(1.0, values), np.cumsum(values) / np.arange(1, 51), atol=1e-6)
    np.testing.assert_allclose(averaged(0.0, values), values, rtol=1e-6)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_the_mean_lags_by_a_fixed_share_of_the_updates(share):
    """Weights that grow by one per update: their mean is old by share / (1 + share) of the updates in the long run."""
    steps = 3000
    behind = steps - averaged(share, np.arange(1.0, steps + 1))[-1]
    assert behind / steps == pytest.approx(share / (1.0 + share), rel=0.03)


def test_before_the_first_update_it_is_the_policy_itself():
    policy = LowLevelPolicy(SHAPE, TaskConfig())
    average = PolicyAverage(policy, 0.02)
    assert average.policy is policy
    average.update()
    assert average.policy is not policy


def test_a_run_saves_the_mean_and_trains_as_if_there_were_none(tmp_path, small_training, monkeypatch):
    seen, update = [], TrackingPPO.train

    def train(self):
        update(self)
        seen.append({name: value.detach().clone() for name, value in self.policy.network.named_parameters()})

    monkeypatch.setattr(TrackingPPO, "train", train)
    for name, share in (("mean", 0.5), ("last", 0.0)):
        options = {"steps": 256, "evaluate": False, "threads": 1, "set": (f"average={share}",)}
        train_low_level(LowLevelFlags(out=tmp_path / name, **options))
    count = len(seen) // 2
    assert count >= 3
    means = {name: value.double() for name, value in seen[0].items()}
    for number, weights in enumerate(seen[1:count], start=1):
        means = {name: mean + (weights[name] - mean) / (1.0 + 0.5 * number) for name, mean in means.items()}
    saved = {name: dict(LowLevelPolicy.load(tmp_path / name).named_parameters()) for name in ("mean", "last")}
    states = {name: load_state(tmp_path / name)["policy"] for name in ("mean", "last")}
    for name, last in seen[-1].items():
        assert torch.equal(seen[count - 1][name], last) and torch.equal(states["mean"][name], states["last"][name])
        assert torch.equal(saved["last"][name], last)
        expected = last if name == "log_std" else means[name]
        np.testing.assert_allclose(saved["mean"][name].detach(), expected, atol=1e-6)
    assert not torch.equal(saved["mean"]["actor.0.weight"], saved["last"]["actor.0.weight"])


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_shares_are_shares(share):
    with pytest.raises(UserError, match="average must be"):
        PPOConfig(average=share)
