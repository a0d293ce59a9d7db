"""The ONNX file of a policy: the same numbers as torch, and a card that suffices to drive the robot."""

import importlib.util
import json
import re
from dataclasses import asdict, replace

import mujoco
import numpy as np
import onnx
import pytest
import torch
from scipy.spatial.transform import Rotation

from motionlex.controllers import export as export_module
from motionlex.controllers.commands import build_command_source
from motionlex.controllers.export import ExportFlags, compare, export_policy, policy_bytes
from motionlex.controllers.export_card import observation_parts
from motionlex.controllers.low_level_config import LowLevelConfig
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.controllers.onnx_policy import OnnxPolicy
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.data.storage import write_json
from motionlex.envs.episodes import Episodes
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.tracking import H1Track
from motionlex.scripts import export as export_script

ROBOT = get_robot("h1")
TOLERANCE = 1e-5  # float32: a few roundings of sums of some hundred terms of order one
CASES = [
    ("reference", "pd", (24, 16)),
    ("reference", "torque", (2048, 1024, 512)),
    ("decoded", "pd", (256, 256)),
    ("decoded", "torque", (16,)),
    ("latent", "pd", (256, 256)),
    ("latent", "torque", (2048, 1024, 512)),
]


@pytest.fixture(scope="module")
def tasks(toy_clips, tiny_autoencoder):
    """One task per goal and kind of motor on the toy motions."""
    library = MotionLibrary(toy_clips, ROBOT, 50.0)
    commands = {goal: build_command_source(goal, library, tiny_autoencoder) for goal in ("decoded", "latent")}
    return {
        (goal, control): TrackingTask(ROBOT, library, TaskConfig(goal=goal, control=control), commands.get(goal))
        for goal in ("reference", "decoded", "latent")
        for control in ("pd", "torque")
    }


def trained_like(task, hidden, seed=0):
    """A policy whose normaliser and last layer are no longer those of the start."""
    codes = task.config.goal == "latent"
    shape = PolicyShape(
        observation=task.policy_size,
        critic_observation=task.observation_size,
        actions=19,
        action_limit=task.action_limit,
        hidden=hidden,
        tokens=64 if codes else 0,
        vocabulary=8 if codes else 0,
        code_width=16 if codes else 0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = LowLevelPolicy(shape, task.config)
        if codes:
            policy.set_codebook(torch.randn(8, 16))
        policy.update_normaliser(3.0 * torch.randn(100, task.observation_size) + 0.5)
        torch.nn.init.orthogonal_(policy.actor[-1].weight, 1.0)
    return policy.eval().requires_grad_(False)


def states(task, count, seed=0):
    """Robots near the motions, at random moments, with random last actions."""
    draw = np.random.default_rng(seed)
    frame = draw.integers(150, size=count)
    qpos, qvel = task.library.qpos[frame].copy(), task.library.qvel[frame] + 0.3 * draw.normal(size=(count, 25))
    qpos[:, 7:] += 0.1 * draw.normal(size=(count, 19))
    qpos[:, :2] += 0.1 * draw.normal(size=(count, 2))
    turn = Rotation.from_rotvec(0.5 * draw.normal(size=(count, 3)))
    qpos[:, 3:7] = turn.as_quat(scalar_first=True)
    limit = task.action_limit
    episodes = Episodes.empty(count, 19)
    episodes.frame[:], episodes.last_action = frame, draw.uniform(-limit, limit, (count, 19))
    return qpos, qvel, episodes


def export(policy):
    return OnnxPolicy.from_bytes(policy_bytes(policy, ROBOT, {}))


@pytest.mark.parametrize(("goal", "control", "hidden"), CASES)
def test_the_file_computes_what_torch_and_the_task_do(tasks, goal, control, hidden):
    task = tasks[goal, control]
    policy = trained_like(task, hidden)
    file = export(policy)
    for count in (1, 7):
        qpos, qvel, episodes = states(task, count)
        seen = task.observe(qpos, qvel, episodes).astype(np.float32)
        wanted = policy.act(seen)
        np.testing.assert_allclose(file.act(seen), wanted, atol=TOLERANCE)
        tokens = policy.shape.tokens
        action, motors = file.run(seen[:, tokens : task.policy_size], seen[:, :tokens].astype(int) if tokens else None)
        assert action.shape == motors.shape == (count, 19) and np.abs(wanted).max() > 0.1
        ctrl = task.control(episodes, action.astype(np.float64))
        np.testing.assert_allclose(motors, ctrl, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("goal", ["reference", "latent"])
def test_absurd_observations_are_clipped_inside(tasks, goal):
    task = tasks[goal, "pd"]
    policy = trained_like(task, (64, 64))
    file = export(policy)
    seen = np.zeros((4, task.policy_size), dtype=np.float32)
    numbers = slice(file.tokens, None)
    seen[0, numbers], seen[1, numbers] = 1e6, -1e6
    seen[2, numbers] = np.float32(3e38) * np.resize([1, -1], file.numbers)
    action = file.act(seen)
    assert np.isfinite(action).all() and np.abs(action).max() <= 4.0
    np.testing.assert_allclose(action, policy.act(seen), atol=TOLERANCE)
    nearer = seen.copy()
    nearer[:, numbers] = np.clip(seen[:, numbers], -100.0, 100.0)  # beyond 8 standard deviations of about 3 either way
    np.testing.assert_array_equal(file.act(nearer), action)


def test_foreign_codes_are_an_error_and_every_code_matters(tasks):
    task = tasks["latent", "pd"]
    file = export(trained_like(task, (64,)))
    numbers, codes = np.zeros((1, 64), dtype=np.float32), np.full((1, 64), 3)
    base, _ = file.run(numbers, codes)
    for token in range(64):
        other = codes.copy()
        other[0, token] = 5
        assert not np.array_equal(file.run(numbers, other)[0], base)
    with pytest.raises(Exception, match="out of data bounds"):
        file.run(numbers, codes + 100)


# What the card says about the observation, computed with scipy from the card's words.


def described(part, qpos, qvel, action, phase, goals):
    """One robot's part of the observation."""
    base = Rotation.from_quat(qpos[3:7], scalar_first=True)
    forward = base.apply([1.0, 0.0, 0.0])
    heading = Rotation.from_euler("z", np.arctan2(forward[1], forward[0]))
    own = {
        "phase": [phase],
        "joint_position": qpos[7:],
        "joint_velocity": qvel[6:],
        "projected_gravity": base.inv().apply([0.0, 0.0, -1.0]),
        "base_angular_velocity": qvel[3:6],
        "base_linear_velocity": base.inv().apply(qvel[:3]),
        "base_height": qpos[2:3],
        "last_action": action,
    }
    waist = ROBOT.joint_names.index("back_bkz")
    torso = Rotation.from_euler("z", qpos[7 + waist])
    own["torso_angular_velocity"] = torso.inv().apply(qvel[3:6]) + np.array([0.0, 0.0, qvel[6 + waist]])
    for ahead, (goal_qpos, goal_qvel) in goals.items():
        there = Rotation.from_quat(goal_qpos[3:7], scalar_first=True)
        name = f"command_{ahead}_"
        own[name + "joint_error"] = goal_qpos[7:] - qpos[7:]
        own[name + "position"] = heading.inv().apply(goal_qpos[:3] - qpos[:3])
        own[name + "rotation"] = (base.inv() * there).as_matrix()[:, :2].T.ravel()
        own[name + "linear_velocity"] = heading.inv().apply(goal_qvel[:3])
        own[name + "joint_velocity"] = goal_qvel[6:]
        own[name + "angular_velocity"] = goal_qvel[3:6]
    return part["scale"] * np.asarray(own[part["name"]], dtype=float)


@pytest.mark.parametrize("goal", ["reference", "decoded", "latent"])
def test_the_card_describes_the_observation(tasks, goal):
    task = tasks[goal, "pd"]
    file = export(trained_like(task, (8,)))
    qpos, qvel, episodes = states(task, 5, seed=3)
    seen = task.observe(qpos, qvel, episodes, privileged=False)
    numbers = seen[:, file.tokens :]
    parts = file.card["observation"]
    assert sum(part["size"] for part in parts) == numbers.shape[1] == file.numbers
    assert len({part["name"] for part in parts}) == len(parts)
    command = task.command
    for row in range(5):
        frame = episodes.frame[row]
        goals = {}
        if goal != "latent":
            ahead = file.card["command_ahead"]
            goals = {n: (command.qpos[r], command.qvel[r]) for n, r in zip(ahead, command.rows[frame])}
        phase = (frame % 16) / 16
        start = 0
        for part in parts:
            assert part["start"] == start
            expected = described(part, qpos[row], qvel[row], episodes.last_action[row], phase, goals)
            np.testing.assert_allclose(numbers[row, start : start + part["size"]], expected, atol=1e-9)
            start += part["size"]
    if goal == "latent":
        assert file.card["codes"] == {"tokens": 64, "vocabulary": 8, "segment_frames": 32, "replan_frames": 16}
        np.testing.assert_array_equal(seen[:, :64], command.codes[0, command.segment[episodes.frame]])


def test_the_card_says_what_motors_need():
    policy = LowLevelPolicy.load(export_module.builtin_bundle() / "low_level")
    content = policy_bytes(policy, ROBOT, {"commit": "abc"})
    model = onnx.load_from_string(content)
    card = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    compiled = ROBOT.model(control="pd")
    actuated = [compiled.joint(compiled.actuator_trnid[i, 0]).name for i in range(compiled.nu)]
    assert card["joint_names"] == actuated
    np.testing.assert_allclose(card["stiffness"], compiled.actuator_gainprm[:, 0], rtol=1e-6)
    np.testing.assert_allclose(card["damping"], -compiled.actuator_biasprm[:, 2], rtol=1e-6)
    np.testing.assert_allclose(card["torque_limit"], compiled.actuator_forcerange[:, 1])
    np.testing.assert_allclose(
        np.stack((card["joint_lower"], card["joint_upper"]), axis=1), compiled.jnt_range[1:], rtol=1e-6
    )
    assert len(card["default_pose"]) == 19
    assert (card["hz"], card["goal"], card["control"], card["robot"]) == (50.0, "latent", "pd", "h1")
    assert (card["action_limit"], card["action_scale"]) == (4.0, 0.75)
    assert (
        card["source"] == {"commit": "abc"}
        and card["codes"] is not None
        and "action_scale * action" in model.doc_string
    )
    for text in (card["control_law"], *card["how_to"]):
        assert isinstance(text, str) and text
    wanted = {"codes": ["batch", 64], "observation": ["batch", 64], "action": ["batch", 19], "target": ["batch", 19]}
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == wanted
    assert OnnxPolicy.from_bytes(content).task == policy.task
    assert policy_bytes(policy, ROBOT, {"commit": "abc"}) == content  # equal policies give equal files


def test_the_file_alone_drives_the_robot_as_the_environment_does(tasks):
    """Scipy's observation by the card, the file's target, MuJoCo: twenty steps land where the environment does."""
    task = tasks["reference", "pd"]
    policy = trained_like(task, (64, 64))
    file = export(policy)
    env = H1Track(task)
    seen, _ = env.reset(options={"frame": 20})
    model = ROBOT.model(control="pd")
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = task.library.qpos[20], task.library.qvel[20]
    action, parts = np.zeros(19), file.card["observation"]
    for step in range(20):
        seen, *_ = env.step(policy.act(seen[None])[0])
        goals = {n: (task.library.qpos[20 + step + n], task.library.qvel[20 + step + n]) for n in (1, 8)}
        own = [described(part, data.qpos, data.qvel, action, None, goals) for part in parts]
        (action,), (target,) = file.run(np.concatenate(own)[None])
        data.ctrl[:] = target
        mujoco.mj_step(model, data, nstep=4)
    # Roundings of 1e-6 grow along contacts; a wrong part would be off by centimetres.
    np.testing.assert_allclose(data.qpos, env.simulator.qpos, atol=1e-3)
    assert np.abs(data.qpos[7:] - task.library.qpos[20, 7:]).max() > 0.05


# The command.


def save_run(folder, policy):
    policy.save(folder)
    write_json(folder / "config.json", asdict(LowLevelConfig(task=policy.task, hidden=policy.shape.hidden)))
    write_json(folder / "meta.json", {"commit": "c0ffee", "seed": 7, "steps": 12, "command": ["/home/me/train"]})
    return folder


def test_runs_and_bundles_are_exported(tasks, tiny_bundle, tmp_path, capsys):
    run = save_run(tmp_path / "run", trained_like(tasks["latent", "torque"], (16,)))
    assert export_script.main([str(run), "--onnx", str(tmp_path / "new" / "run.onnx"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["inputs"] == {"codes": 64, "observation": 64} and report["outputs"] == {"action": 19, "torque": 19}
    assert report["checked_with"] == "onnxruntime" and 0.0 <= report["largest_difference"] <= TOLERANCE
    content = (tmp_path / "new" / "run.onnx").read_bytes()
    assert len(content) == report["bytes"] and b"/home/me" not in content
    source = OnnxPolicy(tmp_path / "new" / "run.onnx").card["source"]
    assert (source["commit"], source["seed"], source["steps"]) == ("c0ffee", 7, 12)
    bundled = export_policy(str(tiny_bundle), ExportFlags(onnx=tmp_path / "bundle.onnx"))
    assert bundled["goal"] == "decoded"
    source = OnnxPolicy(tmp_path / "bundle.onnx").card["source"]
    meta = json.loads((tiny_bundle / "meta.json").read_text())
    assert source["autoencoder_sha256"] == meta["sha256"]["vae/weights.safetensors"]
    assert source["weights_sha256"] == meta["sha256"]["low_level/weights.safetensors"]


def test_mistakes_are_one_line_and_leave_nothing(tiny_vae_run, tiny_bundle, tmp_path, capsys):
    (tmp_path / "there.onnx").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    cases = [
        ([str(tiny_bundle), "--onnx", str(tmp_path / "there.onnx")], "exists"),
        ([str(tiny_bundle), "--onnx", str(tmp_path / "there.onnx" / "in_a_file.onnx")], "Not a directory|cannot write"),
        ([str(tiny_vae_run), "--onnx", str(tmp_path / "a.onnx")], "neither a run of train_lowlevel nor a bundle"),
        ([str(tmp_path / "empty"), "--onnx", str(tmp_path / "a.onnx")], "neither a run of train_lowlevel nor a bundle"),
        ([str(tmp_path / "none"), "--onnx", str(tmp_path / "a.onnx")], "no such folder"),
        (["", "--onnx", str(tmp_path / "a.onnx")], "empty"),
        ([str(tiny_bundle)], "--onnx"),
    ]
    for arguments, message in cases:
        assert export_script.main(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("motionlex export: error:") and re.search(message, line), line
    assert {path.name for path in tmp_path.iterdir()} == {"there.onnx", "empty"}
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"


def test_missing_packages_are_named(tiny_bundle, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    hidden = {"onnx", "onnxruntime"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find(name))
    with pytest.raises(UserError, match=r"pip install 'motionlex\[export\]'"):
        export_policy(str(tiny_bundle), ExportFlags(onnx=tmp_path / "a.onnx"))
    hidden.remove("onnx")  # without onnxruntime the file is checked by onnx itself
    report = export_policy(str(tiny_bundle), ExportFlags(onnx=tmp_path / "a.onnx"))
    assert report["checked_with"] == "onnx reference" and report["largest_difference"] <= TOLERANCE


def test_a_file_that_computes_something_else_is_not_written(tasks, tmp_path, monkeypatch):
    task = tasks["reference", "pd"]
    policy, other = trained_like(task, (16,)), trained_like(task, (16,), seed=1)
    content = policy_bytes(policy, ROBOT, {})
    assert compare(content, policy, ROBOT)[1] <= TOLERANCE
    with pytest.raises(UserError, match="differs from the policy"):
        compare(content, other, ROBOT)
    scaled = replace(policy.task, residual_scale=0.31)  # the same action, another meaning of it
    policy.task = scaled
    with pytest.raises(UserError, match="differs from the policy"):
        compare(content, policy, ROBOT)
    broken = trained_like(task, (16,))
    broken.actor[0].weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="differs from the policy by nan"):
        compare(policy_bytes(broken, ROBOT, {}), broken, ROBOT)
    run = save_run(tmp_path / "run", other)
    monkeypatch.setattr(export_module, "policy_bytes", lambda *_: content)
    with pytest.raises(UserError, match="nothing was written"):
        export_policy(str(run), ExportFlags(onnx=tmp_path / "a.onnx"))
    assert not (tmp_path / "a.onnx").exists()


def test_policies_and_files_of_other_makers_are_refused(tasks, tmp_path):
    task = tasks["reference", "pd"]
    policy = trained_like(task, (8,))
    policy.shape = replace(policy.shape, observation=150)
    with pytest.raises(UserError, match="150 numbers"):
        policy_bytes(policy, ROBOT, {})
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match="no ONNX model"):
        OnnxPolicy(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="no such file"):
        OnnxPolicy(tmp_path / "none.onnx")
    foreign = onnx.load_from_string(policy_bytes(trained_like(task, (8,)), ROBOT, {}))
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="not written by motionlex"):
        OnnxPolicy(tmp_path / "foreign.onnx")
    assert len(observation_parts(TaskConfig(ahead=(1, 4, 8)), ROBOT)) == 7 + 3 * 4 + 2
