"""Our task on somebody else's model of the robot: its bodies and contacts, our motors and solver settings."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from motionlex.data.errors import UserError
from motionlex.data.robots import Robot
from motionlex.envs.simulator import task_model
from motionlex.envs.task_config import TaskConfig

Model = mujoco.MjModel
"""A compiled model, for rooms that do not import MuJoCo themselves."""
SAME_PLACE_M = 1e-3
"""Key points of a fitting model are at most this far from ours [m]: errors are measured at ours."""
_SOLVER = ("timestep", "integrator", "solver", "iterations", "ls_iterations", "tolerance", "ls_tolerance")
_SOLVER += ("disableflags",)
_MOTOR = ("gaintype", "biastype", "gainprm", "biasprm", "ctrllimited", "ctrlrange", "forcelimited", "forcerange")
_MOTOR += ("gear",)


def transfer_model(path: Path, robot: Robot, config: TaskConfig) -> Model:
    """Build the model of a task from a given MJCF file.

    Bodies, inertias, geoms, contacts, friction, joint damping and the floor are the file's; its actuators are replaced
    by the task's (same gains and limits), and physics step, integrator and solver settings are the task's. Key points
    that the file lacks are added to the bodies of the same name.

    Args:
        path: MJCF file; meshes and included files are found beside it.
        robot: The robot that it must be.
        config: The task.

    Raises:
        UserError: If the file is missing or broken, has no floor, or is of a robot with other joints or lengths.
    """
    if not Path(path).is_file():
        raise UserError(f"--model: no such file: {path}")
    ours = task_model(robot, config)
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        for actuator in list(spec.actuators):
            _remove(spec, actuator)
        for name in _SOLVER:
            setattr(spec.option, name, getattr(ours.opt, name))
        _add_key_points(spec, ours, robot)
        model = spec.compile()
    except (ValueError, mujoco.FatalError) as error:
        raise UserError(f"--model {path}: MuJoCo cannot build it: {error}") from error
    _check_joints(model, robot, path)
    for motor in range(ours.nu):
        _copy_motor(spec, ours, motor)
    model = spec.compile()
    _check_places(model, ours, robot, path)
    return model


def _remove(spec: mujoco.MjSpec, actuator: mujoco.MjsActuator) -> None:
    """Delete an element; the method moved from the element to the spec between versions of MuJoCo."""
    if hasattr(spec, "delete"):
        spec.delete(actuator)
    else:
        actuator.delete()


def _copy_motor(spec: mujoco.MjSpec, ours: Model, motor: int) -> None:
    joint = ours.joint(ours.actuator_trnid[motor, 0]).name
    actuator = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    for name in _MOTOR:
        value = getattr(ours, f"actuator_{name}")[motor]
        if np.ndim(value):
            getattr(actuator, name)[:] = value
        else:
            setattr(actuator, name, type(getattr(actuator, name))(int(value)))  # older versions want their enums


def _add_key_points(spec: mujoco.MjSpec, ours: Model, robot: Robot) -> None:
    present, bodies = {site.name for site in spec.sites}, {body.name: body for body in spec.bodies}
    for name in robot.sites:
        site = ours.site(name)
        carrier = ours.body(int(site.bodyid[0])).name
        if name not in present and carrier in bodies:
            bodies[carrier].add_site(name=name, pos=site.pos, quat=site.quat)


def _check_joints(model: Model, robot: Robot, path: Path) -> None:
    """Refuse other joints, another order, states beyond positions and velocities, and a missing floor."""
    free = model.njnt > 0 and model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    names = [model.joint(i).name for i in range(1 if free else 0, model.njnt)]
    if not free or names != list(robot.joint_names):
        pairs = zip(names, robot.joint_names, strict=False)
        first = next((f"{got!r} where {want!r} belongs" for got, want in pairs if got != want), "")
        raise UserError(
            f"--model {path} is no {robot.name}: wanted a free joint and {len(robot.joints)} hinges in our order, got "
            f"{'a' if free else 'no'} free joint and {len(names)} others{f', {first}' if first else ''}"
        )
    floors = (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) | (model.geom_type == mujoco.mjtGeom.mjGEOM_HFIELD)
    if not floors.any():
        raise UserError(f"--model {path} has no floor (no plane): give the file of its scene")


def _check_places(model: Model, ours: Model, robot: Robot, path: Path) -> None:
    """Refuse a model whose key points are elsewhere than ours in random poses."""
    mine, other = mujoco.MjData(ours), mujoco.MjData(model)
    generator = np.random.default_rng(0)
    for _ in range(5):
        turn = generator.normal(size=4)
        pose = np.concatenate((generator.normal(size=3), turn / np.linalg.norm(turn)))
        qpos = np.concatenate((pose, generator.uniform(robot.lower, robot.upper)))
        for model_, data in ((ours, mine), (model, other)):
            data.qpos[:] = qpos
            mujoco.mj_kinematics(model_, data)
        for name in robot.sites:
            if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name) < 0:
                raise UserError(f"--model {path}: key point {name!r} is missing, and so is the body that carries it")
            gap = float(np.linalg.norm(mine.site(name).xpos - other.site(name).xpos))
            if gap > SAME_PLACE_M:
                raise UserError(
                    f"--model {path}: key point {name!r} is {1e3 * gap:.1f} mm from ours in the same pose; errors "
                    "would be measured at the wrong place: a model of the same robot was wanted"
                )
