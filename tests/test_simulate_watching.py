"""What those who watch see and wish: the pace of a display, and the page's requests between control steps."""

import asyncio
import threading
import time
from functools import partial

import numpy as np
import pytest
import viser
from watching_doubles import SlowEncoder, Watcher, patiently

from motionlex.controllers import display as display_module
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.console import Console
from motionlex.controllers.display import Display
from motionlex.controllers.live import Live
from motionlex.controllers.session import Outside, Session
from motionlex.controllers.stack import Stack
from motionlex.controllers.viewers import WebPage


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


class Clock:
    """Time that only passes when somebody sleeps."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        assert seconds >= 0
        self.now += seconds


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 1.0), (2.0, 0.5), (0.25, 4.0), (0.0, 0.0)])
def test_those_who_watch_see_the_speed_they_chose(speed, seconds, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(display_module, "time", clock)
    display = Display((), (Watcher(),))
    display.run_at(speed=speed)
    for _ in range(50):
        display.pace(0.02)
    assert clock.now == pytest.approx(100.0 + seconds)


def test_lost_time_is_not_caught_up_with_and_films_do_not_wait(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(display_module, "time", clock)
    display = Display((), (Watcher(),))
    display.pace(0.02)
    clock.now += 5.0  # something took five seconds
    for _ in range(10):
        display.pace(0.02)
    assert clock.now == pytest.approx(105.02 + 9 * 0.02)  # the first step after it is late already
    Display().pace(0.02)
    assert clock.now == pytest.approx(105.2)


@pytest.fixture
def page(bundle, toy_encode):
    """A session with a page in no browser, and what was said."""
    said, pages = [], []

    def display(stack):
        pages.append(WebPage(stack, host="127.0.0.1", port=0))
        return Display((), tuple(pages))

    session = Session(Stack(bundle, encode=toy_encode), Outside(display=display, say=said.append))
    session.display.run_at(speed=0.0)
    yield session, pages[0]._web.requests, said
    session.close()


def test_wishes_of_the_page_are_obeyed_between_steps(page, monkeypatch):
    session, requests, said = page
    assert requests.say(":quit", 0) is None  # words, whatever they look like
    session.run(0.02)
    patiently(lambda: session.display.obey(session) or said)  # embedded on a thread of its own
    assert "':quit' is not understood" in said[-1] or "':quit' is nearest" in said[-1]
    assert [report.text for report in session.reports] == [":quit"]

    turned = session.stack.qpos
    turned[3:7] = [np.cos(np.pi / 4), 0.0, 0.0, np.sin(np.pi / 4)]  # facing left
    session.stack.tracker.simulator.reset(turned, np.zeros(25))
    requests.push(0.5, 0.1, 1)
    session.display.obey(session)
    np.testing.assert_allclose(session.stack.tracker.qvel[:2], [-0.1, 0.5], atol=1e-12)  # forward is world y now

    requests.steer((0.1, 0.0, 0.0))
    session.display.obey(session)
    assert session.stack.path is not None
    told = []
    monkeypatch.setattr(session.display.viewers[0], "tell", told.append)
    for _ in range(3):  # sliders ask many times a second: it is said once
        requests.steer((9.0, 0.0, 0.0))
        session.display.obey(session)
    assert session.stack.path.numbers == (0.5, 0.0, 0.0)
    assert told == ["0.50 m/s forward, 0.00 m/s to the left, turning left at 0.00 rad/s: more is not in the motions"]
    requests.steer(None)
    requests.speed(0.5)
    session.display.obey(session)
    assert session.stack.path is None and (session.display.speed, session.display.paused) == (0.5, False)
    requests.speed(0.0)
    session.display.obey(session)
    assert (session.display.speed, session.display.paused) == (0.5, True)
    requests.pause(False)
    session.display.obey(session)
    assert not session.display.paused

    requests.go_to((1.5, -0.5))
    session.display.obey(session)
    np.testing.assert_allclose(session.stack.goal, [1.5, -0.5])
    assert said[-1] == "goes to (1.5, -0.5) m"
    requests.go_to((1e9, 0.0))
    session.display.obey(session)
    assert "goal" in told[-1]
    requests.go_to((float("nan"), 0.0))
    requests.steer(None)  # who lets go of a velocity that there is not lets go of nothing else
    session.display.obey(session)
    np.testing.assert_allclose(session.stack.goal, [1.5, -0.5])
    requests.go_to(None)
    session.display.obey(session)
    assert session.stack.goal is None and session.stack.path is None

    requests.steer((0.1, 0.0, 0.0))
    session.display.obey(session)
    session.command("make me a coffee")
    assert said[-1] == "who stands still goes nowhere: what it followed is given up"
    requests.steer((0.1, 0.0, 0.0))
    requests.reset(2)
    session.display.obey(session)
    assert said[-2] == "the desired path or velocity is given up" and session.stack.path is None
    np.testing.assert_array_equal(session.stack.qpos[:2], 0.0)
    assert said[-1] == "the robot stands where it began"


def test_the_page_is_obeyed_in_order_around_words_that_are_being_embedded(bundle, toy_encode):
    """Among wishes of the page, and between the page and the terminal."""
    encode = SlowEncoder(toy_encode, "wave", "walk")
    pages, said = [], []

    def make():
        def display(stack):
            pages.append(WebPage(stack, host="127.0.0.1", port=0))
            return Display((), tuple(pages))

        session = Session(Stack(bundle, encode=encode), Outside(display=display, say=said.append))
        session.display.run_at(speed=0.0)
        return Console(session, live=True)

    live = Live(make)
    session = live.start().session
    try:
        requests = pages[0]._web.requests
        assert requests.say("wave", 0) is None and requests.push(0.1, 0.0, 1) is None and requests.reset(2) is None
        patiently(lambda: "wave" in encode.threads)
        line = live.submit(":push 0.3 0")
        before = session.time
        patiently(lambda: session.time > before + 0.1)
        assert not said and not line.done()
        encode.may.set()
        assert line.result(30).text == "pushed by (0.3, 0) m/s"
        assert "nearest to wave" in said[0]
        assert said[1:] == ["pushed by 0.1 m/s forward, 0 m/s to the left", "the robot stands where it began"]
    finally:
        encode.may.set()
        live.stop()


@pytest.mark.parametrize("speed", [0.0, 0.3, 50.0])
def test_the_slider_of_the_page_follows_without_a_wish_of_its_own(page, speed):
    session, requests, _ = page
    session.display.run_at(speed=speed)
    time.sleep(0.3)  # callbacks of the page come from another thread
    assert requests.take() == [] and session.display.speed == speed


def test_a_script_waits_for_a_page_that_is_paused(page):
    session, requests, _ = page
    requests.pause(True)
    timer = threading.Timer(0.2, requests.pause, (False,))
    timer.start()
    session.command("wave")
    session.run(0.1)
    assert not timer.is_alive() and session.time == pytest.approx(0.1)


def test_a_reset_is_seen_while_time_stands_still(page):
    session, *_ = page
    robot = session.display.viewers[0]._web.viewer._scene.robot
    start = session.stack.qpos
    session.command("walk forward")
    session.run(0.5)
    posed = []
    pose, robot.pose = robot.pose, posed.append
    time.sleep(0.05)  # pictures are sent 30 times a second at most
    session.reset()
    robot.pose = pose
    np.testing.assert_array_equal(posed, [start])


def test_boxes_sliders_and_flag_say_what_is_followed_even_while_time_stands_still(page):
    session, requests, _ = page
    viewer = session.display.viewers[0]._web.viewer
    steering, flag = viewer.panel._steering, viewer._scene.flag._handle
    session.display.run_at(paused=True)

    def shown():
        session.display.obey(session)
        return steering._on.value, steering._goal.value, flag.visible

    assert shown() == (False, False, False)
    requests.go_to((1.5, -0.5))
    assert shown() == (False, True, True)
    np.testing.assert_allclose(flag.position, [1.5, -0.5, 0.0])
    requests.steer((0.1, 0.0, 0.0))
    assert shown() == (True, False, False)
    assert steering._velocity == (0.1, 0.0, 0.0)
    session.let_go()  # as :com off does
    assert shown() == (False, False, False)


def test_keys_add_to_what_was_pressed_before_it_is_obeyed(page):
    """What the stack still follows must not undo a touch of a moment ago."""
    session, requests, _ = page
    steering = session.display.viewers[0]._web.viewer.panel._steering

    def press(name):
        asyncio.run(steering._wish(partial(steering._press, name))(viser.GuiEvent(None, 0, steering._on)))

    press("Faster forward")
    steering.show(None, goal=False)
    press("Faster forward")
    (wish,) = requests.take()
    assert wish.velocity == (0.4, 0.0, 0.0)
    press("Let go")
    assert [type(wish).__name__ for wish in requests.take()] == ["Steer", "Go"]
    assert not steering._on.value and steering._velocity == (0.0, 0.0, 0.0)
