"""How many processes and threads a low-level training takes, and what is said of those that die."""

import math
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from motionlex.controllers import low_level
from motionlex.controllers.low_level import default_processes, train_low_level
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.data.errors import UserError
from motionlex.scripts import train_lowlevel


def test_a_plain_command_takes_a_process_per_core_while_each_has_robots_enough(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(low_level, "available_cores", lambda: 16)
    assert default_processes(LowLevelFlags(worlds=256)) == 4
    assert default_processes(LowLevelFlags(worlds=2048)) == 16
    assert default_processes(LowLevelFlags(worlds=32)) == 1
    assert default_processes(LowLevelFlags(processes=8)) == 8
    assert default_processes(LowLevelFlags(threads=2)) == 1
    assert default_processes(LowLevelFlags(worlds=256, device="cuda")) == 1
    assert default_processes(LowLevelFlags(worlds=256, device="cuda:1", processes=2)) == 2
    assert default_processes(LowLevelFlags(worlds=256, backend="warp")) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert default_processes(LowLevelFlags(worlds=256)) == 1


@pytest.mark.parametrize("hz", [math.inf, math.nan, 0.0])
def test_numbers_are_checked_before_processes_are_counted(monkeypatch, hz):
    """With OMP_NUM_THREADS, which tests set, one process needs no counting."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(UserError, match="--hz must be positive"):
        default_processes(LowLevelFlags(hz=hz))


def test_a_training_says_what_keeps_it_to_one_process(small_training, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(low_level, "available_cores", lambda: 16)
    said = "one process, since OMP_NUM_THREADS is 1; --processes 2 takes all cores"

    def train(name, **changes):
        caplog.clear()
        options = {"out": tmp_path / name, "worlds": 128, "steps": 128, "evaluate": False, **changes}
        train_low_level(LowLevelFlags(**options))
        return caplog.text

    assert said in train("plain")
    assert said not in train("chosen", processes=1)
    assert said not in train("threads", threads=1)
    assert said not in train("few", worlds=64)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "one process" not in train("unset")


@pytest.mark.parametrize(("value", "threads"), [("2,1", 2), (" 3 ", 3), ("0", 0), ("many", 0), ("", 0)])
def test_the_first_number_of_omp_num_threads_counts(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr(low_level, "available_cores", lambda: 4)
    assert low_level._asked_threads() == threads
    assert default_processes(LowLevelFlags(worlds=256)) == (1 if threads else 4)


@pytest.mark.parametrize(("processes", "said"), [(0, "--processes"), (-1, "--processes"), (1000, "cannot be shared")])
def test_processes_that_cannot_be_are_refused_before_any_is_started(monkeypatch, capsys, processes, said):
    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: pytest.fail("started"))
    assert train_lowlevel.main(["--env", "h1", "--processes", str(processes)]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_process_that_crashed_is_quoted_in_its_own_words(monkeypatch, capsys, tmp_path):
    told = {"message": "RuntimeError: no memory", "extraInfo": {"py_callstack": "Traceback (most recent call last)"}}
    failure = SimpleNamespace(exitcode=1, message=told)

    class Failed(ChildFailedError):
        def __init__(self):
            pass

        def get_first_failure(self):
            return 1, failure

    def launch(*_):
        def run(flags):
            raise Failed

        return run

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launch)
    assert train_lowlevel.main(["--env", "h1", "--processes", "2", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "exit code 1 (RuntimeError: no memory)" in said and "Traceback" not in said
