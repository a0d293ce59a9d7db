"""An imitation that is broken off goes on with the same bits, and so does the PPO after it."""

import json
from types import SimpleNamespace

import pytest
import torch

from motionlex.controllers import low_level, low_level_imitation
from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_imitation import IMITATION_FILE
from motionlex.controllers.ppo import TrackingPPO
from motionlex.data.errors import UserError

SHORT = {"evaluate": False, "threads": 1}


@pytest.fixture
def flags(tmp_path, small_training, tiny_vae_run, monkeypatch):
    """Flags of an imitation of four horizons of 4 robots, with a memory that is full after two, and of some PPO."""
    recipe = low_level_imitation.DistillationConfig
    monkeypatch.setattr(
        low_level_imitation,
        "DistillationConfig",
        lambda steps: recipe(steps=steps, memory=200, updates=2, minibatch=64),
    )
    train_low_level(LowLevelFlags(out=tmp_path / "teacher", steps=64, **SHORT))
    latent = {"goal": "latent", "vae": tiny_vae_run, "code_draws": 2, "teacher": tmp_path / "teacher"}
    return lambda out, **more: LowLevelFlags(out=out, steps=128, distill_steps=512, **latent, **SHORT, **more)


def broken_at(monkeypatch, steps):
    """Stop the run as by Ctrl-C right after the imitation was saved at a number of steps."""
    save = low_level_imitation._save

    def save_and_stop(work, *arguments, **options):
        save(work, *arguments, **options)
        if work.done == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(low_level_imitation, "_save", save_and_stop)


def states(folder):
    return sorted(path.name for path in folder.glob("imitation_*"))


@pytest.mark.parametrize("steps", [256, 384, 512])
def test_an_imitation_goes_on_with_the_same_bits(tmp_path, flags, monkeypatch, steps):
    """Broken twice on the way, or at its very end, before PPO has a checkpoint."""
    train_low_level(flags(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        broken_at(patch, steps)
        train_low_level(flags(tmp_path / "broken", checkpoint_s=1e-9))
    assert json.loads((tmp_path / "broken" / IMITATION_FILE).read_text())["steps"] == steps
    assert states(tmp_path / "broken") == [f"imitation_{steps}_0.pt"]  # only the last
    assert not (tmp_path / "broken" / "training_state.pt").exists()
    result = train_low_level(LowLevelFlags(resume=tmp_path / "broken", **SHORT))
    assert result["steps"] == 128
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    told = [json.loads((tmp_path / name / IMITATION_FILE).read_text()) for name in ("whole", "broken")]
    for name in ("steps", "distillation_loss", "distillation_episode_s"):
        assert told[0][name] == told[1][name]
    assert states(tmp_path / "broken") == []  # PPO's own checkpoint is enough


def test_a_checkpoint_of_ppo_ends_the_imitation_for_good(tmp_path, flags, monkeypatch):
    train_low_level(flags(tmp_path / "run"))
    monkeypatch.setattr(low_level_imitation.Distillation, "run", lambda *_: pytest.fail("imitated again"))
    assert train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=192, **SHORT))["steps"] == 192


def test_a_broken_imitation_without_its_state_is_refused(tmp_path, flags, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        broken_at(patch, 256)
        train_low_level(flags(tmp_path / "run", checkpoint_s=1e-9))
    state = tmp_path / "run" / "imitation_256_0.pt"
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"imitation_256_0\.pt is damaged"):
        train_low_level(LowLevelFlags(resume=tmp_path / "run", **SHORT))
    state.unlink()
    with pytest.raises(UserError, match=r"its imitation was broken off and left no imitation_256_0\.pt"):
        train_low_level(LowLevelFlags(resume=tmp_path / "run", **SHORT))
    told = json.loads((tmp_path / "run" / IMITATION_FILE).read_text())
    (tmp_path / "run" / IMITATION_FILE).write_text(json.dumps({**told, "processes": 3}))
    with pytest.raises(UserError, match=r"trained by 3 process\(es\), not 1: give --processes 3"):
        train_low_level(LowLevelFlags(resume=tmp_path / "run", **SHORT))


def test_seconds_per_step_are_those_of_ppo_alone(tmp_path, flags, monkeypatch):
    """By a clock that stands still but for 1000 s of imitation and 64 s of 128 steps of PPO."""
    clock = [0.0]

    def lasting(seconds, work):
        def longer(*arguments, **options):
            clock[0] += seconds
            return work(*arguments, **options)

        return longer

    monkeypatch.setattr(low_level, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(low_level, "imitate", lasting(1000.0, low_level.imitate))
    monkeypatch.setattr(TrackingPPO, "learn", lasting(64.0, TrackingPPO.learn))
    result = train_low_level(flags(tmp_path / "run"))
    assert (result["steps"], result["seconds"], result["seconds_per_step"]) == (128, 1064.0, 0.5)
    more = train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=192, **SHORT))
    assert (more["steps"], more["seconds"], more["seconds_per_step"]) == (192, 64.0, 1.0)


def test_what_is_broken_off_before_its_first_checkpoint_begins_from_init_again(tmp_path, flags, monkeypatch):
    """Nothing of the run is saved then but what it is to be."""
    train_low_level(flags(tmp_path / "first"))
    begun = []

    def stop(config, model, *_):
        begun.append({name: value.clone() for name, value in model.policy.network.state_dict().items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(low_level, "imitate", stop)
    for more in ({"init": tmp_path / "first"}, None):
        with pytest.raises(KeyboardInterrupt):
            again = LowLevelFlags(resume=tmp_path / "second", **SHORT)
            train_low_level(again if more is None else flags(tmp_path / "second", **more))
    assert all(torch.equal(value, begun[1][name]) for name, value in begun[0].items())


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", b"PK\x03\x04 broken"])
def test_a_state_that_is_something_else_is_damaged(tmp_path, flags, content):
    train_low_level(flags(tmp_path / "run"))
    (tmp_path / "run" / "training_state.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"training_state\.pt is damaged"):
        train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=192, **SHORT))
