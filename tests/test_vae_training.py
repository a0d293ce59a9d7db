"""Runs: resumed bit for bit after a kill, saved whole or not at all, one clear line for every mistake."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from motionlex.data.errors import UserError
from motionlex.motion_vae.checkpoint import NewRunFolder, load_run, load_state
from motionlex.motion_vae.trainer import resolve_device
from motionlex.motion_vae.training import TrainFlags, train
from motionlex.scripts import evaluate_motion_vae, train_motion_vae

TINY = ("width=8", "heads=2", "layers=1", "mlp_ratio=1", "vocabulary=8", "batch=4", "samples=2", "ess_target=0.7")


@pytest.fixture(scope="module")
def motions(tmp_path_factory):
    """Two short clips in the LAFAN layout (position, quaternion xyzw, hinges; 30 Hz), all hinges in motion."""
    folder = tmp_path_factory.mktemp("lafan")
    seconds = np.arange(75) / 30.0
    for name, rate in (("walk1_subject1", 1.0), ("walk2_subject4", 1.3)):
        phase = 2 * np.pi * rate * seconds[:, None] + np.arange(19)
        yaw = 0.3 * seconds
        rows = np.zeros((len(seconds), 26))
        rows[:, 0], rows[:, 2] = 0.8 * seconds, 0.95 + 0.02 * np.sin(phase[:, 0])
        rows[:, 5], rows[:, 6] = np.sin(yaw / 2), np.cos(yaw / 2)
        rows[:, 7:] = 0.15 * np.sin(phase)
        np.savetxt(folder / f"{name}.csv", rows, delimiter=",", fmt="%.9f")
    return folder


def flags(motions, out, **changes):
    settings = {"data": "lafan1", "data_root": motions, "out": out, "steps": 6, "schedule_steps": 12, "set": TINY}
    return TrainFlags(**{**settings, **changes})


def same_parameters(first, second):
    a, b = load_state(first)["model"], load_state(second)["model"]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["daps", "vqvae"])
def test_three_steps_and_three_more_are_six(motions, tmp_path, method):
    settings = TINY if method == "daps" else TINY[:6]
    train(flags(motions, tmp_path / "whole", method=method, set=settings))
    train(flags(motions, tmp_path / "parts", method=method, set=settings, steps=3))
    assert not same_parameters(tmp_path / "whole", tmp_path / "parts")
    result = train(TrainFlags(resume=tmp_path / "parts", steps=6))
    assert result["steps"] == 6 and result["run"] == str(tmp_path / "parts")
    assert same_parameters(tmp_path / "whole", tmp_path / "parts")


def test_a_killed_run_continues_bit_for_bit(motions, tmp_path):
    """SIGKILL at an arbitrary moment after the first checkpoint; then the same total as an uninterrupted run."""
    command = [
        sys.executable, "-m", "motionlex.scripts.train_motion_vae", "--data", "lafan1", "--data-root", str(motions),
        "--out", str(tmp_path / "killed"), "--steps", "1000000", "--schedule-steps", "12", "--checkpoint-steps", "3",
        "--set", *TINY,
    ]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        meta = tmp_path / "killed" / "meta.json"
        while not (meta.is_file() and json.loads(meta.read_text())["steps"] >= 6):  # state is written after meta
            assert process.poll() is None and time.monotonic() < deadline, "no checkpoint appeared"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    steps = load_state(tmp_path / "killed")["steps"]
    assert steps >= 3 and steps % 3 == 0
    train(TrainFlags(resume=tmp_path / "killed", steps=steps + 3))
    train(flags(motions, tmp_path / "whole", steps=steps + 3))
    assert same_parameters(tmp_path / "whole", tmp_path / "killed")


def test_commands_print_one_json_object(motions, tmp_path, capsys):
    run = str(tmp_path / "run")
    arguments = ["--data", "lafan1", "--data-root", str(motions), "--steps", "2", "--out", run, "--json"]
    assert train_motion_vae.main([*arguments, "--set", *TINY]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"run", "steps", "seconds", "seconds_per_step", "mean_squared_error"} <= result.keys()
    assert evaluate_motion_vae.main([run, "--batches", "2", "--batch", "3", "--keypoint-segments", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = (
        "psnr_db psnr_per_segment_db psnr_of_training_mean_db beta_elbo kl_nats log_likelihood usage perplexity "
        "joint_error_rad keypoint_error_mm hz segments"
    )
    assert set(wanted.split()) <= result.keys()
    assert result["segments"] == 6 and result["hz"] == 50.0
    assert result["beta_elbo"] == pytest.approx(result["log_likelihood"] - 0.01 * result["kl_nats"])
    names = {path.name for path in (tmp_path / "run").iterdir()}
    trained = {"config.json", "meta.json", "weights.safetensors", "training_state.pt", "tensorboard"}
    assert names == trained | {"evaluation.json"}


def test_a_loaded_run_encodes_and_decodes(motions, tmp_path):
    train(flags(motions, tmp_path / "run", steps=1))
    trained = load_run(tmp_path / "run")
    assert trained.statistics.hz == 50.0 and trained.config.domain["features"] == trained.statistics.size
    segments = torch.zeros(2, 32, trained.statistics.size)
    indices = trained.encode_features(segments, torch.Generator().manual_seed(0))
    assert indices.shape == (2, 64)
    features = trained.decode_features(indices)
    assert features.shape == (2, 32, 127)
    np.testing.assert_allclose(
        trained.statistics.standardise(features), trained.model.generative(indices).mean.numpy(), atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "dasp"], "unknown method 'dasp'. Did you mean 'daps'?"),
        (["--preset", "tiny"], "unknown preset 'tiny'"),
        (["--device", "gpu7"], "device 'gpu7' cannot be used"),
        (["--data", "lafan2"], "unknown data set 'lafan2'"),
        (["--steps", "0"], "--steps must be positive"),
        (["--set", "samples=1"], "samples must be at least 2"),
        (["--resume", "nowhere"], "nowhere is not a run of train_motion_vae"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_motion_vae.main([*arguments, "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_an_existing_run_is_not_overwritten(motions, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="already exists: continue it with --resume"):
        train(flags(motions, tmp_path / "run"))


def test_a_resumed_run_keeps_what_was_fixed(motions, tmp_path):
    train(flags(motions, tmp_path / "run", steps=2))
    for change in ({"schedule_steps": 99}, {"seed": 3}, {"method": "vqvae"}, {"out": tmp_path / "x"}):
        with pytest.raises(UserError, match="is fixed when a run is created"):
            train(TrainFlags(resume=tmp_path / "run", steps=4, **change))
    with pytest.raises(UserError, match="total to reach"):
        train(TrainFlags(resume=tmp_path / "run", steps=1))


def test_other_data_are_refused_on_resume(motions, tmp_path):
    train(flags(motions, tmp_path / "run", steps=1))
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in motions.glob("*.csv"):
        rows = np.loadtxt(path, delimiter=",")
        rows[:, 7] += 0.01
        np.savetxt(changed / path.name, rows, delimiter=",", fmt="%.9f")
    with pytest.raises(UserError, match="the data differ"):
        train(TrainFlags(resume=tmp_path / "run", steps=2, data_root=changed))


def test_damaged_files_are_the_users_error(motions, tmp_path):
    run = tmp_path / "run"
    train(flags(motions, run, steps=1))
    weights = (run / "weights.safetensors").read_bytes()
    (run / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_run(run)
    (run / "training_state.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="damaged"):
        train(TrainFlags(resume=run, steps=2))
    (run / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_run(run)


def test_a_new_run_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(OSError, match="No space left"), NewRunFolder(tmp_path / "runs" / "x") as partial:
        (partial / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())  # not even the folder that was made for it


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="cannot be used"):
        resolve_device("cuda:99")


def test_validation_runs_on_held_out_clips(motions, tmp_path):
    settings = (
        *TINY,
        "validation_steps=2",
        "plateau_factor=0.5",
        "plateau_patience=0",
        "precision=bf16",
        "micro_batches=2",
    )
    result = train(flags(motions, tmp_path / "run", set=settings, steps=4))
    assert np.isfinite(result["validation_score_nats"]) and result["samples_per_s"] > 0.0 and result["ranks"] == 1
    assert load_state(tmp_path / "run")["plateau"]["best"] > -np.inf


def test_cuda_graphs_need_cuda(motions, tmp_path):
    with pytest.raises(UserError, match="--cuda-graphs needs a CUDA device, got 'cpu'"):
        train(flags(motions, tmp_path / "run", cuda_graphs=True))
    assert not list(tmp_path.iterdir())
