"""Segments that are decided too late: motors go on with the running one where time does not wait, else they wait."""

import threading

import numpy as np
import pytest
from watching_doubles import Watcher

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.display import Display
from motionlex.controllers.latent_data import REPLAN_FRAMES
from motionlex.controllers.planner import Planner
from motionlex.controllers.running_plan import MOST_LATE
from motionlex.controllers.session import Outside, Session
from motionlex.controllers.stack import Stack


@pytest.fixture
def held(tiny_bundle, toy_encode, monkeypatch):
    """A stack in its first segment, what its planner decided, and the gate that holds back the second one."""
    gate, decided, replan = threading.Event(), [], Planner.replan

    def slowly(self, *wishes):
        if decided:
            assert gate.wait(60)
        decided.append(replan(self, *wishes))
        return decided[-1]

    monkeypatch.setattr(Planner, "replan", slowly)
    stack = Stack(load_bundle(tiny_bundle), seed=1, encode=toy_encode)
    stack.command("walk")
    for _ in range(REPLAN_FRAMES):
        stack.step()
    yield stack, decided, gate
    gate.set()


def waits_for(stack, gate):
    """Open the gate only once the stack waits for what is behind it."""
    take = stack.drafting.take

    def taken():
        assert stack.drafting.working
        gate.set()
        return take()

    stack.drafting.take = taken


def test_the_running_segment_goes_on_until_the_late_one_takes_over_where_it_would_be(held):
    stack, decided, gate = held
    first = stack._plan.segment
    assert [stack.step(waits=False).frame for _ in range(3)] == [17, 18, 19]
    assert stack._plan.segment is first and stack.drafting.working
    gate.set()
    stack.drafting.settle()
    state = stack.step(waits=False)
    late = decided[1]
    assert state.frame == 4 and stack.segments == 2 and stack.drafting.waited_s < 1.0
    np.testing.assert_array_equal(state.codes, late.codes)
    # Four frames fade in by fifths from what went on; hinges are the same in the plan frame and in the world.
    for step, share in enumerate((0.2, 0.4, 0.6, 0.8, 1.0)):
        expected = (1 - share) * first.qpos[19 + step, 7:] + share * late.qpos[3 + step, 7:]
        np.testing.assert_allclose(stack._plan.frames[0][3 + step, 7:], expected, atol=1e-12)


def test_the_plan_stays_with_the_robot_when_a_late_segment_takes_over(held):
    stack, _, gate = held
    for _ in range(4):
        stack.step(waits=False)
    stack.push(np.array([5.0, 2.0]))
    for _ in range(3):
        stack.step(waits=False)
    measured = stack.qpos
    gate.set()
    stack.drafting.settle()
    stack._renew()
    distance = np.linalg.norm(stack.planned_qpos[:2] - measured[:2])
    assert stack._plan.cursor == 7 and distance == pytest.approx(stack.config.max_offset)


def test_a_segment_goes_on_for_some_frames_only(held):
    stack, _, gate = held
    frames = [stack.step(waits=False).frame for _ in range(MOST_LATE)]
    assert frames[-1] == REPLAN_FRAMES + MOST_LATE < 32
    waits_for(stack, gate)
    assert stack.step(waits=False).frame == MOST_LATE + 1
    assert stack.drafting.waited_s > 0.0
    # It is later than the next one is to begin: that begins now, and has what is left of the lead.
    assert stack.drafting._draft is not None


def test_who_waits_misses_no_frame(held):
    stack, _, gate = held
    waits_for(stack, gate)
    assert stack.step().frame == 1 and stack.drafting.waited_s > 0.0


def test_segments_in_time_are_the_same_whether_one_would_wait_or_not(tiny_bundle, toy_encode):
    runs = []
    for waits in (True, False):
        stack, rows = Stack(load_bundle(tiny_bundle), seed=2, encode=toy_encode), []
        stack.command("walk")
        for _ in range(60):
            stack.drafting.settle()
            stack.step(waits=waits)
            rows.append(stack.qpos)
        runs.append(rows)
    np.testing.assert_array_equal(*runs)


def test_nobody_waits_only_where_somebody_watches_in_real_time(tiny_bundle, toy_encode, monkeypatch):
    display = Display((), (Watcher(),))
    assert display.in_real_time and not Display().in_real_time
    for speed, real in ((0.5, True), (0.0, False), (2.0, False)):
        display.run_at(speed=speed)
        assert display.in_real_time == real
    asked, step = [], Stack.step
    monkeypatch.setattr(Stack, "step", lambda self, *, waits=True: (asked.append(waits), step(self))[1])
    session = Session(
        Stack(load_bundle(tiny_bundle), encode=toy_encode), Outside(display=lambda stack: Display((), (Watcher(),)))
    )
    session.run(0.04)  # a script is repeatable, whoever watches
    assert asked == [True, True]
    session.close()
