"""The running stack: codes follow the text alone, motors alone move the robot, the plan stays with it."""

import json
import shutil

import mujoco
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.com_path import ComPath
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.recording import PhysicsRecording
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import StackConfig
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


def test_the_plan_is_renewed_every_sixteen_steps_whatever_is_said(bundle, toy_encode):
    stack = Stack(bundle, encode=toy_encode)
    stack.command("wave")
    counts, frames = [], []
    for step in range(40):
        if step == 25:
            stack.command("stand")
        frames.append(stack.step().frame)
        counts.append(stack.segments)
    assert counts == [1] * 16 + [2] * 16 + [3] * 8
    assert frames == [*range(1, 17), *range(1, 17), *range(1, 9)]
    assert 16 / stack.hz <= 0.32


@pytest.mark.parametrize(("lead_s", "given", "obeyed"), [(0.2, 5, 16), (0.2, 6, 32), (0.0, 15, 16), (0.0, 16, 16)])
def test_a_command_is_obeyed_from_the_next_segment_that_is_not_decided_yet(bundle, toy_encode, lead_s, given, obeyed):
    """Codes are decided 0.2 s = 10 steps before their segment begins: the first that differ tell when it was obeyed."""
    seen = []
    for text in ("wave", "stand"):
        stack = Stack(bundle, encode=toy_encode, config=StackConfig(lead_s=lead_s, understood_from=-1.0))
        stack.command("wave")
        codes = []
        for step in range(48):
            if step == given:
                stack.command(text)
            codes.append(stack.step().codes)
        seen.append(codes)
    differ = [step for step, (one, other) in enumerate(zip(*seen, strict=True)) if not np.array_equal(one, other)]
    assert differ[0] == obeyed
    assert (obeyed - given) / stack.hz <= 0.7


def test_deciding_ahead_on_a_thread_gives_the_same_motion_every_time(bundle, toy_encode):
    runs = []
    for _ in range(2):
        stack = Stack(bundle, seed=5, encode=toy_encode)
        stack.command("walk")
        runs.append(trajectory(stack, 70))
    np.testing.assert_array_equal(*runs)


def test_the_plan_never_leaves_the_robot_by_more_than_the_limit(bundle, toy_encode):
    """At every renewal the planned root is within 0.15 m and 0.2 rad of the measured one."""
    from motionlex.data import quaternion

    stack = Stack(bundle, encode=toy_encode)
    stack.command("walk")
    for _ in range(6 * REPLAN_FRAMES):
        measured, before = stack.qpos, stack.segments
        stack.step()
        if stack.segments > before:
            xy, yaw = stack._planner.anchor
            placed = stack._plan.placement.points(xy[None])[0]
            assert np.linalg.norm(placed - measured[:2]) <= 0.15 + 1e-9
            robot_yaw = float(quaternion.yaw(measured[None, 3:7])[0])
            assert abs(quaternion.wrap_angle(yaw + stack._plan.placement.yaw - robot_yaw)) <= 0.2 + 1e-9


def test_a_robot_without_a_command_says_so(bundle, toy_encode):
    with pytest.raises(UserError, match="command"):
        Stack(bundle, encode=toy_encode).step()


def test_a_desired_path_reaches_the_policy_in_the_present_heading_frame(bundle, toy_encode):
    """A path straight ahead at 0.4 m/s, seen at the start: x grows by 0.4 / hz per frame, y stays."""
    stack = Stack(bundle, encode=toy_encode)
    time = np.array([0.0, 10.0])
    stack.follow(ComPath(time=time, xy=np.array([[0.0, 0.0], [4.0, 0.0]]), yaw=None))
    stack.command("walk")
    conditions = stack._planner.conditions(torch.zeros(1, 384), stack._desired_path())
    assert bool(conditions.has_path)
    np.testing.assert_allclose(conditions.path[0, :, 0].numpy(), 0.4 * np.arange(1, 33) / 50, atol=1e-6)
    np.testing.assert_allclose(conditions.path[0, :, 1:].numpy(), 0, atol=1e-6)
    stack.follow(None)
    assert not bool(stack._planner.conditions(torch.zeros(1, 384), stack._desired_path()).has_path)


def test_a_path_given_later_begins_where_the_robot_is_then(bundle, toy_encode):
    """Turned to the left at (3, -2): straight ahead is +y from there on, in time from then on."""
    stack = Stack(bundle, encode=toy_encode)
    stack.command("walk")
    trajectory(stack, 20)
    place = stack.qpos
    place[:2], place[3:7] = [3.0, -2.0], [np.cos(np.pi / 4), 0.0, 0.0, np.sin(np.pi / 4)]
    stack.tracker.reset(place)
    time, com, speed = np.array([0.0, 1.0]), stack.com, 0.4
    stack.command("walk", ComPath(time=time, xy=np.outer(time, [speed, 0.0]), yaw=None))
    xy, _ = stack.path.at(stack.time + time)
    np.testing.assert_allclose(xy + stack.start_com, com + np.outer(time, [0.0, speed]), atol=1e-9)


def test_a_path_that_is_too_fast_is_slowed_down_whoever_gives_it(bundle, toy_encode):
    stack = Stack(bundle, encode=toy_encode)
    path = ComPath(time=np.array([0.0, 1.0]), xy=np.array([[0.0, 0.0], [100.0, 0.0]]), yaw=None)
    stack.command("walk", path)
    assert stack.path.time[-1] == path.limited(bundle.autoencoder.statistics).time[-1] > 10.0


def test_the_planner_s_thread_has_kinematics_of_its_own(bundle, toy_encode):
    """Both hold a simulated robot that every call poses anew."""
    stack = Stack(bundle, encode=toy_encode)
    assert stack._planner._kinematics is not stack.kinematics


def lying(qpos):
    """The same pose, 80 degrees forward, in the air: nothing touches it for a while."""
    down = qpos.copy()
    down[2], down[3:7] = 2.0, [np.cos(0.7), 0.0, np.sin(0.7), 0.0]
    return down


def test_falling_is_noticed_unless_it_is_planned(bundle, toy_encode):
    stack = Stack(bundle, encode=toy_encode)
    stack.command("stand")
    stack.step()
    assert not stack.fell
    upright = stack._plan.frames[0][:, 3:7].copy()
    down = lying(stack.qpos)
    stack.tracker.simulator.reset(down, np.zeros(25))
    stack._plan.frames[0][:, 3:7] = down[3:7]
    assert stack.step().event is None and not stack.fell
    stack._plan.frames[0][:, 3:7] = upright
    assert stack.step().event == "fell" and stack.fell
    assert stack.step().event is None  # told once


@pytest.mark.parametrize("recover_s", [0.1, None])
def test_a_fallen_robot_is_put_on_its_feet_where_it_was_upright_last(bundle, toy_encode, recover_s):
    stack = Stack(bundle, encode=toy_encode, config=StackConfig(recover_s=recover_s))
    stack.command("stand")
    stack.step()
    place = stack.qpos
    place[:2], place[3:7] = [3.0, -2.0], [np.cos(0.5), 0.0, 0.0, np.sin(0.5)]  # heading 1 rad
    stack.tracker.reset(place)
    stack.step()
    stack.tracker.simulator.reset(lying(stack.qpos), np.zeros(25))
    events = [stack.step().event for _ in range(12)]
    if recover_s is None:
        assert [event for event in events if event] == ["fell"]
        return
    assert events.index("fell") == 0 and events.index("stood up") == 5  # more than 0.1 s at 50 Hz
    np.testing.assert_allclose(stack.qpos[:2], [3.0, -2.0], atol=0.05)
    assert stack.heading == pytest.approx(1.0, abs=0.1)
    assert stack.qpos[2] == pytest.approx(stack.robot.standing_height, abs=0.05) and stack.fell


@pytest.mark.parametrize("lies", [False, True])
def test_a_simulation_that_blows_up_goes_on_upright_at_the_last_good_place(bundle, toy_encode, lies):
    """Place and heading are those of the last upright step, wherever it has fallen since; pose and velocity are not."""
    stack = Stack(bundle, encode=toy_encode, config=StackConfig(recover_s=None))
    stack.command("stand")
    stack.step()
    place, moving = stack.qpos, np.zeros(25)
    place[:2], place[3:7] = [3.0, -2.0], [np.cos(0.5), 0.0, 0.0, np.sin(0.5)]  # heading 1 rad
    place[7:] += 0.05
    moving[:2] = [0.3, 0.2]
    stack.tracker.simulator.reset(place, moving)
    good = stack.step().qpos
    assert np.linalg.norm(good[:2] - place[:2]) > 0.004  # 20 ms at 0.36 m/s: it has moved
    if lies:
        fallen = lying(good)
        fallen[:2] = [7.0, 7.0]
        stack.tracker.simulator.reset(fallen, np.zeros(25))
        assert stack.step().event == "fell"
    stack.tracker.simulator.data.qvel[10] = np.nan
    state = stack.step()
    assert state.event == "diverged" and stack.fell
    np.testing.assert_array_equal(state.qpos[:2], good[:2])
    assert Rotation.from_quat(state.qpos[[4, 5, 6, 3]]).as_euler("ZYX") == pytest.approx(
        [Rotation.from_quat(good[[4, 5, 6, 3]]).as_euler("ZYX")[0], 0.0, 0.0], abs=1e-9
    )
    assert state.qpos[2] == stack.robot.standing_height
    np.testing.assert_array_equal(state.qpos[7:], stack.robot.default_pose)
    np.testing.assert_array_equal(state.qvel, 0.0)
    assert [command.text for command in stack.commands] == ["stand"] and state.time == pytest.approx(0.06 + 0.02 * lies)
    for _ in range(40):
        state = stack.step()
        assert np.isfinite(state.qpos).all() and np.isfinite(state.qvel).all() and np.isfinite(state.torque).all()
    assert np.linalg.norm(state.qpos[:2] - good[:2]) < 1.5  # it falls about its own height at most


def test_what_is_not_understood_is_not_obeyed(bundle, toy_encode):
    """Below the threshold the robot does what it does for "stand still", to the bit, and the command says so."""
    motions = []
    for text, threshold in (("stand still", -1.0), ("gibberish", 0.99)):
        stack = Stack(bundle, seed=2, encode=toy_encode, config=StackConfig(understood_from=threshold))
        given = stack.command(text)
        assert given.understood == (threshold < given.similarity)
        motions.append(trajectory(stack, 40))
    np.testing.assert_array_equal(*motions)


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_nothing_said_is_refused(bundle, toy_encode, text):
    with pytest.raises(UserError, match="empty"):
        Stack(bundle, encode=toy_encode).command(text)


def test_reset_begins_anew_with_other_draws(bundle, toy_encode):
    stack = Stack(bundle, encode=toy_encode)
    stack.command("walk")
    trajectory(stack, 30)
    stack.reset()
    assert stack.time == 0.0 and not stack.commands and stack.segments == 0
    with pytest.raises(UserError, match="command"):
        stack.step()
    stack.command("walk")
    stack.step()
    np.testing.assert_allclose(stack.qpos[:2], 0.0, atol=0.05)


def test_a_push_changes_the_velocity_at_once_and_is_recorded(bundle, toy_encode, tmp_path):
    stack = Stack(bundle, encode=toy_encode)
    recording = PhysicsRecording(stack.tracker.simulator, stack.tracker.model_xml)
    stack.command("stand")
    trajectory(stack, 3)
    before = stack.tracker.qvel
    stack.push(np.array([0.4, -0.2]))
    np.testing.assert_allclose((stack.tracker.qvel - before)[:2], [0.4, -0.2])
    trajectory(stack, 2)
    recording.save(tmp_path / "pushed.npz")
    rows = read_npz(tmp_path / "pushed.npz")
    assert rows["interventions"].tolist() == [3 * 4]
    np.testing.assert_allclose(rows["qvel"][12, :2] - before[:2], [0.4, -0.2])
    with pytest.raises(UserError, match="finite"):
        stack.push(np.array([np.nan, 0.0]))


def test_recordings_of_nothing_are_still_files(bundle, toy_encode, tmp_path):
    stack = Stack(bundle, encode=toy_encode)
    PhysicsRecording(stack.tracker.simulator, "<mujoco/>").save(tmp_path / "empty.npz")
    assert len(read_npz(tmp_path / "empty.npz")["qpos"]) == 0
