"""The running stack: codes follow the text alone, motors alone move the robot, the plan stays with it."""

import json
import shutil

import mujoco
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.com_path import ComPath
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.recording import PhysicsRecording
from motionlex.controllers.stack import Stack
from motionlex.data.errors import UserError
from motionlex.data.storage import file_sha256, read_npz


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


def trajectory(stack, steps):
    rows = []
    for _ in range(steps):
        stack.step()
        rows.append(stack.qpos)
    return np.array(rows)


def test_the_same_seed_and_text_give_the_same_motion_and_others_do_not(bundle, toy_encode):
    runs = []
    for seed, text in ((0, "wave"), (0, "wave"), (1, "wave"), (0, "stand")):
        stack = Stack(bundle, seed=seed, encode=toy_encode)
        stack.command(text)
        runs.append(trajectory(stack, 40))
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert not np.array_equal(runs[0], runs[3])


def test_permuted_labels_change_what_is_shown_but_not_one_bit_of_motion(bundle, tiny_bundle, tmp_path, toy_encode):
    """The nearest known action is for display: it feeds no controller."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "permuted")
    captions = load_file(folder / "captions.safetensors")
    names = sorted(captions)
    save_file(
        {name: captions[other].contiguous() for name, other in zip(names, names[1:] + names[:1], strict=True)},
        folder / "captions.safetensors",
    )
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"]["captions.safetensors"] = file_sha256(folder / "captions.safetensors")
    (folder / "meta.json").write_text(json.dumps(meta))
    shown, motions = [], []
    for each in (bundle, load_bundle(folder)):
        stack = Stack(each, seed=3, encode=toy_encode)
        shown.append(stack.command("wave").action)
        motions.append(trajectory(stack, 50))
    assert shown[0] != shown[1]
    assert np.array_equal(motions[0], motions[1])


def test_replaying_the_recorded_ctrl_through_plain_mj_step_gives_the_same_qpos(bundle, toy_encode, tmp_path):
    """From the file alone: the model's text, the first row and ctrl. So the motors alone move the robot."""
    stack = Stack(bundle, encode=toy_encode)
    recording = PhysicsRecording(stack.tracker.simulator, stack.tracker.model_xml)
    stack.command("wave")
    trajectory(stack, 30)
    recording.save(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert {"qpos", "qvel", "ctrl", "time", "model_xml"} <= set(arrays)
    assert len(arrays["qpos"]) == len(arrays["qvel"]) == len(arrays["ctrl"]) == len(arrays["time"]) == 30 * 4
    model = mujoco.MjModel.from_xml_string(str(arrays["model_xml"]))
    assert model.neq == 0 and model.nmocap == 0
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = arrays["qpos"][0], arrays["qvel"][0]
    for row in range(len(arrays["ctrl"])):
        np.testing.assert_array_equal(data.qpos, arrays["qpos"][row])
        assert data.time == pytest.approx(arrays["time"][row])
        data.ctrl[:] = arrays["ctrl"][row]
        mujoco.mj_step(model, data)
    np.testing.assert_array_equal(data.qpos, arrays["final_qpos"])
    np.testing.assert_array_equal(data.qpos, stack.qpos)
    assert not data.xfrc_applied.any() and not data.qfrc_applied.any()


def test_the_plan_is_renewed_every_sixteen_steps_and_at_once_on_a_command(bundle, toy_encode):
    stack = Stack(bundle, encode=toy_encode)
    stack.command("wave")
    counts = []
    for step in range(40):
        if step == 25:
            stack.command("stand")
        stack.step()
        counts.append(stack.segments)
    assert counts[0] == 1 and counts[15] == 1 and counts[16] == 2 and counts[24] == 2
    assert counts[25] == 3 and counts[39] == 3
    assert 16 / stack.hz <= 0.32


def test_the_plan_never_leaves_the_robot_by_more_than_the_limit(bundle, toy_encode):
    """At every renewal the planned root is within 0.15 m and 0.2 rad of the measured one."""
    from motionlex.controllers.placement import wrap
    from motionlex.data import quaternion

    stack = Stack(bundle, encode=toy_encode)
    stack.command("walk")
    for _ in range(6 * REPLAN_FRAMES):
        measured, before = stack.qpos, stack.segments
        stack.step()
        if stack.segments > before:
            xy, yaw = stack._planner.anchor
            placed = stack._placement.points(xy[None])[0]
            assert np.linalg.norm(placed - measured[:2]) <= 0.15 + 1e-9
            robot_yaw = float(quaternion.yaw(measured[None, 3:7])[0])
            assert abs(wrap(yaw + stack._placement.yaw - robot_yaw)) <= 0.2 + 1e-9


def test_a_robot_without_a_command_says_so(bundle, toy_encode):
    with pytest.raises(UserError, match="command"):
        Stack(bundle, encode=toy_encode).step()


def test_a_desired_path_reaches_the_policy_in_the_present_heading_frame(bundle, toy_encode):
    """A path straight ahead at 1 m/s, seen at the start: x grows by 1/hz per frame, y stays."""
    stack = Stack(bundle, encode=toy_encode)
    time = np.array([0.0, 10.0])
    stack.follow(ComPath(time=time, xy=np.array([[0.0, 0.0], [10.0, 0.0]]), yaw=None))
    stack.command("walk")
    conditions = stack._planner.conditions(torch.zeros(384), stack._desired_path())
    assert bool(conditions.has_path)
    np.testing.assert_allclose(conditions.path[0, :, 0].numpy(), np.arange(1, 33) / 50, atol=1e-6)
    np.testing.assert_allclose(conditions.path[0, :, 1:].numpy(), 0, atol=1e-6)
    stack.follow(None)
    assert not bool(stack._planner.conditions(torch.zeros(384), stack._desired_path()).has_path)


def test_falling_is_noticed_unless_it_is_planned(bundle, toy_encode):
    stack = Stack(bundle, encode=toy_encode)
    stack.command("stand")
    stack.step()
    assert not stack.fell
    upright = stack._frames[0][:, 3:7].copy()
    lying = np.array([np.cos(0.7), 0.0, np.sin(0.7), 0.0])  # 80 degrees forward, in the air
    down = stack.qpos
    down[2], down[3:7] = 2.0, lying
    stack.tracker.simulator.reset(down, np.zeros(25))
    stack._frames[0][:, 3:7] = lying
    stack.step()
    assert not stack.fell
    stack._frames[0][:, 3:7] = upright
    stack.step()
    assert stack.fell


def test_recordings_of_nothing_are_still_files(bundle, toy_encode, tmp_path):
    stack = Stack(bundle, encode=toy_encode)
    PhysicsRecording(stack.tracker.simulator, "<mujoco/>").save(tmp_path / "empty.npz")
    assert len(read_npz(tmp_path / "empty.npz")["qpos"]) == 0
