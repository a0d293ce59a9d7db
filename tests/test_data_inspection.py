"""prepare-motions: reports against hand-made clips, conversion, and one clear line for every mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest

from motionlex.data.clip import LabelSpan, MotionClip
from motionlex.data.datasets.loco_mujoco import read_npz_clips
from motionlex.data.inspection import check_valid_stretches, report_clip, stretches
from motionlex.data.procedural.dynamics import InverseDynamics
from motionlex.data.robots import get_robot
from motionlex.scripts.prepare_motions import main

ROBOT = get_robot("h1")


def _standing(frames=100, hz=50.0, lift=0.0, valid=None):
    qpos = np.zeros((frames, 26))
    qpos[:, 2], qpos[:, 3], qpos[:, 7:] = ROBOT.standing_height + lift, 1.0, ROBOT.default_pose
    return MotionClip(name="walk9", qpos=qpos, hz=hz, valid=valid)


def _csv(path, clip):
    columns = [0, 1, 2, 4, 5, 6, 3, *range(7, 26)]
    np.savetxt(path, clip.qpos[:, columns], delimiter=",", fmt="%.8f")
    return path


def test_stretches_are_the_runs_of_true():
    assert stretches(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 2), (4, 5), (6, 7)]
    assert stretches(np.zeros(4, bool)) == [] and stretches(np.ones(4, bool)) == [(0, 4)]


def test_report_counts_what_was_put_in():
    clip = _standing()
    qpos = clip.qpos.copy()
    qpos[:, 0] = 0.02 * np.arange(100)
    qpos[25:50, 7 + 3] = ROBOT.upper[3] + 0.2
    valid = np.ones(100, dtype=bool)
    valid[60:71] = False
    labels = (LabelSpan(start=0, stop=50, label="stand"), LabelSpan(start=50, stop=100, label="walk"))
    report = report_clip(MotionClip(name="x", qpos=qpos, hz=50.0, valid=valid, labels=labels), ROBOT)
    assert report.range_excess_rad == pytest.approx(0.2) and report.range_excess_joint == ROBOT.joint_names[3]
    assert report.range_excess_share == 0.25 and report.masked_s == ((1.2, 1.4),)
    assert report.distance_m == pytest.approx(0.02 * (99 - 12)) and report.labels == ("stand", "walk")


def test_check_sees_a_sunken_foot_and_skips_masked_frames():
    dynamics = InverseDynamics(ROBOT)
    good = check_valid_stretches(_standing(), dynamics)
    assert abs(good["penetration_m"]) < 2e-3 and good["slide_m_s"] < 1e-6 and good["torque_ratio"] < 1
    assert check_valid_stretches(_standing(lift=-0.03), dynamics)["penetration_m"] == pytest.approx(0.03, abs=2e-3)
    valid = np.ones(100, dtype=bool)
    valid[40:60] = False
    qpos = _standing().qpos.copy()
    qpos[50, 2] -= 0.5
    masked = check_valid_stretches(MotionClip(name="x", qpos=qpos, hz=50.0, valid=valid), dynamics)
    assert abs(masked["penetration_m"]) < 2e-3
    assert check_valid_stretches(_standing(valid=np.zeros(100, bool)), dynamics) is None


def test_csv_becomes_a_trajectory_of_loco_mujoco(tmp_path, capsys):
    source = _csv(tmp_path / "walk9.csv", _standing(hz=30.0))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "motionlex.scripts.prepare_motions"]
    command += [str(source), "--out", str(out), "--hz", "100", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["written"] == [str(out / "walk9.npz")] and result["clips"][0]["labels"] == ["walk"]
    (clip,) = read_npz_clips(out / "walk9.npz")
    assert (clip.hz, clip.frames) == (100.0, 331)
    np.testing.assert_allclose(clip.qpos, np.tile(_standing().qpos[:1], (331, 1)), atol=1e-7)
    assert main([str(out / "walk9.npz")]) == 0
    assert "walk9" in capsys.readouterr().out


def test_the_check_gives_a_verdict_per_clip_and_counts(tmp_path, capsys):
    """A good clip, one that is too short to train on and one in the air: a report with exit code 0."""
    for name, options in (("walk1", {}), ("walk2", {"frames": 15}), ("walk3", {"lift": 0.6})):
        _csv(tmp_path / f"{name}.csv", _standing(hz=30.0, **{"frames": 90, **options}))
    files = [str(tmp_path / f"walk{i}.csv") for i in (1, 2, 3)]
    assert main([*files, "--check", "--prepare", "False", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["verdicts"] == {"ok": 1, "warning": 0, "unusable": 2}
    good, short, high = result["clips"]
    assert good["verdict"] == "ok" and good["reasons"] == [] and good["feasibility"]["torque_ratio"] < 1
    assert good["preflight"]["prepared"] is False and good["preflight"]["open_loop_median_s"] > 0.3
    assert "24 frames, a segment needs 32" in short["reasons"][0]  # 15 frames at 30 Hz are 24 at 50
    assert "hovers 0.60 m" in high["reasons"][0]
    assert main([files[2], "--check"]) == 0  # as training would prepare it: set on the floor
    shown = capsys.readouterr().out
    assert "  ok" in shown and "prepared True" in shown and "open_loop_median_s" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "no such file"),
        (["notes.txt"], "not '.txt'"),
        (["walk9.csv", "--out", "full"], "not an empty folder"),
        (["walk9.csv", "--hz", "0"], "--hz must be above 0"),
        (["--data", "lafan"], "Did you mean 'lafan1'"),
        (["--data", "lafan1", "--data-root", "full"], "no .csv files"),
        (["walk9.csv", "walk9.csv", "--out", "new"], "several clips would be written as walk9"),
        (["nan.csv", "--check"], "not a finite number"),
        (["wide.csv", "--check"], "29 columns, wanted 26"),
        (["one.csv", "--check"], "1 row; a motion needs at least 2"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    _csv(tmp_path / "walk9.csv", _standing(hz=30.0))
    lines = (tmp_path / "walk9.csv").read_text().splitlines()
    (tmp_path / "nan.csv").write_text("\n".join([*lines[:9], lines[9].replace("1.01590000", "nan")]))
    (tmp_path / "wide.csv").write_text("\n".join(f"{line},0,0,0" for line in lines))
    (tmp_path / "one.csv").write_text(lines[0])
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and "Traceback" not in error
    assert not (tmp_path / "new").exists() and sorted(p.name for p in (tmp_path / "full").iterdir()) == ["x"]
