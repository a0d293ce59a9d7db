"""A user's mistakes, end to end: one clear line on stderr, exit code 2, and nothing left behind."""

import errno
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from failing_commands import COMMANDS

from motionlex.data.errors import UserError, check_number, check_seed
from motionlex.scripts.common import one_line

ONE_STEP = ("--steps", "1", "--out", "run")


def table(frames=120):
    """Rows of a well-formed CSV: standing upright, joints swinging a little."""
    rows = np.zeros((frames, 26))
    rows[:, 2], rows[:, 6] = 1.0, 1.0
    rows[:, 7:] = 0.1 * np.sin(np.arange(frames) / 20)[:, None]
    return rows


def write_lafan1(folder, change=None, text=None):
    """A folder with a good validation clip and a training clip that ``change`` or ``text`` may have spoilt."""
    folder.mkdir()
    np.savetxt(folder / "walk2_subject4.csv", table(), delimiter=",")
    if text is not None:
        (folder / "walk1_subject5.csv").write_bytes(text)
    else:
        rows = table()
        np.savetxt(folder / "walk1_subject5.csv", rows if change is None else change(rows), delimiter=",")
    return folder


def with_value(frame, column, value):
    def change(rows):
        rows[frame, column] = value
        return rows

    return change


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_lafan1(tmp_path_factory.mktemp("data") / "good")


SPOILT = {
    "columns": ({"change": lambda rows: rows[:, :25]}, "25 columns, wanted 26"),
    "nan": ({"change": with_value(5, 9, np.nan)}, "row 6, column 10: nan"),
    "infinite": ({"change": with_value(5, 9, np.inf)}, "row 6, column 10: inf"),
    "other unit": ({"change": with_value(5, 0, 1e300)}, "row 6, column 1: 1e\\+300, wanted metres"),
    "quaternion": ({"change": with_value(5, 6, 1.5)}, "row 6: the quaternion .* norm 1.5"),
    "one frame": ({"change": lambda rows: rows[:1]}, "1 row; .* at least 2 frames"),
    "empty": ({"text": b""}, "0 rows"),
    "binary": ({"text": bytes(range(256))}, "not a text file"),
    "words": ({"text": b"a,b\nc,d\n"}, "2 columns, wanted 26"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_malformed_csv(kind, fails, tmp_path):
    import re

    how, wanted = SPOILT[kind]
    root = write_lafan1(tmp_path / "data", **how)
    flags = ("--data", "lafan1", "--data-root", root)
    for line in (
        fails("vae", *flags, *ONE_STEP),
        fails("low", *flags, *ONE_STEP, "--clips", "walk1_subject5"),
        fails("prepare", *flags, "--out", "converted"),
        fails("prepare", root / "walk1_subject5.csv", "--out", "converted"),
    ):
        assert "walk1_subject5.csv" in line and re.search(wanted, line), line


def test_missing_data(fails, tmp_path, good):
    (tmp_path / "none").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "none", good / "walk2_subject4.csv"):
        assert str(root) in fails("vae", "--data", "lafan1", "--data-root", root, *ONE_STEP)
        assert str(root) in fails("low", "--data", "lafan1", "--data-root", root, *ONE_STEP)
    assert "--data-root is empty" in fails("vae", "--data", "lafan1", "--data-root", "", *ONE_STEP)
    assert "nowhere.csv" in fails("prepare", "nowhere.csv")


TRAINING = [
    (("--method", "dasp"), "unknown method 'dasp'. Did you mean 'daps'?", "vae"),
    (("--preset", "smal"), "Did you mean 'small'?", "vae"),
    (("--data", "lafn1"), "Did you mean 'lafan1'?", "vae low"),
    (("--device", "gpu"), "device 'gpu' cannot be used", "vae low"),
    (("--device", "meta"), "device 'meta' cannot be used", "vae low"),
    (("--env", "g1"), "unknown robot 'g1'", "low"),
    (("--goal", "latnt"), "invalid choice 'latnt'", "low"),
    (("--goal", "latent"), "give --vae RUN", "low"),
    (("--clips", "nothing"), "unknown clip 'nothing'", "low"),
    (("--clips", "walk1_subject5:abc"), "wanted name:from-to", "low"),
    (("--worlds", "0"), "--worlds must be positive", "low"),
    (("--push", "nan"), "--push must be at least 0", "low"),
    (("--push", "-1"), "--push must be at least 0", "low"),
    (("--distill-steps", "0"), "--distill-steps must be positive", "low"),
    (("--checkpoint-s", "nan"), "--checkpoint-s must be positive", "low"),
    (("--teacher", "nowhere"), "nowhere", "low"),
    (("--steps", "0"), "--steps must be positive", "vae low high"),
    (("--steps", "-3"), "--steps must be positive", "vae low high"),
    (("--steps", "many"), "--steps: wanted {None}|INT, got 'many'", "vae low high"),
    (("--hz", "0"), "--hz must be positive", "vae low"),
    (("--hz", "inf"), "--hz must be", "vae low"),
    (("--hz", "1e9"), "--hz must be above 0 and at most 1000", "vae low"),
    (("--seed", "-1"), "--seed must be at least 0", "vae low high"),
    (("--seed", "9" * 30), "--seed must be at least 0 and at most 4294967295", "vae low high"),
    (("--set", "sample=4"), "Did you mean 'samples'?", "vae"),
    (("--set", "beta_end=inf"), "--set beta_end: expected a value like 0.01, got 'inf'", "vae"),
    (("--set", "family=bernoulli"), "family of a motion likelihood must be one of gaussian", "vae"),
    (("--method", "gumbel", "--set", "temperature_start=0"), "temperature_start must be positive, got 0.0", "vae"),
    (("--method", "fsq", "--set", "levels=2,5"), "every level must be >= 3, got [2]", "vae"),
    (("--method", "rrvq", "--set", "grid_tokens=7"), "wants 7 tokens, which is no grid over data of 32 items", "vae"),
    (("--set", "micro_batches=3"), "micro_batches must divide batch=64, got 3", "vae"),
    (("--stepz", "3"), "did you mean --steps?", "vae low high"),
    (("--resume", "nowhere", "--data", "builtin"), "nowhere is not a run of", "vae low high"),
    (("--out", ""), "--out is empty", "vae low high"),
]


@pytest.mark.parametrize(("flags", "wanted", "commands"), TRAINING, ids=[" ".join(case[0])[:40] for case in TRAINING])
def test_training_flags(flags, wanted, commands, fails, good, tiny_vae_run):
    for command in commands.split():
        given = {"--data": "lafan1", "--data-root": good, "--steps": "1", "--out": "run"}
        given |= {"--vae": tiny_vae_run} if command == "high" else {}
        given |= dict(zip(flags[::2], flags[1::2]))
        if "--resume" in given:
            given = {"--resume": given["--resume"]}
        assert wanted in fails(command, *(part for pair in given.items() for part in pair)), command


def test_run_folders(fails, good, tmp_path, tiny_vae_run):
    data = ("--data", "lafan1", "--data-root", good, "--steps", "1")
    taken, file = tmp_path / "taken", good / "walk2_subject4.csv"
    taken.mkdir()
    for command, more in (("vae", ()), ("low", ()), ("high", ("--vae", tiny_vae_run))):
        assert f"{taken} already exists" in fails(command, *data, *more, "--out", taken)
        assert f"{file} is no folder" in fails(command, *data, *more, "--out", file / "run")
    assert list(taken.iterdir()) == []
    # a run of one command is not a run of another
    assert "not a run of train_lowlevel" in fails("low", "--resume", tiny_vae_run)
    assert "not a run of motionlex train-highlevel" in fails("high", "--resume", tiny_vae_run)
    assert "cannot be resumed" in fails("vae", "--resume", tiny_vae_run)
    assert "not a run of train_lowlevel" in fails("stack", tiny_vae_run, "--stage", "tracking")


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"method": 3}', "{", "\x00"])
def test_damaged_configuration(content, fails, tmp_path, tiny_vae_run):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_vae_run, folder)
    (folder / "config.json").write_text(content)
    for command in ("vae", "low", "high"):
        assert str(folder) in fails(command, "--resume", folder)
    assert str(folder) in fails("evaluate", folder)


def refuse_writing(monkeypatch, number=errno.ENOSPC, after=0):
    """Let every file after the first few fail as on a full disk."""
    import os

    count, fsync = [0], os.fsync

    def full(handle):
        count[0] += 1
        if count[0] > after:
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr("os.fsync", full)


def test_full_disk_while_a_run_is_made(fails, good, tmp_path, monkeypatch):
    refuse_writing(monkeypatch, after=1)
    for command in ("vae", "low"):
        line = fails(
            command, "--data", "lafan1", "--data-root", good, "--steps", "1", "--out", tmp_path / "a" / "b" / "run"
        )
        assert "No space left" in line and "free some space" in line
        assert not (tmp_path / "a").exists()


def test_full_disk_while_motions_are_converted(fails, good, tmp_path, monkeypatch):
    refuse_writing(monkeypatch, after=1)
    line = fails("prepare", "--data", "lafan1", "--data-root", good, "--out", tmp_path / "converted")
    assert "No space left" in line and not (tmp_path / "converted").exists()


def test_a_folder_that_cannot_be_made(fails, good):
    # /proc takes no new folders, not even root's
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    line = fails("vae", "--data", "lafan1", "--data-root", good, "--steps", "1", "--out", "/proc/run")
    assert "/proc/run" in line and "partial" not in line


OTHERS = [
    ("evaluate", ("--batches", "0"), "--batches must be positive"),
    ("evaluate", ("--batch", "-1"), "--batch must be positive"),
    ("evaluate", ("--keypoint-segments", "0"), "--keypoint-segments must be positive"),
    ("evaluate", ("--seed", "-1"), "--seed must be"),
    ("evaluate", ("--split", "x"), "--split must be"),
    ("evaluate", ("--iwae-samples", "-1"), "--iwae-samples must be at least 0"),
    ("evaluate", ("--out", ""), "--out is empty"),
    ("compare", (), "no runs to compare"),
    ("compare", ("nowhere",), "nowhere is not a run of train_motion_vae"),
    ("stack", ("--prompt-seconds", "nan"), "--prompt-seconds must be"),
    ("stack", ("--prompts", "0"), "--prompts must be positive"),
    ("stack", ("--stage", "x"), "invalid choice 'x'"),
    ("stack", ("--data", "lafn1"), "Did you mean 'lafan1'?"),
    ("prepare", ("--hz", "nan"), "--hz must be"),
    ("prepare", ("--hz", "1e8", "walk.csv"), "--hz must be"),
    ("prepare", ("--out", ""), "--out is empty"),
    ("pack", (), "--vae PATH"),
    ("benchmark", (), "sampler, vae-step, env, loop"),
    ("benchmark", ("env", "--hz", "nan"), "--hz must be"),
    ("benchmark", ("sampler", "--repeats", "0"), "--repeats must be positive"),
    ("benchmark", ("vae-step", "--repeats", "0"), "--repeats must be positive"),
    ("benchmark", ("loop", "--seconds", "nan"), "--seconds must be"),
    ("benchmark", ("loop", "--threads", "0"), "--threads must be positive"),
    ("doctor", ("now",), "Unrecognized options: now"),
    ("motionlex", ("simulat",), "Did you mean 'simulate'?"),
    ("motionlex", ("",), "unknown command ''"),
]


@pytest.mark.parametrize(("command", "flags", "wanted"), OTHERS, ids=[f"{c[0]} {' '.join(c[1])}" for c in OTHERS])
def test_other_commands(command, flags, wanted, fails, tiny_vae_run, tiny_bundle):
    target = {"evaluate": (tiny_vae_run,), "stack": (tiny_bundle,)}.get(command, ())
    assert wanted in fails(command, *target, *flags)


def test_no_command_lists_them(capsys):
    from motionlex.scripts.main import main

    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "no command given" in captured.err
    assert "simulate" in captured.out and "train-motion-vae" in captured.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    main = importlib.import_module(f"motionlex.scripts.{COMMANDS[command]}").main
    assert main(["--help"]) == 0
    captured = capsys.readouterr()
    assert "usage" in captured.out.lower() and captured.err == ""


def test_json_is_the_last_line(capsys):
    from motionlex.scripts.doctor import main

    assert main(["--json"]) == 0
    assert "packages" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_boxes_become_lines():
    rows = ["╭─ Value error ─╮", "│ Error parsing --hz: could not │", "│ convert 'x' │", "│ ────── │"]
    box = "\n".join([*rows, "│ Argument helptext: │", "╰──────╯"])
    assert one_line(box, "p") == "Error parsing --hz: could not convert 'x' (p --help lists the flags)"
    assert one_line("", "p").startswith("the flags could not be read")


def test_numbers():
    check_number("--a", None, above=0)
    check_number("--a", 0, at_least=0, at_most=1)
    for bad in (float("nan"), float("inf"), -float("inf"), 0, -1):
        with pytest.raises(UserError, match="--a must be positive, got"):
            check_number("--a", bad, above=0)
    with pytest.raises(UserError, match="at least 0 and at most 4294967295"):
        check_seed(2**32)
