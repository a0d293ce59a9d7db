"""Clips, quaternions and forward kinematics against closed forms and SciPy."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motionlex.data import quaternion
from motionlex.data.clip import LabelSpan, MotionClip
from motionlex.data.errors import UserError
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot


def _scipy(q):
    return Rotation.from_quat(np.roll(q, -1, axis=-1))


def _random(rng, *shape):
    return quaternion.normalise(rng.normal(size=(*shape, 4)))


def _spin(frames=41, hz=20.0, rate=1.5, **kwargs):
    """Root moves on a parabola and turns about the vertical at a constant rate; hinges follow sines."""
    t = np.arange(frames) / hz
    qpos = np.zeros((frames, 26))
    qpos[:, 0], qpos[:, 2] = 0.5 * t**2, 1.0
    qpos[:, 3:7] = quaternion.from_yaw(rate * t)
    qpos[:, 7:] = 0.3 * np.sin(t)[:, None]
    return MotionClip(name="spin", qpos=qpos, hz=hz, **kwargs)


def test_quaternion_algebra_equals_scipy():
    rng = np.random.default_rng(0)
    a, b, v = _random(rng, 50), _random(rng, 50), rng.normal(size=(50, 3))
    np.testing.assert_allclose(quaternion.rotate(a, v), _scipy(a).apply(v), atol=1e-12)
    np.testing.assert_allclose(
        quaternion.to_matrix(quaternion.multiply(a, b)), (_scipy(a) * _scipy(b)).as_matrix(), atol=1e-12
    )
    np.testing.assert_allclose(quaternion.to_rotvec(a), _scipy(a).as_rotvec(), atol=1e-9)
    np.testing.assert_allclose(quaternion.to_matrix(quaternion.from_rotvec(v)), Rotation.from_rotvec(v).as_matrix())
    np.testing.assert_allclose(quaternion.angle_between(a, -b), (_scipy(a).inv() * _scipy(b)).magnitude(), atol=1e-9)


def test_small_rotations_do_not_divide_by_zero():
    tiny = np.array([[1e-14, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(quaternion.to_rotvec(quaternion.from_rotvec(tiny)), tiny, atol=1e-18)


def test_yaw_of_a_vertical_turn_is_its_angle():
    angles = np.linspace(-3.1, 3.1, 25)
    np.testing.assert_allclose(quaternion.yaw(quaternion.from_yaw(angles)), angles)


def test_slerp_halves_the_angle_and_takes_the_short_way():
    a, b = quaternion.from_yaw(np.array([0.2])), -quaternion.from_yaw(np.array([1.0]))
    np.testing.assert_allclose(quaternion.yaw(quaternion.slerp(a, b, 0.5)), 0.6)


def test_velocities_of_a_known_motion():
    clip = _spin()
    velocity = clip.qvel()
    t = np.arange(clip.frames) / clip.hz
    inner = slice(1, -1)
    np.testing.assert_allclose(velocity[inner, 0], t[inner], atol=1e-12)  # central differences are exact on parabolas
    np.testing.assert_allclose(velocity[:, 5], 1.5, atol=1e-9)
    np.testing.assert_allclose(velocity[inner, 6], 0.3 * np.cos(t[inner]), atol=0.3 * (1 / 20.0) ** 2 / 6 + 1e-9)


def test_resampling_hits_the_analytic_motion_and_keeps_the_duration():
    fine = _spin().resample(50.0)
    t = np.arange(fine.frames) / 50.0
    assert fine.duration_s == pytest.approx(2.0)
    np.testing.assert_allclose(fine.qpos[:, 0], 0.5 * t**2, atol=1e-9)
    np.testing.assert_allclose(np.unwrap(quaternion.yaw(fine.qpos[:, 3:7])), 1.5 * t, atol=1e-9)
    np.testing.assert_allclose(fine.qpos[:, 7], 0.3 * np.sin(t), atol=1e-6)


def test_resampling_never_uses_a_masked_frame():
    valid = np.ones(41, dtype=bool)
    valid[10] = False
    fine = _spin(valid=valid).resample(40.0)
    np.testing.assert_array_equal(np.flatnonzero(~fine.valid), [19, 20, 21])


def test_valid_starts_never_cross_a_glitch_and_reach_the_last_frame():
    valid = np.ones(20, dtype=bool)
    valid[7] = False
    starts = _spin(frames=20, valid=valid).valid_starts(5)
    brute = [s for s in range(20) if s + 5 <= 20 and valid[s : s + 5].all()]
    np.testing.assert_array_equal(starts, brute)
    assert starts[-1] == 15 and len(_spin(frames=4).valid_starts(5)) == 0


def test_slicing_moves_labels_with_the_frames():
    clip = _spin(labels=(LabelSpan(start=0, stop=10, label="a"), LabelSpan(start=10, stop=41, label="b")))
    part = clip.slice(5, 15)
    assert [(s.start, s.stop, s.label) for s in part.labels] == [(0, 5, "a"), (5, 10, "b")]
    assert part.label_at(4) == "a" and part.label_at(5) == "b"


def _broken(change):
    qpos = np.array(_spin().qpos)
    change(qpos)
    return qpos


@pytest.mark.parametrize(
    ("qpos", "hz", "message"),
    [
        (np.zeros((3, 4)), 30.0, "wanted"),
        (_spin().qpos[:1], 30.0, "at least 2"),
        (_broken(lambda q: q.__setitem__((4, 9), np.nan)), 30.0, "frame 4, column 9"),
        (_broken(lambda q: q.__setitem__((2, slice(3, 7)), 0.9)), 30.0, "frame 2 has norm 1.8"),
        (_spin().qpos, 0.0, "rate must be positive"),
    ],
)
def test_bad_motions_are_refused_by_name(qpos, hz, message):
    with pytest.raises(UserError, match=message) as error:
        MotionClip(name="bad", qpos=np.asarray(qpos), hz=hz)
    assert "'bad'" in str(error.value)


def test_site_velocities_equal_finite_differences():
    kinematics = ForwardKinematics(get_robot("h1"))
    clip = _spin(frames=81, hz=400.0)
    states = kinematics(np.asarray(clip.qpos), clip.qvel())
    numeric = np.gradient(states.site_pos, 1 / 400.0, axis=0)
    np.testing.assert_allclose(states.site_linvel[1:-1], numeric[1:-1], atol=2e-4)  # O(dt^2) of the difference
    spin = np.einsum("fsij,fskj->fsik", np.gradient(states.site_rot, 1 / 400.0, axis=0), states.site_rot)
    axial = np.stack((spin[..., 2, 1], spin[..., 0, 2], spin[..., 1, 0]), axis=-1)
    np.testing.assert_allclose(states.site_angvel[1:-1], axial[1:-1], atol=2e-4)


def test_centre_of_mass_is_the_mass_weighted_mean_of_the_bodies():
    import mujoco

    robot = get_robot("h1")
    model = robot.model()
    data = mujoco.MjData(model)
    qpos = np.array(_spin().qpos[7])
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mean = np.average(data.xipos[1:], axis=0, weights=model.body_mass[1:])
    np.testing.assert_allclose(ForwardKinematics(robot)(qpos[None]).com[0], mean, atol=1e-9)
