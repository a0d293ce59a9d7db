"""Noise of the sensors: its size, what it touches, and what the critic and the command keep exact."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from varied_robots import batch, task_with

from motionlex.data.errors import UserError
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.randomisation import Randomisation, SensorNoise


@pytest.fixture(scope="module")
def nominal():
    return benchmark_task(50.0)


@pytest.mark.parametrize("goal", ["reference", "latent"])
def test_noise_has_its_size_and_touches_measurements_only(nominal, goal):
    """The command of goal reference, which is relative to what is measured, has tests of its own below."""
    noise = SensorNoise(joint=0.01, joint_velocity=0.5, gravity=0.03, angular_velocity=0.2)
    task = task_with(nominal, Randomisation(noise=noise), goal=goal)
    env = batch(task, 500)
    env.reset_to(np.arange(500) % 400)
    errors = []
    for _ in range(8):
        seen = env.step(np.zeros((500, 19)))[0]
        np.testing.assert_array_equal(env.observe(), seen)  # asking again is not measuring again
        errors.append(seen - task.observe(env.qpos, env.qvel, env.episodes).astype(np.float32))
    error = np.stack(errors)
    first = 65 if goal == "latent" else 0
    parts = {"joint": (19, 0.01), "velocity": (19, 0.05), "gravity": (3, 0.03), "angular": (3, 0.2)}
    for size, deviation in parts.values():
        part = error[..., first : first + size]
        count = part.size
        assert np.std(part) == pytest.approx(deviation, rel=5 / np.sqrt(2 * count))  # five standard errors
        assert abs(np.mean(part)) < 5 * deviation / np.sqrt(count)
        assert abs(np.mean(part[1:] * part[:-1])) < 5 * deviation**2 / np.sqrt(count)  # white
        first += size
    error[..., first - 44 : first] = 0.0
    if goal == "reference":
        for start in (67, 98):
            error[..., start : start + 19] = 0.0  # hinge errors
            error[..., start + 22 : start + 28] = 0.0  # relative rotations
    assert not error.any()
    env.close()


def noisy_and_exact(nominal, noise, ahead, seed=4):
    """Disturbed and exact observations [float64] and whose they are, a few steps into the episodes."""
    task = task_with(nominal, Randomisation(noise=noise), ahead=ahead)
    env = batch(task, 50, seed)
    env.reset()
    for _ in range(3):
        env.step(np.random.default_rng(seed).normal(0.0, 0.3, (50, 19)))
    exact = task.observe(env.qpos, env.qvel, env.episodes)
    seen = env.disturbances.measure(exact.copy(), env.disturbances.errors)
    np.testing.assert_array_equal(env.observe(), seen.astype(np.float32))
    env.close()
    return task, env, exact, seen


@pytest.mark.parametrize("ahead", [(1, 8), (2,), (1, 4, 8)])
def test_measured_angles_and_hinge_errors_add_up_to_the_command(nominal, ahead):
    noise = SensorNoise(joint=0.1, joint_velocity=0.5, gravity=0.1, angular_velocity=0.2)
    task, env, exact, seen = noisy_and_exact(nominal, noise, ahead)
    assert np.abs(seen - exact)[:, :19].max() > 0.2
    for place, frames in enumerate(ahead):
        start = 67 + 31 * place
        shown = seen[:, :19] + seen[:, start : start + 19]
        wanted = task.library.qpos[np.minimum(env.episodes.frame + frames, task.library.frames - 1), 7:]
        np.testing.assert_allclose(shown, wanted, atol=1e-14, rtol=0)  # rounding of three sums of float64
        if frames == ahead[0]:  # what the environment applies without an action
            np.testing.assert_allclose(shown, task.control(env.episodes, np.zeros((50, 19))), atol=1e-14, rtol=0)


def test_rotations_of_the_command_are_relative_to_the_measured_tilt(nominal):
    noise = SensorNoise(joint=0.1, gravity=0.2)
    task, env, exact, seen = noisy_and_exact(nominal, noise, (1, 8))
    truth = Rotation.from_quat(env.qpos[:, 3:7], scalar_first=True)
    measured = seen[:, 38:41] / np.linalg.norm(seen[:, 38:41], axis=1, keepdims=True)
    tilt = np.arccos((exact[:, 38:41] * measured).sum(axis=1))
    assert tilt.max() > 0.3
    for place, frames in enumerate((1, 8)):
        start = 67 + 31 * place + 22
        columns = seen[:, start : start + 6].reshape(-1, 2, 3)
        matrix = np.stack((columns[:, 0], columns[:, 1], np.cross(columns[:, 0], columns[:, 1])), axis=-1)
        np.testing.assert_allclose(np.linalg.det(matrix), 1.0, atol=1e-12)
        rows = np.minimum(env.episodes.frame + frames, task.library.frames - 1)
        goal = Rotation.from_quat(task.library.qpos[rows, 3:7], scalar_first=True)
        base = goal * Rotation.from_matrix(matrix).inv()  # the base that sees the command so
        np.testing.assert_allclose(base.inv().apply([0.0, 0.0, -1.0]), measured, atol=1e-12)
        np.testing.assert_allclose((base.inv() * truth).magnitude(), tilt, atol=1e-7)  # and no turn besides


def test_errors_that_are_off_leave_the_command_to_the_bit(nominal):
    _, _, exact, seen = noisy_and_exact(nominal, SensorNoise(joint_velocity=0.5, angular_velocity=0.2), (1, 8))
    changed = (exact != seen).any(axis=0)
    assert changed[19:38].all() and changed[41:44].all() and changed.sum() == 22


def test_the_part_of_the_critic_stays_exact(nominal):
    noise = SensorNoise(joint=0.1, joint_velocity=0.5, gravity=0.1, angular_velocity=0.2)
    task = task_with(nominal, Randomisation(noise=noise), goal="latent")
    env = batch(task, 20)
    env.reset()
    exact = task.observe(env.qpos, env.qvel, env.episodes)
    seen = env.disturbances.measure(exact.copy(), env.disturbances.errors)
    changed = (exact != seen).any(axis=0)
    assert exact.shape[1] > task.policy_size
    assert changed[65:109].all() and changed.sum() == 44
    env.close()


def test_negative_noise_is_refused():
    with pytest.raises(UserError, match="noise of gravity"):
        SensorNoise(gravity=-0.1)
