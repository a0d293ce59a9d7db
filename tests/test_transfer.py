"""Our task on another model of the same robot, and the exported policy acting there."""

import json
import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import mujoco
import numpy as np
import pytest

from motionlex.controllers.commands import build_command_source
from motionlex.controllers.evaluation_tracking import evaluate_tracking
from motionlex.controllers.export import ExportFlags, export_policy, exported_policy
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.reference import MotionLibrary
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.transfer import transfer_model
from motionlex.motion_vae.checkpoint import load_run
from motionlex.scripts import evaluate_stack

ROBOT = get_robot("h1")
REFERENCE = os.environ.get("MOTIONLEX_H1_REFERENCE", "")
needs_reference = pytest.mark.skipif(not REFERENCE, reason="MOTIONLEX_H1_REFERENCE is not set")
BUNDLE = Path(str(files("motionlex.controllers.bundles").joinpath("builtin")))


def write_model(folder, *changes):
    """Our own model file with some of its text replaced."""
    text = ROBOT.xml()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "other.xml"
    path.write_text(text)
    return path


def same_physics(model, config):
    """Motors obey the clipped PD law (or give the torque), and the solver is the task's."""
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    data.qpos[2:7] = 5.0, 1.0, 0.0, 0.0, 0.0
    data.qpos[7:], data.qvel[6:] = rng.uniform(ROBOT.lower, ROBOT.upper), rng.normal(size=19)
    data.ctrl[:] = data.qpos[7:] + rng.normal(scale=0.3, size=19) if config.control == "pd" else rng.normal(size=19)
    mujoco.mj_forward(model, data)
    law = ROBOT.stiffness * (data.ctrl - data.qpos[7:]) - ROBOT.damping * data.qvel[6:]
    wanted = law if config.control == "pd" else data.ctrl
    np.testing.assert_allclose(
        data.qfrc_actuator[6:], np.clip(wanted, -ROBOT.torque_limit, ROBOT.torque_limit), rtol=1e-6
    )
    data.ctrl[:] = 1e4
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qfrc_actuator[6:], ROBOT.torque_limit, rtol=1e-12)
    assert (model.opt.timestep, model.opt.iterations) == (config.timestep, config.iterations)
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    assert model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_WARMSTART


@pytest.mark.parametrize("control", ["pd", "torque"])
def test_motors_and_solver_are_the_tasks_and_all_else_is_the_files(tmp_path, control):
    config = TaskConfig(control=control, timestep=0.0025, iterations=7)
    path = write_model(
        tmp_path, ('mass="17.789"', 'mass="20"'), ('name="floor" type="plane"', 'name="ground" type="plane"')
    )
    model = transfer_model(path, ROBOT, config)
    same_physics(model, config)
    assert model.nu == 19 and model.body("torso_link").mass[0] == 20.0
    assert [model.geom(i).name for i in range(model.ngeom) if model.geom_type[i] == 0] == ["ground"]


def test_key_points_that_a_file_lacks_are_added(tmp_path):
    path = write_model(tmp_path, ('<site name="head_mimic"', '<site name="other"'))
    model, ours = transfer_model(path, ROBOT, TaskConfig()), ROBOT.model()
    np.testing.assert_array_equal(model.site("head_mimic").pos, ours.site("head_mimic").pos)
    assert model.site("head_mimic").bodyid == model.body("torso_link").id


def test_models_of_something_else_are_refused(tmp_path):
    def refused(message, *changes):
        with pytest.raises(UserError, match=message):
            transfer_model(write_model(tmp_path, *changes), ROBOT, TaskConfig())

    refused(r"'waist' where 'back_bkz' belongs", ("back_bkz", "waist"))
    refused("no free joint", ('<freejoint name="root"/>', ""))
    refused("no floor", ('type="plane" size="0 0 0.125"', 'type="box" size="9 9 0.125"'))
    refused(
        r"'left_foot_mimic' is 50\.0 mm from ours",
        ('name="left_ankle_link" pos="0 0 -0.4"', 'name="left_ankle_link" pos="0 0 -0.45"'),
    )
    refused("MuJoCo cannot build it", ("<worldbody>", "<worldbodi>"))
    with pytest.raises(UserError, match="no such file"):
        transfer_model(tmp_path / "none.xml", ROBOT, TaskConfig())


class Still:
    """The servos follow the command."""

    def act(self, observation):
        return np.zeros((len(observation), 19))


def test_an_evaluation_happens_on_the_given_model(tmp_path):
    task = benchmark_task(50.0)

    def score(model):
        return evaluate_tracking(
            Still(), task.library, None, robot=ROBOT, config=task.config, seconds=0.5, starts=(0, 100), model=model
        )

    ours = score(None)
    (tmp_path / "same").mkdir()
    same = score(transfer_model(write_model(tmp_path / "same"), ROBOT, task.config))
    soft = score(transfer_model(write_model(tmp_path, ('mass="17.789"', 'mass="60"')), ROBOT, task.config))
    for name in ("keypoint_error_local_mm", "joint_error_rad", "mean_survival_s"):
        assert same[name] == pytest.approx(ours[name], rel=1e-4)  # ours went through a text of seven digits
    assert soft["joint_error_rad"] > 1.2 * ours["joint_error_rad"]


@needs_reference
def test_the_reference_becomes_our_task():
    config = TaskConfig()
    model = transfer_model(Path(REFERENCE), ROBOT, config)
    same_physics(model, config)
    library = MotionLibrary(load_dataset("builtin", None, hz=50.0).validation[:1], ROBOT, 50.0)
    data = mujoco.MjData(model)
    for frame in (0, 50, 100):  # what rewards and errors are computed from, against MuJoCo on the other model
        data.qpos[:] = library.qpos[frame]
        mujoco.mj_kinematics(model, data)
        sites = [data.site(name).xpos for name in ROBOT.sites]
        np.testing.assert_allclose(library.sites[frame], sites, atol=1e-6)
    meshes = [
        i for i in range(model.ngeom) if model.geom_contype[i] and model.geom_type[i] == mujoco.mjtGeom.mjGEOM_MESH
    ]
    assert len(meshes) == 18  # all links but the hip yaw cylinders collide as meshes


@needs_reference
def test_the_exported_policy_of_the_bundle_tracks_on_the_reference(tmp_path):
    export_policy(None, ExportFlags(onnx=tmp_path / "policy.onnx"))
    trained = LowLevelPolicy.load(BUNDLE / "low_level")
    config = trained.task
    chosen = [
        clip
        for clip in load_dataset("builtin", None, hz=config.hz).validation
        if clip.name.startswith(("walk_forward", "turn_left", "squat", "wave", "jog", "walk_backward"))
    ]
    library = MotionLibrary(chosen, ROBOT, config.hz)
    autoencoder = load_run(BUNDLE / "vae") if config.goal != "reference" else None
    command = build_command_source(config.goal, library, autoencoder, ahead=config.ahead)

    def score(policy, model):
        return evaluate_tracking(
            policy, library, command, robot=ROBOT, config=config, per_run=2, seconds=4.0, model=model
        )

    ours = score(trained, None)
    theirs = score(exported_policy(tmp_path / "policy.onnx", config), transfer_model(Path(REFERENCE), ROBOT, config))
    assert theirs["episodes"] == ours["episodes"] == 2 * len(chosen) >= 12
    assert theirs["success_rate"] >= ours["success_rate"] - 0.03
    assert theirs["keypoint_error_local_mm"] < ours["keypoint_error_local_mm"] + 10.0
    assert theirs["keypoint_error_local_mm"] != ours["keypoint_error_local_mm"]  # the feet are other ones


def test_mistakes_of_the_command_are_one_line(tmp_path, capsys):
    low_level = tmp_path / "run"
    low_level.mkdir()
    config = json.loads((BUNDLE / "low_level" / "config.json").read_text())
    for path in (BUNDLE / "low_level").iterdir():
        (low_level / path.name).write_bytes(path.read_bytes())
    config |= {"vae": None, "clips": ["wave_2"], "task": {**config["task"], "goal": "reference"}}
    (low_level / "config.json").write_text(json.dumps(config))
    export_policy(None, ExportFlags(onnx=tmp_path / "policy.onnx"))
    other = "reference" if LowLevelPolicy.load(BUNDLE / "low_level").task.goal != "reference" else "decoded"
    with pytest.raises(UserError, match="was exported for goal"):
        task = LowLevelPolicy.load(BUNDLE / "low_level").task
        exported_policy(tmp_path / "policy.onnx", replace(task, goal=other))
    cases = [
        (["--stage", "data", "--model", "a.xml"], "are for --stage tracking"),
        ([str(low_level), "--stage", "tracking", "--policy", str(tmp_path / "none.onnx")], "no such file"),
        ([str(low_level), "--stage", "tracking", "--policy", str(low_level / "config.json")], "no ONNX model"),
        ([str(low_level), "--stage", "tracking", "--model", str(tmp_path / "none.xml")], "no such file"),
    ]
    for arguments, message in cases:
        assert evaluate_stack.main(arguments) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("motionlex evaluate-stack: error:") and message in line, line
