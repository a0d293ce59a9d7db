"""Data-parallel training: two gloo ranks against one, replicas against each other, a resume against no interruption."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from motionlex.data.errors import UserError
from motionlex.motion_vae import distributed
from motionlex.motion_vae.trainer import Trainer
from motionlex.scripts import train_motion_vae

WORKER = Path(__file__).with_name("distributed_worker.py")


def load_worker():
    specification = importlib.util.spec_from_file_location("distributed_worker", WORKER)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


worker = load_worker()


def launch(command, ranks=2, **options):
    """Start one process per rank, as torchrun does, without its own start-up time; OTHER_PORT is for a second group."""
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = [str(found.getsockname()[1]) for found in (probe, other)]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    common |= dict(zip(("MASTER_PORT", "OTHER_PORT"), ports))
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        for rank in range(ranks)
    ]
    return [(process.communicate(timeout=120), process.returncode) for process in processes]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    for (_, error), code in launch([str(WORKER), str(folder)]):
        assert code == 0, error
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def same(first, second, path=""):
    """Compare nested states bit for bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for name in first:
            same(first[name], second[name], f"{path}.{name}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, (a, b) in enumerate(zip(first, second)):
            same(a, b, f"{path}[{index}]")
    else:
        assert first == second, path


@pytest.mark.parametrize("case", worker.CASES)
def test_two_ranks_of_32_give_the_gradients_of_one_of_64(ranks, case):
    """In float64 only the order of sums differs; weights and buffers that are no business of gradients agree too."""
    alone = worker.gradients(case)
    assert alone["gradients"], "something must have a gradient"
    if case == "policy_search":
        assert alone["gradients"]["log_eta"].abs() > 1e-6
    for found in (rank["gradients"][case] for rank in ranks):
        for part in ("gradients", "state"):
            assert found[part].keys() == alone[part].keys()
            for name, value in alone[part].items():
                torch.testing.assert_close(found[part][name], value, rtol=1e-9, atol=1e-11, msg=f"{part} {name}")
        for mine, whole in zip(found["logged"], alone["logged"]):
            for name in ("loss", "mean_squared_error"):  # logged in float32
                assert mine[name] == pytest.approx(whole[name], rel=1e-5)


def test_ranks_and_micro_batches_together(ranks):
    whole = worker.gradients("gradient_codebook")["gradients"]
    for rank in ranks:
        for name, value in whole.items():
            torch.testing.assert_close(rank["micro_batches"]["gradients"][name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", worker.CASES)
def test_replicas_stay_equal_bit_for_bit(ranks, case):
    """Twelve updates with draws of their own: in daps through the warm start with its dead codes into the search."""
    first, second = (rank["runs"][case]["trained"] for rank in ranks)
    same(first, second)
    assert not torch.equal(*first["model_generators"]), "ranks draw different noise"


def test_codes_that_died_start_anew(ranks):
    """The last of twelve updates is a round of replacement: its codes have a tenth of the count under even use."""
    counts = ranks[0]["runs"]["dead_codes"]["trained"]["model"]["moving.count"]
    vectors_per_code = 8 * worker.DOMAIN.tokens / len(counts)
    assert torch.isclose(counts, torch.tensor(0.1 * vectors_per_code, dtype=counts.dtype)).any()


@pytest.mark.parametrize("case", worker.CASES)
def test_a_resumed_pair_equals_one_that_never_stopped(ranks, case):
    for rank in ranks:
        same(rank["runs"][case]["trained"], rank["runs"][case]["resumed"])


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(ranks):
    for rank in ranks:
        found = rank["poisoned"]
        assert found["unchanged"] and found["batch"].shape[0] == worker.BATCH and found["batch"][-1].isnan().all()


def test_the_first_rank_validates_for_all(ranks):
    """Scores -1, -2, -3 with no patience: two disappointments."""
    for rank in ranks:
        assert rank["plateau"] == {"best": -1.0, "waited": 0, "scale": 0.25}


def test_rows_are_contiguous_parts(ranks):
    assert [rank["rows"].tolist() for rank in ranks] == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_the_number_of_ranks_is_fixed(ranks):
    with pytest.raises(UserError, match=r"trained on 2 rank\(s\) and cannot be resumed on 1: .*--nproc-per-node 2"):
        worker.trainer("gradient_codebook").load_state(ranks[0]["runs"]["gradient_codebook"]["trained"])


def test_a_batch_that_ranks_do_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(UserError, match=r"batch=64 cannot be cut into 3 ranks x 2 micro_batches: .*multiple of 6"):
        worker.trainer("gradient_codebook", micro_batches=2)


def test_every_rank_of_a_machine_has_its_own_gpu(monkeypatch):
    assert distributed.local_device("cuda:1") == "cuda:1"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.local_device("cuda") == "cuda:1" and distributed.local_device("cpu") == "cpu"
    with pytest.raises(UserError, match="would put all ranks on one GPU"):
        distributed.local_device("cuda:0")


TOY_COMMAND = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import toy_clip
from motionlex.data.datasets import MotionData
from motionlex.motion_vae import training
from motionlex.scripts.train_motion_vae import main

def load(name, root, *, hz):
    return MotionData(name=name, train=(toy_clip("a"), toy_clip("b", seed=1)), validation=(), hz=hz)

training.load_dataset = load
train, resume = sys.argv[1:]
assert main(train.split()) == 0
os.environ["MASTER_PORT"] = os.environ["OTHER_PORT"]
assert main(resume.split()) == 0
"""


def test_the_command_on_two_ranks(tmp_path):
    """One run folder, one result, and a resume that goes on; in one process per rank, since imports take longest."""
    settings = "width=8 heads=2 layers=1 mlp_ratio=1 vocabulary=8 batch=4 samples=2 ess_target=0.7"
    train = f"--out run --steps 2 --schedule-steps 9 --json --set {settings}"
    resume = "--resume run --steps 4 --json"
    ((output, log), code), ((quiet, quiet_log), other) = launch(["-c", TOY_COMMAND, train, resume], cwd=tmp_path)
    assert code == 0 and other == 0, log + quiet_log
    result, resumed = (json.loads(line) for line in output.splitlines())
    assert result["steps"] == 2 and result["ranks"] == 2 and result["samples_per_s"] > 0.0
    assert "step 2/2" in log and "step 2/2" not in quiet_log and quiet == ""
    assert resumed["steps"] == 4 and resumed["ranks"] == 2 and "step 4/4" in log


def test_errors_name_their_rank(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert train_motion_vae.main(["--steps", "x"]) == 2
    assert capsys.readouterr().err.startswith("train_motion_vae (rank 1): error: ")


def test_without_torchrun_nothing_changes():
    assert distributed.world_size() == 1 and distributed.rank() == 0
    with distributed.process_group(torch.device("cpu")):
        assert not torch.distributed.is_initialized()
    assert distributed.gather("x") == ["x"] and distributed.from_first(2.0, torch.device("cpu")) == 2.0
    assert isinstance(worker.trainer("policy_search"), Trainer)
