"""What the task says about physics and time reaches the compiled model and whoever shows the robot."""

import json
from dataclasses import asdict, replace
from importlib.resources import files

import gymnasium
import mujoco
import numpy as np
import pytest

from motionlex.controllers.low_level_config import resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.registration import ENVIRONMENT_ID, register
from motionlex.envs.simulator import task_model
from motionlex.envs.task_config import TaskConfig
from motionlex.envs.tracking import H1Track

ROBOT = get_robot("h1")
SETTINGS = ("integrator", "solver", "cone", "tolerance")


def binary(model):
    """Everything that a compiled model holds."""
    buffer = np.zeros(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer


def test_solver_settings_reach_the_compiled_model():
    other = TaskConfig(integrator="Euler", solver="CG", cone="elliptic", tolerance=1e-5, timestep=0.004)
    found = task_model(ROBOT, other).opt
    assert found.integrator == mujoco.mjtIntegrator.mjINT_EULER and found.solver == mujoco.mjtSolver.mjSOL_CG
    assert found.cone == mujoco.mjtCone.mjCONE_ELLIPTIC and found.tolerance == 1e-5 and found.timestep == 0.004
    assert found.disableflags & mujoco.mjtDisableBit.mjDSBL_WARMSTART
    usual = task_model(ROBOT, TaskConfig()).opt
    assert usual.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST and usual.solver == mujoco.mjtSolver.mjSOL_NEWTON
    assert usual.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL and usual.tolerance == 1e-8


@pytest.mark.parametrize("control", ["pd", "torque"])
def test_the_usual_settings_are_those_of_before_to_the_bit(control):
    task = TaskConfig(control=control)
    np.testing.assert_array_equal(binary(task_model(ROBOT, task)), binary(ROBOT.model(control=control)))


def test_the_shipped_policy_whose_file_names_none_of_them_is_read_with_the_usual_ones(tmp_path):
    shipped = files("motionlex.controllers").joinpath("bundles/builtin/low_level")
    told = json.loads(shipped.joinpath("policy.json").read_text())
    for name in SETTINGS:
        told["task"].pop(name, None)
    (tmp_path / "policy.json").write_text(json.dumps(told))
    (tmp_path / "weights.safetensors").write_bytes(shipped.joinpath("weights.safetensors").read_bytes())
    task = LowLevelPolicy.load(tmp_path).task
    assert {name: getattr(task, name) for name in SETTINGS} == {name: asdict(TaskConfig())[name] for name in SETTINGS}
    np.testing.assert_array_equal(
        binary(task_model(ROBOT, task)), binary(ROBOT.model(control=task.control, timestep=task.timestep))
    )


def test_settings_are_given_by_name_and_wrong_ones_are_refused():
    config = resolve_config(LowLevelFlags(set=("solver=CG", "cone=elliptic", "integrator=RK4", "tolerance=1e-6")))
    assert (config.task.solver, config.task.cone, config.task.integrator) == ("CG", "elliptic", "RK4")
    assert config.task.tolerance == 1e-6
    with pytest.raises(UserError, match="tolerance"):
        replace(TaskConfig(), tolerance=-1.0)
    for name, value, message in (
        ("solver", "newton", "solver must be one of PGS, CG, Newton, got 'newton'"),
        ("integrator", "leapfrog", "integrator must be one of Euler, RK4, implicit, implicitfast, got 'leapfrog'"),
        ("cone", "round", "cone must be one of pyramidal, elliptic, got 'round'"),
    ):
        wrong = TaskConfig()
        object.__setattr__(wrong, name, value)  # the tests' own type checks would refuse it before we can
        with pytest.raises(UserError, match=message):
            wrong.__post_init__()


def test_pictures_are_shown_at_the_rate_of_control():
    fast, usual = benchmark_task(100.0), benchmark_task(50.0)
    register()
    with gymnasium.make(ENVIRONMENT_ID, task=fast) as env:
        assert env.metadata["render_fps"] == 100.0  # through gymnasium's wrappers, as its video recorder asks
    assert H1Track(usual).metadata["render_fps"] == 50.0 and H1Track(fast).metadata["render_fps"] == 100.0
    assert H1Track.metadata["render_modes"] == H1Track(fast).metadata["render_modes"] == ["rgb_array"]
