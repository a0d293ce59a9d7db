"""``benchmark-images --ray``: the same table as one job after the other, and errors in words."""

import json
import sys

import pytest

from motionlex.scripts.benchmark_images import main

FEW = ("rrvq-table1", "--data", "digits", "--steps", "2", "--batch", "8", "--width", "16", "--images", "16")


def run(capsys, *argv):
    code = main([*FEW, *argv, "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if code == 0 else None, said.err


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)  # what import makes of a package that is not there
    code, _, said = run(capsys, "--out", str(tmp_path / "out"), "--ray", "local")
    assert code == 2 and "extra 'ray'" in said


def test_the_table_is_the_same_and_a_second_call_has_nothing_to_do(tmp_path, capsys):
    pytest.importorskip("ray")
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    assert run(capsys, "--out", str(alone))[1]["left"] == 0
    assert run(capsys, "--out", str(spread), "--ray", "local")[1]["left"] == 0
    for name in ("table.md", "table.json"):
        assert (spread / name).read_bytes() == (alone / name).read_bytes()
    assert run(capsys, "--out", str(spread), "--ray", "nobody:1")[1]["left"] == 0  # no cluster is asked


def test_a_job_that_fails_is_named_and_the_others_are_done(tmp_path, capsys):
    pytest.importorskip("ray")
    flags = ("--seeds", "2", "--out", str(tmp_path / "out"))
    assert run(capsys, *flags, "--shard", "4/4")[0] == 0
    (tmp_path / "out" / "jobs" / "rrvq_seed0").write_text("a file where the run is to be")
    code, _, said = run(capsys, *flags, "--ray", "local")
    assert code == 2 and "1 of 3 jobs failed: rrvq_seed0" in said
    listed = run(capsys, *flags, "--jobs-list")[1]["jobs"]
    assert [job["name"] for job in listed if not job["finished"]] == ["rrvq_seed0"]


def test_a_gpu_that_ray_does_not_have_is_named(tmp_path, capsys):
    ray = pytest.importorskip("ray")
    code, _, said = run(capsys, "--out", str(tmp_path / "out"), "--ray", "local", "--device", "cuda:7")
    assert (code == 2 and "Ray has no GPU" in said) or code == 0  # where there is one, it is the job's cuda:0
    assert not ray.is_initialized()


def test_a_cluster_that_does_not_answer_is_named(tmp_path, capsys):
    pytest.importorskip("ray")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"):
        code, _, said = run(capsys, "--out", str(tmp_path / "out"), "--ray", address)
        assert code == 2 and f"--ray {address}: no cluster answers" in said
