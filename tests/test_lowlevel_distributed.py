"""PPO on several processes: two ranks against one, replicas against each other, resume, and a killed process."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from motionlex.data.datasets.loco_mujoco import write_clips
from motionlex.data.robots import get_robot
from motionlex.envs import checks
from motionlex.envs.checks import available_cores

WORKER = Path(__file__).with_name("lowlevel_worker.py")
SIZES = ("--worlds", "4", "--set", "horizon=16", "minibatch=32", "epochs=2", "hidden=16,16")


def load_worker():
    specification = importlib.util.spec_from_file_location("lowlevel_worker", WORKER)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def as_two_ranks(arguments):
    """Start a command twice with the environment that torchrun gives; return processes, stdout and stderr."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            arguments,
            env={**common, "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    return [(process, *process.communicate(timeout=180)) for process in processes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two ranks leave what they came to."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder):
    """What two ranks came to."""
    for process, _, error in as_two_ranks([sys.executable, str(WORKER), str(folder)]):
        assert process.returncode == 0, error
    # What blew up is counted over all: 2 + 3, on both.
    assert [(folder / f"diverged{rank}").read_text() for rank in range(2)] == ["5", "5"]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def test_two_ranks_that_see_the_same_learn_what_one_learns(ranks):
    alone = load_worker().train(5)
    for name, value in alone["weights"].items():
        # Equal batches have equal gradients, so their mean is each of them; the count alone is that of both ranks.
        expected = 2 * value if name == "normaliser.count" else value
        torch.testing.assert_close(ranks[0]["same"]["weights"][name], expected, rtol=1e-5, atol=1e-6)
    assert ranks[0]["same"]["steps"] == 2 * alone["steps"]
    assert ranks[0]["same"]["rate"] == alone["rate"]


def test_no_thread_outlives_the_group(ranks, folder):
    """One that gives back a tensor while the interpreter ends aborts the process, now and then."""
    assert [(folder / f"threads{rank}").read_text() for rank in range(2)] == ["0", "0"]


def test_ranks_with_worlds_of_their_own_hold_one_policy(ranks):
    first, second = (rank["own"] for rank in ranks)
    assert not torch.equal(first["observations"], second["observations"])
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert torch.equal(first["failure"], second["failure"])
    assert not torch.equal(first["weights"]["actor.0.weight"], ranks[0]["same"]["weights"]["actor.0.weight"])


def test_ranks_whose_robots_fail_differently_hold_one_policy(ranks):
    """The divergence that is aimed at depends on failures: on those of all ranks, or each has its own learning rate."""
    first, second = (rank["apart"] for rank in ranks)
    assert first["rate"] == second["rate"]
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert torch.allclose(first["failure"], torch.tensor(0.105, dtype=torch.float64))


def test_the_normaliser_knows_what_all_ranks_saw(ranks):
    seen = torch.cat([rank["own"]["observations"] for rank in ranks]).double()
    weights = ranks[0]["own"]["weights"]
    assert weights["normaliser.count"] == len(seen)
    torch.testing.assert_close(weights["normaliser.mean"], seen.mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weights["normaliser.variance"], seen.var(0, unbiased=False), rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def motions(tmp_path_factory, toy_clips):
    """A folder of motions that every process finds."""
    folder = tmp_path_factory.mktemp("motions")
    for clip in toy_clips:
        write_clips(folder / f"{clip.name}.npz", [clip], get_robot("h1"))
    return folder


def command(*arguments):
    return [sys.executable, "-m", "motionlex.scripts.train_lowlevel", *arguments, "--json"]


def run(*arguments, code=0):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=180)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if code == 0 else done.stderr


def test_a_plain_command_starts_processes_and_resumes_with_the_same_bits(motions, tmp_path):
    data = ("--data", "loco_mujoco", "--data-root", str(motions), "--no-evaluate", "--threads", "1", *SIZES)
    whole = run(*data, "--processes", "2", "--steps", "256", "--out", str(tmp_path / "whole"))
    assert whole["processes"] == 2 and whole["steps"] == 256
    run(*data, "--processes", "2", "--steps", "128", "--out", str(tmp_path / "broken"))
    rest = ("--resume", str(tmp_path / "broken"), "--steps", "256", "--threads", "1", "--no-evaluate")
    assert "give --processes 2" in run(*rest, "--processes", "1", code=2)
    assert run(*rest)["processes"] == 2  # as the run had it
    assert (tmp_path / "whole/weights.safetensors").read_bytes() == (
        tmp_path / "broken/weights.safetensors"
    ).read_bytes()


CROWDED = re.compile(
    r"^2 processes of (\d+) thread\(s\) share \1 core\(s\): one thread per core is faster$", re.MULTILINE
)


def test_ranks_that_torchrun_started_from_outside_train_one_policy(motions, tmp_path):
    """As ``torchrun --nproc-per-node 2`` does: the command finds its rank; only the first one tells a result."""
    sizes = ("--data", "loco_mujoco", "--data-root", str(motions), "--no-evaluate", *SIZES)
    threads = str(available_cores())  # twice as many as there are cores
    started = as_two_ranks(command(*sizes, "--threads", threads, "--steps", "128", "--out", str(tmp_path / "run")))
    for process, _, error in started:
        assert process.returncode == 0, error
    (_, said, error), (_, nothing, other) = started
    result = json.loads(said.splitlines()[-1])
    assert result["processes"] == 2 and result["steps"] == 128 and not nothing
    meta = json.loads((tmp_path / "run/meta.json").read_text())
    assert meta["steps"] == 128 and meta["processes"] == 2 and meta["diverged_worlds"] == 0
    assert len(CROWDED.findall(error)) == 1 and not CROWDED.findall(other)


def test_a_folder_that_exists_is_said_by_every_rank(motions, tmp_path):
    """One that goes on alone waits for the others, and its end would hide the mistake."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    data = ("--data", "loco_mujoco", "--data-root", str(motions), "--no-evaluate", *SIZES)
    for process, _, error in as_two_ranks(command(*data, "--steps", "64", "--out", str(tmp_path / "run"))):
        assert process.returncode == 2 and "exists" in error.splitlines()[-1] and "Traceback" not in error


def test_threads_are_counted_where_they_run(monkeypatch, caplog):
    monkeypatch.setattr(checks, "available_cores", lambda: 4)
    for processes, threads in ((4, 1), (2, 2), (1, 4), (2, 5)):  # the last is told by each process itself
        checks.check_crowding(processes, threads)
    assert not caplog.records
    checks.check_crowding(4, 2)
    assert "4 processes of 2 thread(s) share 4 core(s)" in caplog.text


def ranks_of(launcher):
    """The processes of a command that train, in the order in which they were started."""
    children = [(child, " ".join(child.cmdline())) for child in psutil.Process(launcher).children(recursive=True)]
    found = [child for child, words in children if "spawn_main" in words or "train_lowlevel" in words]
    return sorted(found, key=lambda child: child.pid)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.mark.parametrize(
    ("launcher", "told", "number"),
    [
        ("own", "launcher", signal.SIGTERM),
        ("own", "one rank", signal.SIGTERM),
        ("own", "all", signal.SIGINT),  # as the terminal does on Ctrl-C, which the launcher passes on once more
        ("torchrun", "launcher", signal.SIGTERM),
    ],
)
def test_ranks_that_are_told_to_end_save_at_one_update_and_leave(motions, tmp_path, launcher, told, number):
    """No checkpoint is due within the hour; what there is afterwards was written because of the signal."""
    sizes = ("--data", "loco_mujoco", "--data-root", str(motions), "--no-evaluate", "--threads", "1", *SIZES)
    folder = tmp_path / "broken"
    endless = command(*sizes, "--steps", "100000000", "--checkpoint-s", "3600", "--out", str(folder))
    arguments = [*endless, "--processes", "2"] if launcher == "own" else [*TORCHRUN, *endless[2:]]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "tensorboard").is_dir():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2.0)  # some updates, where the machine is not busy
        assert not (folder / "training_state.pt").exists()
        ranks = ranks_of(process.pid)
        assert len(ranks) == 2
        everyone = [process.pid, *(rank.pid for rank in ranks)]
        for pid in {"launcher": everyone[:1], "one rank": everyone[2:], "all": everyone}[told]:
            os.kill(pid, number)
        _, left = psutil.wait_procs(ranks, timeout=28)
        assert not left, "launchers kill after 30 s what does not end by itself"
        said, error = process.communicate(timeout=120)
    finally:
        process.kill()  # where something was wrong; ranks end with their launcher
    assert process.returncode != 0 and not said
    assert (folder / "training_state.pt").is_file()
    if launcher == "own":
        assert process.returncode == 2 and "Traceback" not in error, error
        assert error.strip().splitlines()[-1].endswith("a run continues with --resume")
    done = json.loads((folder / "meta.json").read_text())["steps"]
    assert done % 64 == 0  # whole updates
    if (launcher, told) == ("own", "launcher"):
        more = str(done + 128)
        run("--resume", str(folder), "--steps", more, "--threads", "1", "--no-evaluate")
        run(*sizes, "--processes", "2", "--steps", more, "--out", str(tmp_path / "whole"))
        whole, broken = (tmp_path / name / "weights.safetensors" for name in ("whole", "broken"))
        assert whole.read_bytes() == broken.read_bytes()


def test_a_killed_process_ends_the_run_in_words_and_it_can_go_on(motions, tmp_path):
    threads = str(available_cores())  # of both processes together: twice as many as there are cores
    data = ("--data", "loco_mujoco", "--data-root", str(motions), "--no-evaluate", "--threads", threads, *SIZES)
    folder = tmp_path / "run"
    endless = ("--processes", "2", "--steps", "100000000", "--checkpoint-s", "0.1", "--out", str(folder))
    process = subprocess.Popen(command(*data, *endless), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "training_state.pt").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    workers = ranks_of(process.pid)
    assert len(workers) == 2
    workers[-1].send_signal(signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "--resume" in error.strip().splitlines()[-1] and "Traceback" not in error
    assert len(CROWDED.findall(error)) == 1  # told once, not by every process
    done = json.loads((folder / "meta.json").read_text())["steps"]
    result = run("--resume", str(folder), "--steps", str(done + 128), "--threads", "1", "--no-evaluate")
    assert result["steps"] >= done + 128
