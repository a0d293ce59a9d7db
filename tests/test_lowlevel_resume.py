"""Runs of the low-level policy that go on: with the same bits, and only as what they are."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch

from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_config import resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.low_level_resume import check_unchanged
from motionlex.controllers.low_level_state import RunCallback
from motionlex.data.errors import UserError
from motionlex.scripts import train_lowlevel


def flags(folder, **changes):
    return LowLevelFlags(**{"out": folder, "steps": 256, "evaluate": False, "threads": 1, **changes})


def test_resume_gives_the_same_bits(tmp_path, small_training):
    train_low_level(flags(tmp_path / "whole"))
    train_low_level(flags(tmp_path / "broken", steps=128))
    result = train_low_level(LowLevelFlags(resume=tmp_path / "broken", steps=256, evaluate=False, threads=1))
    assert result["steps"] == 256
    for name in ("weights.safetensors",):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    with pytest.raises(UserError, match="done already"):
        train_low_level(LowLevelFlags(resume=tmp_path / "broken", steps=256, threads=1))


def test_a_run_that_is_stopped_while_it_cools_down_goes_on_with_the_same_bits(tmp_path, small_training, monkeypatch):
    cool = ("cooldown=0.75", "cooldown_std=0.04", "cooldown_kl=0.003")
    train_low_level(flags(tmp_path / "whole", set=cool))
    save = RunCallback.save

    def save_and_stop(callback):
        save(callback)
        if callback.model.steps == 128:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunCallback, "save", save_and_stop)
        train_low_level(flags(tmp_path / "broken", set=cool, checkpoint_s=1e-9))
    noise = [LowLevelPolicy.load(tmp_path / name).log_std.exp().mean().item() for name in ("broken", "whole")]
    assert noise[0] > 0.1 and noise[1] == pytest.approx(0.04)
    train_low_level(LowLevelFlags(resume=tmp_path / "broken", evaluate=False, threads=1))
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("broken", "whole")]
    assert weights[0] == weights[1]


def test_a_run_from_before_the_solver_had_settings_goes_on_and_one_that_lacks_others_does_not(tmp_path, small_training):
    train_low_level(flags(tmp_path / "whole"))
    train_low_level(flags(tmp_path / "old", steps=128))
    path = tmp_path / "old" / "config.json"
    saved = json.loads(path.read_text())
    older = {name: saved["task"].pop(name) for name in ("integrator", "solver", "cone", "tolerance")}
    assert older == {"integrator": "implicitfast", "solver": "Newton", "cone": "pyramidal", "tolerance": 1e-8}
    again = LowLevelFlags(resume=tmp_path / "old", steps=256, evaluate=False, threads=1)
    for name in ("hold_s", "limits"):
        lacking = {**saved, "task": {key: value for key, value in saved["task"].items() if key != name}}
        path.write_text(json.dumps(lacking))
        with pytest.raises(UserError, match=rf"older version, which knew no .*task\.{name}"):
            train_low_level(again)
    path.write_text(json.dumps(saved))
    assert train_low_level(again)["steps"] == 256
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "old")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"worlds": 32}, r"--worlds is fixed when a run is created: .*has 4, got 32"),
        ({"seed": 9}, "--seed is fixed"),
        ({"reward": "beyond_mimic"}, "--reward is fixed .*'deepmimic'"),
        ({"goal": "latent"}, "--goal is fixed"),
        ({"hz": 30.0}, "--hz is fixed"),
        ({"clips": ("a",)}, "--clips is fixed"),
        ({"randomise": "heavy"}, "--randomise is fixed .*'light'"),
        ({"push": 0.5}, "--push is fixed"),
        ({"set": ("horizon=8",)}, "--set is fixed"),
        ({"prepare": True}, "--prepare is fixed"),
        ({"backend": "warp"}, "--backend is fixed"),
        ({"init": Path("elsewhere")}, "--init is fixed"),
        ({"distill_steps": 7}, "--distill-steps is fixed"),
        ({"generated_share": 0.2}, "--generated-share is fixed"),
    ],
)
def test_resume_refuses_what_contradicts_the_run(tmp_path, given, match):
    run = flags(tmp_path, worlds=4, randomise="light", push=1.25)
    with pytest.raises(UserError, match=match):
        check_unchanged(LowLevelFlags(resume=tmp_path, **given), resolve_config(run))


def test_resume_takes_what_the_run_has_and_what_does_not_change_it(tmp_path):
    config = resolve_config(
        flags(tmp_path, worlds=4, goal="latent", vae=tmp_path / "vae", seed=3, hz=25.0, randomise="heavy", clips=("a",))
    )
    same = {"worlds": 4, "seed": 3, "hz": 25.0, "goal": "latent", "vae": tmp_path / "vae", "control": "pd"}
    check_unchanged(LowLevelFlags(resume=tmp_path, randomise="heavy", clips=("a",), push=1.0, **same), config)
    free = {"steps": 9, "threads": 2, "processes": 1, "device": "cuda", "data_root": tmp_path, "json": True}
    free |= {"checkpoint_s": 1.0, "evaluate": False, "evaluate_every": 5, "target_success": 0.5}
    check_unchanged(LowLevelFlags(resume=tmp_path, **free), config)


def test_resume_by_command_is_refused_and_changes_nothing(tmp_path, small_training, capsys):
    train_low_level(flags(tmp_path / "run", steps=64))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    wrong = ["--worlds", "32", "--seed", "9", "--reward", "beyond_mimic"]
    assert train_lowlevel.main(["--resume", str(tmp_path / "run"), "--steps", "128", *wrong]) == 2
    assert "is fixed when a run is created" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


def test_resume_notices_an_autoencoder_that_was_trained_again(tmp_path, small_training, tiny_vae_run):
    vae = tmp_path / "vae"
    shutil.copytree(tiny_vae_run, vae)
    train_low_level(flags(tmp_path / "run", steps=64, goal="latent", vae=vae, code_draws=1))
    again = LowLevelFlags(resume=tmp_path / "run", steps=128, evaluate=False, threads=1)
    weights = safetensors.torch.load_file(vae / "weights.safetensors")
    name = next(name for name, value in weights.items() if name.startswith("model.") and value.is_floating_point())
    changed = {**weights, name: weights[name] + 1e-3}
    kept = (vae / "weights.safetensors").read_bytes()
    safetensors.torch.save_file(changed, vae / "weights.safetensors")
    with pytest.raises(UserError, match=r"autoencoder .* was trained again"):
        train_low_level(again)
    (vae / "weights.safetensors").write_bytes(kept)
    assert train_low_level(again)["steps"] == 128
