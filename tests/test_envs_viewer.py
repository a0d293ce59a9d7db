"""Videos show the robot, with and without OpenGL."""

import contextlib
from types import SimpleNamespace

import imageio.v2 as imageio
import mujoco
import numpy as np
import pytest

from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs import painter, viewer
from motionlex.envs.benchmark import benchmark_task
from motionlex.envs.simulator import Simulator
from motionlex.envs.tracking import H1Track

ROBOT = get_robot("h1")


def film(path, steps=40):
    simulator = Simulator(ROBOT)
    qpos = np.concatenate(([0, 0, ROBOT.standing_height, 1, 0, 0, 0], ROBOT.default_pose))
    simulator.reset(qpos, np.zeros(25))
    screen = viewer.open_video(path, simulator)
    for step in range(steps):
        simulator.step(ROBOT.default_pose + 0.4 * np.sin(step / 5))
        screen.show()
    assert not path.exists()  # the file appears only when it is whole
    screen.close()
    return np.stack(imageio.mimread(path))


@pytest.mark.parametrize("backend", ["disable", "egl"])
def test_video_shows_a_robot_that_moves(tmp_path, monkeypatch, backend):
    if backend == "egl":
        context = painter.open_gl_context(64, 64)
        if context is None:
            pytest.skip("no OpenGL library for off-screen rendering")
        context.free()
    else:
        monkeypatch.setenv("MUJOCO_GL", backend)
    frames = film(tmp_path / "v.mp4").astype(float)
    assert frames.shape == (20, 480, 640, 3)  # 25 pictures per second of 50 Hz control
    assert frames.std(axis=(1, 2, 3)).min() > 10 and frames.mean() > 40
    assert np.abs(frames[0] - frames[-1]).mean() > 1.0
    middle = frames[0][120:400, 240:400]
    assert (middle.min(axis=2) < 60).mean() > 0.01  # dark parts of the robot where it should stand
    assert list(tmp_path.iterdir()) == [tmp_path / "v.mp4"]


@pytest.mark.parametrize(
    ("asked", "broken", "tried", "said"),
    [
        ("", (), ["egl"], "rendered off screen by EGL"),
        ("", ("egl",), ["egl", "osmesa"], "rendered off screen by OSMesa"),
        ("osmesa", (), ["osmesa"], "rendered off screen by OSMesa"),
        ("", ("egl", "osmesa"), ["egl", "osmesa"], ""),
        ("off", (), [], ""),
    ],
)
def test_egl_comes_before_osmesa(monkeypatch, caplog, asked, broken, tried, said):
    """Libraries that are there or not; what is used is said."""
    seen = []

    class Context:
        def make_current(self):
            pass

        def free(self):
            pass

    def load(name):
        backend = name.removeprefix("mujoco.")
        seen.append(backend)
        if backend in broken:
            raise ImportError(f"no lib{backend}")
        return SimpleNamespace(GLContext=lambda width, height: Context())

    monkeypatch.setenv("MUJOCO_GL", asked)
    monkeypatch.setattr(painter, "_forget_opengl", lambda: None)
    monkeypatch.setattr(painter.importlib, "import_module", load)
    with caplog.at_level("INFO"):
        context = painter.open_gl_context(64, 64)
    monkeypatch.undo()
    assert seen == tried and (context is not None) == bool(said) and said in caplog.text


def test_projection_of_a_point_by_hand():
    model = ROBOT.model(control="none")
    picture = painter.CapsulePainter(model, width=640, height=480)
    focal = 240 / np.tan(np.radians(float(model.vis.global_.fovy)) / 2)
    seen = np.array([[0.5, -0.25, 2.0]])  # right, up, forward [m]
    np.testing.assert_allclose(
        picture._to_pixels(seen, seen[:, 2]), [[320 + focal * 0.25, 240 + focal * 0.125]], rtol=1e-12
    )


def test_native_viewer_without_a_display_is_a_users_error(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(UserError, match="--viewer web"):
        viewer.open_viewer("native", Simulator(ROBOT))


def test_what_is_done_in_mujocos_window_stays_there(monkeypatch):
    """Its reset key and the mouse write into the state that it was given: not into that of the simulation."""
    window = SimpleNamespace(
        is_running=lambda: True, lock=contextlib.nullcontext, sync=lambda: None, close=lambda: None
    )
    given = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("mujoco.viewer.launch_passive", lambda *shown, **options: given.extend(shown) or window)
    simulator = Simulator(ROBOT)
    qpos = np.concatenate(([1, 2, ROBOT.standing_height, 1, 0, 0, 0], ROBOT.default_pose))
    simulator.reset(qpos, np.zeros(25))
    screen = viewer.open_viewer("native", simulator)
    model, data = given
    np.testing.assert_array_equal(data.qpos, simulator.qpos)
    simulator.step(ROBOT.default_pose)
    screen.show()
    np.testing.assert_array_equal(data.qpos, simulator.qpos)
    np.testing.assert_array_equal(data.qvel, simulator.qvel)
    truth = mujoco.MjData(simulator.model)
    truth.qpos[:] = simulator.qpos
    mujoco.mj_kinematics(simulator.model, truth)
    np.testing.assert_allclose(data.geom_xpos, truth.geom_xpos, atol=1e-12)
    before = simulator.qpos, simulator.qvel, simulator.time
    mujoco.mj_resetData(model, data)
    data.xfrc_applied[1, 2] = 1e4
    model.opt.gravity[2] = 9.81
    for mine, was in zip((simulator.qpos, simulator.qvel, simulator.time), before, strict=True):
        np.testing.assert_array_equal(mine, was)
    assert not simulator.data.xfrc_applied.any() and simulator.model.opt.gravity[2] == -9.81


def test_a_picture_of_the_environment_shows_the_present(monkeypatch):
    """A step leaves the bodies where they were one physics step before, and a state that blew up nowhere."""
    env = H1Track(benchmark_task(50.0), render_mode="rgb_array")
    painted = []
    fake = SimpleNamespace(paint=lambda data: painted.append(data.geom_xpos.copy()), close=lambda: None)
    monkeypatch.setattr("motionlex.envs.viewer.make_painter", lambda model: fake)
    env.reset(seed=0)
    for blown_up in (False, True):
        if blown_up:
            env.unwrapped.simulator.data.qvel[3] = np.nan
        env.step(np.zeros(19, dtype=np.float32))
        env.render()
        truth = mujoco.MjData(env.unwrapped.simulator.model)
        truth.qpos[:] = env.unwrapped.simulator.qpos
        mujoco.mj_kinematics(env.unwrapped.simulator.model, truth)
        np.testing.assert_allclose(painted[-1], truth.geom_xpos, atol=1e-12)
    env.close()
