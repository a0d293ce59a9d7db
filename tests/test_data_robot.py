"""The H1's constants against its compiled model, and our model against the reference where it is available."""

import os

import mujoco
import numpy as np
import pytest

from motionlex.data.errors import UserError
from motionlex.data.robots import available_robots, get_robot

REFERENCE = os.environ.get("MOTIONLEX_H1_REFERENCE", "")
needs_reference = pytest.mark.skipif(not REFERENCE, reason="MOTIONLEX_H1_REFERENCE is not set")


@pytest.fixture(scope="module", params=available_robots())
def robot(request):
    return get_robot(request.param)


@pytest.fixture(scope="module")
def pair():
    return get_robot("h1").model(), mujoco.MjModel.from_xml_path(REFERENCE)


def test_constants_equal_the_compiled_model(robot):
    model = robot.model(control="torque")
    hinges = [model.joint(i) for i in range(1, model.njnt)]
    assert [j.name for j in hinges] == list(robot.joint_names)
    np.testing.assert_array_equal([j.range for j in hinges], np.stack((robot.lower, robot.upper), axis=1))
    np.testing.assert_array_equal(model.actuator_ctrlrange[:, 1], robot.torque_limit)
    file_model = mujoco.MjModel.from_xml_string(robot.xml())
    np.testing.assert_array_equal(model.actuator_ctrlrange, file_model.actuator_ctrlrange)
    for site in robot.sites:
        assert model.site(site).id >= 0
    assert all(model.geom(g).id >= 0 for foot in robot.foot_geoms for g in foot)


def test_h1_has_the_published_size():
    model = get_robot("h1").model()
    assert (model.nq, model.nv, model.nu) == (26, 25, 19)
    assert model.body_mass.sum() == pytest.approx(51.437, abs=1e-9)
    np.testing.assert_array_equal(model.dof_damping[6:], 1.0)
    np.testing.assert_array_equal(model.dof_armature[6:], 0.1)


H1_LEG = {  # torque limit [N m], stiffness [N m/rad], damping over sqrt 2 [N m s/rad], default angle [rad]
    "hip_rotation": (200, 400, 5, 0.0),
    "hip_adduction": (200, 400, 5, 0.0),
    "hip_flexion": (200, 400, 5, -0.2),
    "knee_angle": (300, 400, 5, 0.52),
    "ankle_angle": (40, 160, 3, -0.32),
}
H1_ARM = {
    "arm_shy": (40, 200, 2, 0.06),
    "arm_shx": (40, 200, 2, 0.12),  # away from the body: the right one's is negative
    "arm_shz": (18, 200, 2, 0.0),
    "elbow": (18, 200, 2, 1.24),
}


def test_h1_has_the_gains_limits_and_default_pose_that_are_written_down():
    """Literal numbers in the model's order: left leg, right leg, torso, left arm, right arm."""
    sides = (("l", "left", 1), ("r", "right", -1))
    expected = {f"{name}_{short}": numbers for short, _, _ in sides for name, numbers in H1_LEG.items()}
    expected["back_bkz"] = (200, 600, 6, 0.0)
    for short, long, sign in sides:
        for name, (torque, stiffness, damping, angle) in H1_ARM.items():
            side = f"{long}_{name}" if name == "elbow" else f"{short}_{name}"
            expected[side] = (torque, stiffness, damping, sign * angle if name == "arm_shx" else angle)
    h1 = get_robot("h1")
    assert list(h1.joint_names) == list(expected) and len(expected) == 19
    torque, stiffness, damping, default = np.array(list(expected.values()), dtype=float).T
    np.testing.assert_array_equal(h1.torque_limit, torque)
    np.testing.assert_array_equal(h1.stiffness, stiffness)
    np.testing.assert_allclose(h1.damping, np.sqrt(2.0) * damping, rtol=0, atol=5e-5)  # kept to four digits
    np.testing.assert_array_equal(h1.default_pose, default)
    assert h1.standing_height == 1.0159


def test_servo_force_is_the_clipped_pd_law(robot):
    model = robot.model(control="pd")
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    data.qpos[7:] = rng.uniform(robot.lower, robot.upper)
    data.qvel[6:] = rng.normal(size=len(robot.joints))
    data.ctrl[:] = data.qpos[7:] + rng.normal(scale=0.3, size=len(robot.joints))
    mujoco.mj_forward(model, data)
    expected = robot.stiffness * (data.ctrl - data.qpos[7:]) - robot.damping * data.qvel[6:]
    np.testing.assert_allclose(data.actuator_force, np.clip(expected, -robot.torque_limit, robot.torque_limit))


def test_default_pose_stands_on_both_soles(robot):
    model = robot.model()
    data = mujoco.MjData(model)
    data.qpos[:7] = (0, 0, robot.standing_height, 1, 0, 0, 0)
    data.qpos[7:] = robot.default_pose
    mujoco.mj_forward(model, data)
    bottoms = [data.geom(g).xpos[2] - model.geom(g).size[0] for foot in robot.foot_geoms for g in foot]
    np.testing.assert_allclose(bottoms, 0.0, atol=1e-3)
    feet = np.array([data.geom(g).xpos[:2] for foot in robot.foot_geoms for g in foot])
    com = data.subtree_com[model.body(robot.root_body).id]
    assert feet[:, 0].min() + 0.05 < com[0] < feet[:, 0].max() - 0.05


def test_unknown_robot_lists_those_that_exist():
    with pytest.raises(UserError, match=r"unknown robot 'h2'\. Did you mean 'h1'\? Available: h1"):
        get_robot("h2")


@needs_reference
def test_inertias_joints_and_motors_equal_the_reference(pair):
    ours, reference = pair
    for body in range(1, reference.nbody):
        name = reference.body(body).name
        for field in ("mass", "inertia", "ipos", "iquat", "pos", "quat"):
            np.testing.assert_allclose(
                getattr(ours.body(name), field), getattr(reference.body(name), field), atol=1e-12
            )
    for joint in range(1, reference.njnt):
        name = reference.joint(joint).name
        np.testing.assert_array_equal(ours.joint(name).axis, reference.joint(joint).axis)
        np.testing.assert_array_equal(ours.joint(name).range, reference.joint(joint).range)
    np.testing.assert_array_equal(ours.actuator_ctrlrange, reference.actuator_ctrlrange)


@needs_reference
def test_forward_kinematics_equal_the_reference(pair):
    ours, reference = pair
    a, b = mujoco.MjData(ours), mujoco.MjData(reference)
    rng = np.random.default_rng(1)
    for _ in range(50):
        qpos = rng.uniform(-1, 1, size=26)
        qpos[3:7] /= np.linalg.norm(qpos[3:7])
        a.qpos[:], b.qpos[:] = qpos, qpos
        mujoco.mj_kinematics(ours, a)
        mujoco.mj_kinematics(reference, b)
        for body in range(1, reference.nbody):
            np.testing.assert_allclose(a.body(reference.body(body).name).xpos, b.xpos[body], atol=1e-9)
        for site in range(reference.nsite):
            np.testing.assert_allclose(a.site(reference.site(site).name).xpos, b.site_xpos[site], atol=1e-9)
            np.testing.assert_allclose(a.site(reference.site(site).name).xmat, b.site_xmat[site], atol=1e-9)


@needs_reference
def test_foot_contact_height_is_within_five_millimetres(pair):
    ours, reference = pair
    mesh = reference.geom_dataid[reference.geom("left_foot").id]
    start, count = reference.mesh_vertadr[mesh], reference.mesh_vertnum[mesh]
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, reference.geom("left_foot").quat)
    vertices = reference.mesh_vert[start : start + count] @ rotation.reshape(3, 3).T + reference.geom("left_foot").pos
    spheres = [ours.geom(g) for g in get_robot("h1").foot_geoms[0]]
    assert min(g.pos[2] - g.size[0] for g in spheres) == pytest.approx(vertices[:, 2].min(), abs=5e-3)
    for sphere in spheres:
        assert vertices[:, 0].min() <= sphere.pos[0] <= vertices[:, 0].max()
        assert vertices[:, 1].min() <= sphere.pos[1] <= vertices[:, 1].max()
