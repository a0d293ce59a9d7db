"""``motionlex train-highlevel`` and ``motionlex pack-bundle`` from flags to files."""

import dataclasses
import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from motionlex.controllers import latent_training, packing
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.latent_run import HighLevelFlags, train_high_level
from motionlex.controllers.stack import Stack
from motionlex.data.datasets import MotionData
from motionlex.data.errors import UserError


@pytest.fixture(autouse=True)
def toy_world(monkeypatch, toy_clips, toy_encoder):
    def load(name, root, *, hz):
        return MotionData(name=name, train=toy_clips, validation=toy_clips[1:], hz=hz)

    monkeypatch.setattr(latent_training, "TextEncoder", toy_encoder)
    monkeypatch.setattr(latent_training, "load_dataset", load)
    monkeypatch.setattr(packing, "TextEncoder", toy_encoder)


def flags(vae, out, **changes):
    values = {"vae": vae, "out": out, "steps": 4, "batch": 4, "samples": 1, "width": 16, "layers": 1}
    return HighLevelFlags(**{**values, **changes})


def test_a_run_holds_weights_config_and_provenance_and_reports_the_agreed_keys(tiny_vae_run, tmp_path):
    result = train_high_level(flags(tiny_vae_run, tmp_path / "run"))
    assert {"run", "steps", "seconds", "seconds_per_step", "nats_per_token", "code_accuracy"} <= set(result)
    assert result["steps"] == 4
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "meta.json", "weights.safetensors", "training_state.pt"} <= files
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert meta["labels"] == ["stand", "wave"] and meta["steps"] == 4


def test_a_run_resumed_from_its_folder_is_the_run_without_a_break(tiny_vae_run, tmp_path):
    train_high_level(flags(tiny_vae_run, tmp_path / "whole", steps=6))
    train_high_level(flags(tiny_vae_run, tmp_path / "broken", steps=3, schedule_steps=6))
    train_high_level(HighLevelFlags(resume=tmp_path / "broken", steps=6))
    whole, broken = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "broken"))
    for name, value in whole.items():
        assert torch.equal(value, broken[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_within_a_step_goes_on_as_if_it_had_not_been(
    tiny_vae_run, tmp_path, monkeypatch, own_interrupts, number
):
    """The third step has drawn its batch when the signal comes: it ends first."""
    train_high_level(flags(tiny_vae_run, tmp_path / "whole", steps=6))
    drawn, loss = [], latent_training.code_loss

    def interrupted(policy, conditions, codes):
        drawn.append(codes)
        if len(drawn) == 3:
            signal.raise_signal(number)
        return loss(policy, conditions, codes)

    monkeypatch.setattr(latent_training, "code_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_high_level(flags(tiny_vae_run, tmp_path / "broken", steps=6))
    assert json.loads((tmp_path / "broken" / "meta.json").read_text())["steps"] == 3
    train_high_level(HighLevelFlags(resume=tmp_path / "broken", steps=6))
    whole, broken = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "broken"))
    for name, value in whole.items():
        assert torch.equal(value, broken[name]), name


def test_mistakes_are_user_errors_and_leave_nothing(tiny_vae_run, tmp_path):
    with pytest.raises(UserError, match="--vae"):
        train_high_level(HighLevelFlags(out=tmp_path / "run"))
    with pytest.raises(UserError, match="train_motion_vae"):
        train_high_level(flags(tmp_path / "nowhere", tmp_path / "run"))
    with pytest.raises(UserError, match="multiple"):
        train_high_level(flags(tiny_vae_run, tmp_path / "run", width=18))
    with pytest.raises(UserError, match="positive"):
        train_high_level(flags(tiny_vae_run, tmp_path / "run", steps=0))
    assert list(tmp_path.iterdir()) == []
    train_high_level(flags(tiny_vae_run, tmp_path / "run"))
    with pytest.raises(UserError, match="exists"):
        train_high_level(flags(tiny_vae_run, tmp_path / "run"))
    with pytest.raises(UserError, match="fixed"):
        train_high_level(HighLevelFlags(resume=tmp_path / "run", steps=8, width=32))
    with pytest.raises(UserError, match="already"):
        train_high_level(HighLevelFlags(resume=tmp_path / "run", steps=2))
    with pytest.raises(UserError, match="not a run"):
        train_high_level(HighLevelFlags(resume=tmp_path, steps=2))


def test_a_run_that_does_not_say_how_it_was_trained_is_not_resumed(tiny_vae_run, tmp_path):
    """A setting that is younger than the run would be filled in with a default that the run never had."""
    train_high_level(flags(tiny_vae_run, tmp_path / "run"))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["corruption"]["history_exchange"], config["optimiser"]["batch"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"older version.*optimiser\.batch, corruption\.history_exchange"):
        train_high_level(HighLevelFlags(resume=tmp_path / "run", steps=8))


@pytest.fixture
def low_level_run(tmp_path, tiny_vae_run):
    from dataclasses import asdict

    from motionlex.controllers.low_level_config import LowLevelConfig
    from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
    from motionlex.data.storage import write_json
    from motionlex.envs.task_config import TaskConfig

    folder = tmp_path / "low"
    config = LowLevelConfig(task=TaskConfig(goal="decoded"), vae=str(tiny_vae_run))
    shape = PolicyShape(observation=151, critic_observation=151, actions=19, action_limit=4.0, hidden=(16, 16))
    LowLevelPolicy(shape, config.task).save(folder)
    write_json(folder / "config.json", asdict(config))
    write_json(folder / "meta.json", {"command": ["train_lowlevel", "--out", "/somewhere/runs/low"], "steps": 7})
    return folder


def test_three_runs_become_a_bundle_without_absolute_paths(tiny_vae_run, low_level_run, tmp_path, toy_encode):
    train_high_level(flags(tiny_vae_run, tmp_path / "high"))
    pack = packing.PackFlags(
        vae=tiny_vae_run, highlevel=tmp_path / "high", lowlevel=low_level_run, out=tmp_path / "bundle", top_p=0.9,
        get_up="get up", understood_from=0.3,
    )  # fmt: skip
    result = packing.pack_bundle(pack)
    assert result["goal"] == "decoded" and result["size_mb"] < 5
    bundle = load_bundle(tmp_path / "bundle")
    assert set(bundle.captions) == {"stand", "wave"}
    assert bundle.meta.sampling["top_p"] == 0.9
    assert bundle.meta.get_up == "get up" and Stack(bundle, encode=toy_encode).hearing.understood_from == 0.3
    assert any(command.startswith("train_lowlevel --out runs/low") for command in bundle.meta.commands)
    for path in (tmp_path / "bundle").rglob("*.json"):
        assert str(tmp_path) not in path.read_text() and "/somewhere" not in path.read_text()
    with pytest.raises(UserError, match="exists"):
        packing.pack_bundle(pack)


@pytest.mark.parametrize(
    ("encoder", "digest", "threshold", "warned"),
    [
        ("/models/other", "1" * 64, None, True),
        ("/models/other", "1" * 64, 0.5, False),  # somebody has looked
        ("/models/copy", "53aa5117" + "0" * 56, None, False),  # the packaged one, elsewhere
        (None, "", None, False),
    ],
)
def test_another_text_encoder_with_the_threshold_of_the_packaged_one_is_said(
    tiny_vae_run, low_level_run, tmp_path, toy_encode, caplog, encoder, digest, threshold, warned
):
    train_high_level(flags(tiny_vae_run, tmp_path / "high"))
    for name, change in (
        ("config.json", lambda config: config["task"].update(text_encoder=encoder)),
        ("meta.json", lambda meta: meta.update(text_sha256=digest)),
    ):
        values = json.loads((tmp_path / "high" / name).read_text())
        change(values)
        (tmp_path / "high" / name).write_text(json.dumps(values))
    pack = packing.PackFlags(
        vae=tiny_vae_run,
        highlevel=tmp_path / "high",
        lowlevel=low_level_run,
        out=tmp_path / "bundle",
        understood_from=threshold,
    )
    packing.pack_bundle(pack, toy_encode)
    assert load_bundle(tmp_path / "bundle").meta.understood_from == 0.5
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [("/models/other" in line and "--understood-from" in line) for line in said] == [True] * warned


def test_runs_that_do_not_belong_together_are_refused(tiny_vae_run, low_level_run, tmp_path):
    train_high_level(flags(tiny_vae_run, tmp_path / "high"))
    config = json.loads((tmp_path / "high" / "config.json").read_text())
    (tmp_path / "high" / "config.json").write_text(json.dumps({**config, "vae_sha256": "0" * 64}))
    with pytest.raises(UserError, match="another autoencoder"):
        packing.pack_bundle(
            packing.PackFlags(
                vae=tiny_vae_run, highlevel=tmp_path / "high", lowlevel=low_level_run, out=tmp_path / "bundle"
            )
        )
    assert not (tmp_path / "bundle").exists()


def test_an_autoencoder_without_codes_is_refused(tiny_autoencoder):
    task = latent_training.LatentTask(vae="x", data="builtin", data_root=None, schedule_steps=1, seed=0)
    from motionlex.motion_vae.registry import build_model, get_preset

    config = get_preset("gaussian", "small").method
    model = build_model("gaussian", config, tiny_autoencoder.model.domain, seed=0)
    continuous = dataclasses.replace(
        tiny_autoencoder, model=model, config=dataclasses.replace(tiny_autoencoder.config, method="gaussian")
    )
    with pytest.raises(UserError, match="method 'gaussian' has no codes"):
        latent_training.build_policy(task, continuous)
    with pytest.raises(UserError, match="method 'gaussian' has no codes"):
        continuous.encode_features(torch.zeros(1, 32, tiny_autoencoder.statistics.size), torch.Generator())
