"""LAFAN1 files: made ones with known faults, and the real ones against their known glitches."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motionlex.data import quaternion
from motionlex.data.datasets import load_dataset
from motionlex.data.datasets.lafan1 import VALIDATION, label_of, load, read_csv
from motionlex.data.errors import UserError
from motionlex.data.glitches import glitch_steps, valid_mask

ROOT = os.environ.get("MOTIONLEX_LAFAN1")
real = pytest.mark.skipif(not ROOT, reason="MOTIONLEX_LAFAN1 names no folder")


def _rows(frames=90, speed=1.0):
    """A walk that sways and turns, in the files' own columns (quaternion x, y, z, w)."""
    time = np.arange(frames) / 30.0
    rows = np.zeros((frames, 26))
    rows[:, 0], rows[:, 1], rows[:, 2] = speed * time, 0.05 * np.sin(6 * time), 1.0 + 0.02 * np.sin(12 * time)
    turns = np.stack((0.5 * time, 0.1 * np.sin(6 * time), 0.05 * np.cos(6 * time)), axis=1)
    rows[:, 3:7] = Rotation.from_euler("ZYX", turns).as_quat()
    rows[:, 7:] = 0.3 * np.sin(5 * time)[:, None]
    return rows


def _write(path, rows):
    np.savetxt(path, rows, delimiter=",", fmt="%.6f")
    return path


def test_quaternions_are_reordered_and_hinges_keep_their_columns(tmp_path):
    rows = _rows()
    clip = read_csv(_write(tmp_path / "walk1_subject9.csv", rows))
    assert (clip.name, clip.hz, clip.frames, clip.label_at(50)) == ("walk1_subject9", 30.0, 90, "walk")
    np.testing.assert_allclose(
        quaternion.to_matrix(clip.qpos[:, 3:7]), Rotation.from_quat(rows[:, 3:7]).as_matrix(), atol=1e-5
    )
    np.testing.assert_allclose(np.delete(clip.qpos, np.s_[3:7], 1), np.delete(rows, np.s_[3:7], 1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("walk1_subject5", "walk"),
        ("run2_subject1", "run"),
        ("sprint1_subject2", "sprint"),
        ("dance2_subject2", "dance"),
        ("fight1_subject2", "fight"),
        ("fightAndSports1_subject4", "fight_and_sports"),
        ("fallAndGetUp3_subject1", "fall_and_get_up"),
        ("jumps1_subject1", "jump"),
        ("cartwheel1_subject1", None),
        ("01", None),
    ],
)
def test_label_comes_from_the_file_name(name, label):
    assert label_of(name) == label


def _edit(text, row, column, value):
    lines = text.splitlines()
    cells = lines[row - 1].split(",")
    cells[column - 1] = value
    lines[row - 1] = ",".join(cells)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: "\n".join(line.rpartition(",")[0] for line in t.splitlines()), "row 1: 25 columns, wanted 26"),
        (lambda t: t.replace("\n", ",0.5\n", 1), "row 1: 27 columns, wanted 26"),
        (lambda t: _edit(t, 7, 3, "nan"), "row 7, column 3: nan is not a finite number"),
        (lambda t: _edit(t, 8, 20, "inf"), "row 8, column 20: inf is not a finite number"),
        (lambda t: _edit(t, 5, 9, "left"), "row 5, column 9: 'left' is not a number"),
        (lambda t: _edit(t, 5, 9, ""), "row 5, column 9: '' is not a number"),
        (lambda t: _edit(t, 12, 7, "2.0"), r"row 12: the quaternion \(columns 4 to 7\) has norm [0-9.]+, wanted 1"),
        (lambda t: t.splitlines()[0], "has 1 row; a motion needs at least 2 frames"),
        (lambda t: "", "has 0 rows"),
        (lambda t: "x,y,z\n" + t, "row 1: 3 columns, wanted 26"),
    ],
)
def test_malformed_files_are_refused_with_file_and_row(tmp_path, change, message):
    path = _write(tmp_path / "walk2_subject4.csv", _rows())
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=rf"walk2_subject4\.csv.*{message}"):
        read_csv(path)


def test_windows_line_ends_and_blank_lines_are_fine(tmp_path):
    path = _write(tmp_path / "walk2_subject4.csv", _rows())
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert read_csv(path).frames == 90
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="not a text file"):
        read_csv(path)


def test_folder_mistakes_say_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nowhere", 50.0)
    with pytest.raises(UserError, match=r"no \.csv files"):
        load(tmp_path, 50.0)
    inner = tmp_path / "h1"
    inner.mkdir()
    path = _write(inner / "run1_subject2.csv", _rows())
    with pytest.raises(UserError, match=r"did you mean .*h1"):
        load(tmp_path, 50.0)
    with pytest.raises(UserError, match="is a file"):
        load(path, 50.0)
    with pytest.raises(UserError, match=r"no validation clip.*dance2_subject2"):
        load(inner, 50.0)
    path.rename(inner / "walk2_subject4.csv")
    with pytest.raises(UserError, match="only validation clips"):
        load(inner, 50.0)


def test_some_of_the_clips_will_do(tmp_path, monkeypatch):
    for name in ("walk2_subject4", "run1_subject2"):
        _write(tmp_path / f"{name}.csv", _rows())
    monkeypatch.setenv("MOTIONLEX_LAFAN1", str(tmp_path))
    data = load_dataset("lafan1", None, hz=50.0)
    assert [c.name for c in data.train] == ["run1_subject2"] and [c.name for c in data.validation] == ["walk2_subject4"]
    assert all(clip.hz == 50.0 and clip.frames == 149 for clip in data.clips)


def test_teleports_and_spikes_are_found_and_nothing_else():
    rows = _rows(300, speed=6.0)
    qpos = rows[:, [0, 1, 2, 6, 3, 4, 5, *range(7, 26)]]
    assert glitch_steps(qpos, 30.0).tolist() == [] and valid_mask(qpos, 30.0).all()
    qpos[100:, :2] += 0.25  # teleport between frames 99 and 100
    spike = Rotation.from_rotvec([0, 0.9, 0]) * Rotation.from_quat(np.roll(qpos[200:, 3:7], -1, axis=1))
    qpos[200:, 3:7] = np.roll(spike.as_quat(), 1, axis=1)  # orientation jumps between frames 199 and 200
    qpos[250:, 3:7] *= -1  # the same rotations: no glitch
    assert glitch_steps(qpos, 30.0).tolist() == [99, 199]
    valid = valid_mask(qpos, 30.0)
    assert np.flatnonzero(~valid).tolist() == [*range(94, 106), *range(194, 206)]


@real
def test_the_known_glitches_are_masked_and_little_else():
    known = {
        "walk3_subject1": [3995],
        "sprint1_subject2": [998],
        "dance1_subject2": [2074],
        "fightAndSports1_subject4": [1930, 2097],
    }
    for name, steps in known.items():
        path = Path(ROOT) / f"{name}.csv"
        if not path.exists():
            continue
        clip = read_csv(path)
        assert set(steps) <= set(glitch_steps(clip.qpos, clip.hz).tolist())
        resampled = clip.resample(50.0)
        for step in steps:
            assert not clip.valid[step - 4 : step + 6].any()
            centre = (step + 0.5) / 30.0 * 50.0
            starts = resampled.valid_starts(32)
            assert not ((starts <= centre) & (starts + 31 >= centre)).any()
        assert (~clip.valid).mean() < 0.01


@real
def test_the_official_split_and_the_whole_length():
    data = load(Path(ROOT), 30.0)
    if len(data.clips) != 40:
        pytest.skip("the folder holds only some of the clips")
    assert len(data.train) == 36 and tuple(sorted(c.name for c in data.validation)) == VALIDATION
    assert sum(clip.frames for clip in data.clips) == 264_705
    assert sum(len(glitch_steps(clip.qpos, clip.hz)) for clip in data.clips) == 16
    speed = [np.linalg.norm(c.qvel()[c.valid][:, :3], axis=1).max() for c in data.clips]
    assert max(speed) < 7.5  # nobody runs faster on this set once the teleports (28 m/s) are out
