"""``motionlex average-policies``: the mean of weights, what may be averaged, and what is known of it afterwards."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from motionlex.controllers import packing
from motionlex.controllers.averaging import AverageFlags, average_policies
from motionlex.controllers.low_level_config import LowLevelConfig
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.controllers.low_level_setup import load_low_level_config
from motionlex.data.errors import UserError
from motionlex.data.storage import write_json
from motionlex.envs.task_config import TaskConfig

SHAPE = PolicyShape(observation=7, critic_observation=7, actions=3, action_limit=100.0, hidden=())


def saved(folder, seed, shape=SHAPE, task=None, **config):
    """A run whose policy is drawn from a seed."""
    task = TaskConfig(goal="decoded") if task is None else task
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = LowLevelPolicy(shape, task)
        torch.nn.init.normal_(policy.actor[-1].weight)
        if shape.tokens:
            policy.set_codebook(torch.randn(shape.vocabulary, shape.code_width))
    policy.save(folder)
    write_json(folder / "config.json", asdict(LowLevelConfig(task=task, **config)))
    digests = {"vae_sha256": "same", "generated_sha256": str(seed)}
    write_json(folder / "meta.json", {"command": ["train_lowlevel", "--seed", str(seed)], "steps": seed, **digests})
    return folder


def test_the_mean_of_linear_policies_acts_as_their_mean(tmp_path):
    """Without hidden layers actions are linear in the weights: their mean is known without looking at weights."""
    runs = tuple(saved(tmp_path / str(seed), seed) for seed in (1, 2, 3))
    result = average_policies(AverageFlags(runs=runs, out=tmp_path / "mean"))
    assert result["policies"] == 3 and result["run"] == str(tmp_path / "mean")
    observation = np.random.default_rng(0).normal(size=(5, 7))
    actions = np.mean([LowLevelPolicy.load(run).act(observation) for run in runs], axis=0)
    np.testing.assert_allclose(LowLevelPolicy.load(tmp_path / "mean").act(observation), actions, atol=1e-5)


def test_a_run_that_is_named_twice_counts_twice_and_the_spread_is_relative(tmp_path):
    """Weights 0 and 3 in proportion 2 : 1: mean 1, deviations -1, -1, 2, hence the spread is the root of 2."""
    for name, value in (("zeros", 0.0), ("threes", 3.0)):
        policy = LowLevelPolicy.load(saved(tmp_path / name, 1))
        for parameter in policy.actor.parameters():
            parameter.fill_(value)
        policy.save(tmp_path / name)
    runs = (tmp_path / "zeros", tmp_path / "zeros", tmp_path / "threes")
    result = average_policies(AverageFlags(runs=runs, out=tmp_path / "mean"))
    mean = LowLevelPolicy.load(tmp_path / "mean")
    assert all(torch.allclose(parameter, torch.ones(())) for parameter in mean.actor.parameters())
    assert result["spread"] == pytest.approx(np.sqrt(2.0))


def test_a_mean_is_a_run_with_a_past(tmp_path):
    first = saved(tmp_path / "first", 1)
    second = saved(tmp_path / "second", 2, init=str(first))
    average_policies(AverageFlags(runs=(first, second), out=tmp_path / "mean"))
    assert load_low_level_config(tmp_path / "mean") == load_low_level_config(first)
    meta = json.loads((tmp_path / "mean" / "meta.json").read_text())
    assert meta["averaged"] == [str(first), str(second)] and meta["versions"]["motionlex"]
    assert meta["vae_sha256"] == "same" and "generated_sha256" not in meta and "steps" not in meta
    commands = [entry["command"][-1] for entry in packing._history(tmp_path / "mean")]
    assert commands[:2] == ["1", "2"] and len(commands) == 3  # the second began from the first, which is named once


CODES = replace(SHAPE, observation=71, critic_observation=71, tokens=64, vocabulary=4, code_width=3)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ({"task": TaskConfig(goal="decoded", hz=25.0)}, "hz is 25.0 there and 50.0 here"),
        ({"shape": replace(SHAPE, hidden=(4,))}, "other sizes"),
    ],
)
def test_policies_of_other_kinds_are_refused(tmp_path, other, match):
    runs = saved(tmp_path / "one", 1), saved(tmp_path / "other", 2, **other)
    with pytest.raises(UserError, match=match):
        average_policies(AverageFlags(runs=runs, out=tmp_path / "mean"))
    assert not (tmp_path / "mean").exists()


def test_codes_of_other_autoencoders_are_refused(tmp_path):
    task = TaskConfig(goal="latent")
    runs = saved(tmp_path / "one", 1, CODES, task), saved(tmp_path / "other", 2, CODES, task)
    with pytest.raises(UserError, match="codes of other autoencoders"):
        average_policies(AverageFlags(runs=runs, out=tmp_path / "mean"))


def test_too_few_runs_and_folders_that_exist_or_are_none_are_refused(tmp_path):
    one = saved(tmp_path / "one", 1)
    with pytest.raises(UserError, match="two or more runs, got 1"):
        average_policies(AverageFlags(runs=(one,), out=tmp_path / "mean"))
    with pytest.raises(UserError, match="already exists"):
        average_policies(AverageFlags(runs=(one, one), out=one))
    with pytest.raises(UserError, match="not a run of train_lowlevel"):
        average_policies(AverageFlags(runs=(one, Path("nowhere")), out=tmp_path / "mean"))
