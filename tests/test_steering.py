"""Steering by keys: the velocities that they make, and MuJoCo's window."""

import numpy as np
import pytest

from motionlex.controllers import viewers
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.com_path import VelocityCommand, velocity_limits
from motionlex.controllers.display import Display
from motionlex.controllers.session import Outside, Session
from motionlex.controllers.stack import Stack
from motionlex.envs.steering import LET_GO, PAGE_KEYS, RANGES, STEPS, WINDOW_KEYS, pressed
from motionlex.envs.web_steering import on_level

UP, RIGHT, HOME, INSERT = 265, 262, 268, 260


def test_keys_change_the_velocity_in_steps_within_its_ranges():
    assert pressed((0.0, 0.0, 0.0), "Faster forward") == (0.2, 0.0, 0.0)
    assert pressed((0.3, 0.1, 0.0), "Slower, then backward") == (0.1, 0.1, 0.0)
    assert pressed((0.2, 0.0, 0.9), "Turn left") == (0.2, 0.0, 1.0)
    assert pressed((0.2, -0.5, 0.0), "Step right") == (0.2, -0.5, 0.0)
    back = (0.0, 0.0, 0.0)
    for name in ("Turn left", "Step left", "Faster forward", "Slower, then backward", "Step right", "Turn right"):
        back = pressed(back, name)
    assert back == (0.0, 0.0, 0.0)  # and not 1e-17


def test_every_step_has_a_key_of_its_own():
    assert set(PAGE_KEYS) == {*STEPS, LET_GO} == set(WINDOW_KEYS.values())
    assert all(key > 255 for key in WINDOW_KEYS)  # letters and signs are MuJoCo's own shortcuts
    assert len(set(PAGE_KEYS.values())) == len(PAGE_KEYS) and not set(PAGE_KEYS.values()) & set("WASDQE")
    for name, step in STEPS.items():
        (axis,) = [axis for axis, part in enumerate(step) if part]
        low, high = list(RANGES.values())[axis]
        assert low < step[axis] < high, name


def test_a_pointer_meets_the_floor_where_its_ray_does():
    eye = np.array([0.0, 0.0, 2.0])
    np.testing.assert_allclose(on_level(eye, np.array([1.0, 0.5, 1.0]), 0.0), [2.0, 1.0])
    np.testing.assert_allclose(on_level(eye, np.array([1.0, 0.5, 1.0]), 0.5), [1.5, 0.75])
    assert on_level(eye, np.array([1.0, 0.0, 2.0]), 0.0) is None  # level with the eye
    assert on_level(eye, np.array([1.0, 0.0, 3.0]), 0.0) is None  # into the sky
    assert on_level(eye, np.array([1.0, 0.0, 1.95]), 0.0) is None  # 40 m away


class Still:
    """MuJoCo's window where there is no display."""

    def __init__(self, simulator, on_key):
        self.press, self.closed = on_key, False

    def show(self):
        pass

    def close(self):
        pass


def test_the_arrows_of_the_window_steer(tiny_bundle, toy_encode, monkeypatch):
    monkeypatch.setattr(viewers, "NativeViewer", Still)
    said = []
    outside = Outside(display=lambda stack: Display((), (viewers.Window(stack),)), say=said.append)
    session = Session(Stack(load_bundle(tiny_bundle), encode=toy_encode), outside)
    window = session.display.viewers[0]
    for key in (UP, UP, RIGHT, HOME, ord("X")):
        window._window.press(key)
    session.display.obey(session)
    assert isinstance(session.stack.path, VelocityCommand)
    lowest, highest = velocity_limits(session.stack.bundle.autoencoder.statistics)
    left, turn = np.clip((0.1, -0.2), lowest[1:], highest[1:])
    assert session.stack.path.numbers == pytest.approx((0.4, left, turn))
    del said[:]
    for _ in range(4):  # 0.5 m/s forward is what the toy motions have, and that is said once
        window._window.press(UP)
    session.display.obey(session)
    assert session.stack.path.numbers == pytest.approx((0.5, left, turn))
    assert sum("more is not in the motions" in line for line in said) <= 2
    window._window.press(INSERT)
    session.display.obey(session)
    assert session.stack.path is None and not session.display.abandoned
    window._window.closed = True
    session.display.obey(session)
    assert session.display.abandoned
    session.close()
