"""LocoMuJoCo files: round trip, MuJoCo as the truth for both layouts, the library itself where it is installed."""

import os
from pathlib import Path

import mujoco
import numpy as np
import pytest

from motionlex.data import quaternion
from motionlex.data.clip import MotionClip
from motionlex.data.datasets.loco_mujoco import OLD_HZ, OLD_ROOT_HEIGHT, load, read_npz_clips, write_clips
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot

ROBOT = get_robot("h1")
MINI = os.environ.get("MOTIONLEX_LOCO_MUJOCO")
REFERENCE = os.environ.get("MOTIONLEX_H1_REFERENCE")


def _clip(name="walk1_subject1", frames=60, hz=40.0, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / hz
    qpos = np.concatenate((0.3 * np.sin(2 * time + rng.uniform(0, 6, 3)), np.zeros((frames, 23))), axis=1)
    qpos[:, 2] += 1.0
    qpos[:, 3:7] = quaternion.from_rotvec(0.6 * np.sin(3 * time + rng.uniform(0, 6, 3)))
    qpos[:, 7:] = 0.4 * np.sin(4 * time + rng.uniform(0, 6, 19))
    return MotionClip(name=name, qpos=qpos, hz=hz)


def test_clips_survive_writing_and_reading(tmp_path):
    first, second = _clip(), _clip(frames=45, seed=1)
    write_clips(tmp_path / "walk1_subject1.npz", [first, second])
    a, b = read_npz_clips(tmp_path / "walk1_subject1.npz")
    assert (a.name, b.name, a.hz, a.label_at(0)) == ("walk1_subject1#0", "walk1_subject1#1", 40.0, "walk")
    np.testing.assert_allclose(a.qpos, first.qpos, atol=1e-15)
    np.testing.assert_allclose(b.qpos, second.qpos, atol=1e-15)
    write_clips(tmp_path / "one.npz", [first])
    assert [c.name for c in read_npz_clips(tmp_path / "one.npz")] == ["one"]
    with pytest.raises(UserError, match="one rate"):
        write_clips(tmp_path / "mixed.npz", [first, _clip(hz=50.0)])
    assert not (tmp_path / "mixed.npz").exists()


@pytest.mark.skipif(not REFERENCE, reason="MOTIONLEX_H1_REFERENCE names no model")
def test_states_are_those_of_the_reference_model(tmp_path):
    write_clips(tmp_path / "x.npz", [_clip()])
    model = mujoco.MjModel.from_xml_path(REFERENCE)
    data = mujoco.MjData(model)
    with np.load(tmp_path / "x.npz") as found:
        bodies = [model.body(name).id for name in found["body_names"]]
        sites = [model.site(name).id for name in found["site_names"]]
        for frame in (0, 17, 59):
            data.qpos[:], data.qvel[:] = found["qpos"][frame], found["qvel"][frame]
            mujoco.mj_forward(model, data)
            # float32 states of metre and radian size
            np.testing.assert_allclose(found["xpos"][frame], data.xpos[bodies], atol=2e-6)
            np.testing.assert_allclose(found["cvel"][frame], data.cvel[bodies], atol=2e-5)
            np.testing.assert_allclose(found["subtree_com"][frame], data.subtree_com[bodies], atol=2e-6)
            np.testing.assert_allclose(found["site_xpos"][frame], data.site_xpos[sites], atol=2e-6)
            np.testing.assert_allclose(found["site_xmat"][frame], data.site_xmat[sites], atol=2e-6)


def _current(tmp_path, **changes):
    """Write a minimal file in the current layout whose joints are shuffled and one more than the robot's."""
    clip = _clip()
    names = ["wrist", *ROBOT.joint_names[::-1]]
    hinges = np.concatenate((np.full((clip.frames, 1), 9.0), clip.qpos[:, :6:-1]), axis=1)
    arrays = {
        "qpos": np.concatenate((clip.qpos[:, :7], hinges), axis=1).astype(np.float32),
        "qvel": np.zeros((clip.frames, 26), np.float32),
        "joint_names": np.array(["root", *names]),
        "jnt_type": np.array([0] + [3] * 20),
        "njnt": np.array(21),
        "frequency": np.array(40.0),
        "split_points": np.array([0, clip.frames]),
        "metadata": np.array(None, dtype=object),  # what the library writes; needs pickle, so it must not be touched
    }
    arrays = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
    np.savez(tmp_path / "f.npz", **arrays)
    return clip, tmp_path / "f.npz"


def test_joints_are_matched_by_name(tmp_path, caplog):
    clip, path = _current(tmp_path)
    (read,) = read_npz_clips(path)
    np.testing.assert_allclose(read.qpos, clip.qpos, atol=1e-6)
    assert "wrist" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint_names": np.array(["root", "wrist", *ROBOT.joint_names[:-1], "tail"])}, "lacks the joints right_elbow"),
        ({"frequency": None}, "lacks frequency"),
        ({"jnt_type": np.array([0] + [3] * 19)}, "joints need 26 columns"),
        ({"jnt_type": np.array([3] * 27)}, "free joint"),
        ({"split_points": np.array([0, 59, 60])}, "split_points"),
        ({"frequency": np.array(0.0)}, "rate must be positive"),
        ({"qpos": None}, "neither 'qpos' nor 'q_pelvis_tx'"),
        ({"qpos": np.full((60, 27), np.nan)}, "not a finite number"),
        ({"qpos": np.array([None] * 3)}, "not an intact"),
    ],
)
def test_malformed_files_are_refused(tmp_path, changes, message):
    _, path = _current(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_npz_clips(path)


def test_no_npz_at_all_is_refused(tmp_path):
    (tmp_path / "a.npz").write_text("hello")
    with pytest.raises(UserError, match=r"a\.npz is not an intact"):
        load(tmp_path, 50.0)
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "b", 50.0)
    (tmp_path / "a.npz").unlink()
    with pytest.raises(UserError, match=r"no \.npz files"):
        load(tmp_path, 50.0)


def test_old_root_is_the_chain_of_slides_and_hinges(tmp_path):
    """MuJoCo composes the joints of the old model, whose vertical axis is called ty."""
    rng = np.random.default_rng(0)
    frames = 12
    parts = {p: np.cumsum(rng.normal(0, 2e-3, frames)) for p in ("tx", "tz", "ty")}
    parts |= {p: 0.4 + np.cumsum(rng.normal(0, 2e-3, frames)) for p in ("tilt", "list", "rotation")}
    arrays = {f"q_pelvis_{p}": values for p, values in parts.items()}
    arrays |= {f"q_{name}": np.full(frames, 0.01 * i) for i, name in enumerate(ROBOT.joint_names)}
    np.savez(tmp_path / "old_run.npz", **arrays)
    (clip,) = read_npz_clips(tmp_path / "old_run.npz")
    axes = {"tx": "1 0 0", "tz": "0 1 0", "ty": "0 0 1", "tilt": "0 -1 0", "list": "1 0 0", "rotation": "0 0 1"}
    joints = "".join(f'<joint type="{"slide" if p[0] == "t" and p != "tilt" else "hinge"}" axis="{a}"/>'
                     for p, a in axes.items())  # fmt: skip
    body = f'<body pos="0 0 {OLD_ROOT_HEIGHT}">{joints}<geom size="0.1"/></body>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    for frame in range(frames):
        data.qpos[:] = [parts[p][frame] for p in axes]
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(clip.qpos[frame, :3], data.xpos[1], atol=1e-12)
        assert quaternion.angle_between(clip.qpos[frame, 3:7][None], data.xquat[1][None])[0] < 1e-7
    np.testing.assert_allclose(clip.qpos[0, 7:], 0.01 * np.arange(19))
    assert clip.hz == OLD_HZ and clip.label_at(0) == "run"


@pytest.mark.skipif(not MINI, reason="MOTIONLEX_LOCO_MUJOCO names no folder")
def test_old_recordings_stand_on_the_floor_and_walk_forward():
    data = load(Path(MINI), 50.0)
    model = ROBOT.model()
    state = mujoco.MjData(model)
    feet = [model.geom(name).id for foot in ROBOT.foot_geoms for name in foot]
    for clip in data.clips:
        lowest = []
        for qpos in clip.qpos:
            state.qpos[:] = qpos
            mujoco.mj_kinematics(model, state)
            lowest.append((state.geom_xpos[feet, 2] - model.geom_size[feet, 0]).min())
        assert abs(np.percentile(lowest, 20)) < 0.01  # some foot is on the floor most of the time
        speed = (clip.qpos[-1, 0] - clip.qpos[0, 0]) / clip.duration_s
        assert 1.0 < speed < 2.2 and clip.frames == 50
    assert {clip.label_at(0) for clip in data.clips} == {"walk", "run"}


def test_split_holds_out_the_official_clips_or_a_tenth(tmp_path):
    for name in ("walk1_subject1", "walk2_subject4", "run1_subject2"):
        write_clips(tmp_path / "Lafan1" / f"{name}.npz", [_clip()])
    assert [c.name for c in load(tmp_path, 40.0).validation] == ["walk2_subject4"]
    (tmp_path / "Lafan1" / "walk2_subject4.npz").unlink()
    data = load(tmp_path, 40.0)
    assert len(data.train) == len(data.validation) == 1
    single = load(tmp_path / "Lafan1" / "run1_subject2.npz", 40.0)
    assert (single.train[0].frames, single.validation[0].frames) == (48, 12)


def test_the_library_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    trajectory = pytest.importorskip("loco_mujoco.trajectory", reason="loco-mujoco is not installed")
    clips = [_clip(), _clip(frames=45, seed=1)]
    write_clips(tmp_path / "ours.npz", clips)
    loaded = trajectory.Trajectory.load(str(tmp_path / "ours.npz"), backend=np)
    assert loaded.data.is_complete and loaded.info.frequency == 40.0 and loaded.data.n_trajectories == 2
    loaded.save(str(tmp_path / "theirs.npz"))
    for ours, theirs in zip(clips, read_npz_clips(tmp_path / "theirs.npz")):
        np.testing.assert_allclose(theirs.qpos, ours.qpos, atol=1e-6)
