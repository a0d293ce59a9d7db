"""Time that runs by itself: lines from any thread, and what goes on meanwhile; viewers: test_simulate_watching."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from watching_doubles import SlowEncoder, Watcher, patiently

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.console import Console
from motionlex.controllers.display import Display
from motionlex.controllers.interaction import ask_live, run_script
from motionlex.controllers.live import MOST_WAITING, Live
from motionlex.controllers.planner import Planner
from motionlex.controllers.recording import Recording
from motionlex.controllers.script import read_instructions
from motionlex.controllers.session import Outside, Session
from motionlex.controllers.stack import Stack
from motionlex.data.errors import UserError


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


@pytest.fixture
def start(bundle, toy_encode):
    """Start a live session with a viewer; as fast as possible unless told otherwise."""
    running = []

    def new(watcher, speed=0.0, encode=toy_encode, **more):
        def make():
            outside = Outside(display=lambda stack: Display((), (watcher,)), kept_s=600.0)
            session = Session(Stack(bundle, encode=encode), outside)
            session.display.run_at(speed=speed)
            return Console(session, live=True)

        live = Live(make, **more)
        running.append(live)
        return live, live.start()

    yield new
    for live in running:
        live._stop.set()
        live._thread.join(30)


def test_the_robot_stands_until_it_is_told_something_and_then_does_it_until_the_next(start):
    watcher = Watcher()
    live, console = start(watcher)
    patiently(lambda: len(watcher.times) > 5)
    answer = live.submit("wave:0.02").result(30)
    assert "'wave' is nearest to wave" in answer.text and answer.text in watcher.told
    told = console.session.time
    patiently(lambda: console.session.time > told + 0.5)  # longer than its seconds
    assert live.submit(":quit").result(30).leave
    live.stop()
    assert watcher.closed and watcher.threads == {"simulation"}
    np.testing.assert_allclose(np.diff(watcher.times), 0.02, atol=1e-9)
    (report,) = console.session.reports  # standing at the beginning was nobody's command
    assert report.text == "wave" and report.seconds > 0.5
    late = live.submit("walk").result(30)
    assert late.failed and late.leave


def test_lines_from_many_threads_are_all_answered(start):
    live, _ = start(Watcher())
    answers = []

    def talk(number):
        answers.extend(live.submit(f":push 0.0{number} 0", trusted=False).result(30).text for _ in range(5))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == sorted(f"pushed by (0.0{number}, 0) m/s" for number in range(1, 5) for _ in range(5))
    assert "terminal only" in live.submit(":quit", trusted=False).result(30).text
    live.stop()


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("hearing", "saving"))]


def goes_on(watcher, steps=5):
    count = len(watcher.times)
    patiently(lambda: len(watcher.times) > count + steps)


def test_the_robot_goes_on_while_words_are_embedded_and_what_comes_later_is_done_later(start, toy_encode):
    """No bound on the time that an encoder takes: it ends when the test says so."""
    encode, watcher = SlowEncoder(toy_encode, "wave"), Watcher()
    live, console = start(watcher, encode=encode)
    words, push = live.submit("wave"), live.submit(":push 0.1 0")
    patiently(lambda: "wave" in encode.threads)
    watcher.wishes.append(lambda session: session.announce("a wish of a viewer"))
    goes_on(watcher)
    assert not (words.done() or push.done()) and not watcher.told and watcher.wishes
    blocked = watcher.times[-1]
    encode.may.set()
    assert words.result(30).text.endswith(")") and push.result(30).text == "pushed by (0.1, 0) m/s"
    patiently(lambda: len(watcher.told) == 3)
    assert watcher.told == [words.result().text, push.result().text, "a wish of a viewer"]
    goes_on(watcher)
    (report,) = console.session.reports
    assert report.text == "wave" and report.start_s >= blocked
    assert encode.threads["wave"].startswith("hearing")
    assert encode.threads[console.session.stack.commands[0].text] == "simulation"  # to stand, at the very beginning
    live.stop()
    assert not workers()


def test_words_are_embedded_beside_time_that_stands_still(start, toy_encode):
    encode, watcher = SlowEncoder(toy_encode, "wave"), Watcher()
    live, _ = start(watcher, encode=encode)
    live.submit(":pause").result(30)
    words, on = live.submit("wave"), live.submit(":pause")
    patiently(lambda: "wave" in encode.threads)
    encode.may.set()
    assert "nearest to wave" in words.result(30).text and on.result(30).text == "time goes on"
    goes_on(watcher)
    live.stop()


def test_words_that_cannot_be_embedded_are_answered_and_the_robot_goes_on(start, toy_encode):
    def encode(texts):
        if texts[0] == "wave":
            raise UserError("no readable BERT")
        return toy_encode(texts)

    watcher = Watcher()
    live, _ = start(watcher, encode=encode)
    answer = live.submit("wave").result(30)
    assert answer.failed and answer.text == "no readable BERT"
    assert not live.submit("walk").result(30).failed
    goes_on(watcher)
    live.stop()


def test_a_session_that_ends_while_words_are_embedded_answers_them_and_leaves_no_thread(start, toy_encode):
    encode = SlowEncoder(toy_encode, "wave")
    live, console = start(Watcher(), encode=encode)
    words, later = live.submit("wave"), live.submit("walk")
    patiently(lambda: "wave" in encode.threads)
    ending = threading.Thread(target=live.stop)
    ending.start()
    patiently(lambda: console.session._closed)
    encode.may.set()
    ending.join(30)
    assert not ending.is_alive() and not workers()
    assert words.result(0).leave and later.result(0).leave and not console.session.reports


@pytest.fixture
def slow_writer(monkeypatch):
    """Recordings are written when the event is set."""
    may, save = threading.Event(), Recording.save

    def slowly(self, path):
        assert may.wait(30)
        return save(self, path)

    monkeypatch.setattr(Recording, "save", slowly)
    return may


def test_the_robot_goes_on_while_a_recording_is_written(start, slow_writer, tmp_path):
    """The file holds what was there when it was asked for, however long the writing takes."""
    watcher, path = Watcher(), tmp_path / "f.npz"
    live, _ = start(watcher)
    goes_on(watcher)
    before = len(watcher.times)
    assert live.submit(f":save {path}").result(30).text == f"{path} is being written"
    after = len(watcher.times) + 1
    goes_on(watcher, 50)
    assert list(tmp_path.iterdir()) == []
    again = live.submit(f":save {tmp_path / 'g.npz'}").result(30)
    assert again.failed and again.text == f"{path} is being written still: wait until that is said to be done"
    watcher.told.clear()
    slow_writer.set()
    patiently(lambda: watcher.told)
    assert watcher.told == [f"{path} and {tmp_path / 'f.csv'} written"] and not workers()
    assert before <= len(np.load(path)["codes"]) <= after
    assert not live.submit(f":save {tmp_path / 'g.npz'}").result(30).failed
    live.stop()  # which waits for it
    assert watcher.told[-1] == f"{tmp_path / 'g.npz'} and {tmp_path / 'g.csv'} written"
    assert len(np.load(tmp_path / "g.npz")["codes"]) > after
    assert not workers()


def test_a_recording_that_cannot_be_written_is_said_and_the_robot_goes_on(start, monkeypatch, tmp_path):
    def full(handle):
        raise OSError(28, "No space left on device")

    watcher = Watcher()
    live, _ = start(watcher)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        live.submit(f":save {tmp_path / 'f.npz'}").result(30)
        patiently(lambda: any("No space left" in told for told in watcher.told))
    assert f"{tmp_path / 'f.npz'} is not written whole" in watcher.told[-1] and list(tmp_path.iterdir()) == []
    goes_on(watcher)
    live.submit(f":save {tmp_path / 'f.npz'}").result(30)
    live.stop()
    assert (tmp_path / "f.csv").is_file()


def test_a_flood_is_refused():
    live = Live(lambda: pytest.fail("never started"))
    futures = [live.submit("walk") for _ in range(MOST_WAITING + 1)]
    assert futures[-1].result(0).failed and not any(future.done() for future in futures[:-1])


def test_time_stands_still_while_paused_and_lines_are_answered_all_the_same(start):
    watcher = Watcher()
    live, console = start(watcher)
    assert "stands still" in live.submit(":pause").result(30).text
    still = console.session.time
    assert "wave" in live.submit("wave").result(30).text
    assert "'speed'" not in live.submit(":speed 0").result(30).text
    assert console.session.time == still and watcher.controls[-1] == (True, 0.0)
    live.submit(":pause").result(30)
    patiently(lambda: console.session.time > still)
    live.stop()


def test_an_error_ends_the_session_wakes_the_terminal_and_is_raised_there(start):
    def breaks(watcher):
        if len(watcher.times) == 3:
            raise OSError(28, "No space left on device")

    woken, watcher = threading.Event(), Watcher(breaks)
    live, _ = start(watcher, on_end=woken.set)
    assert woken.wait(30) and live.submit("walk").result(30).leave
    with pytest.raises(OSError, match="No space"):
        live.stop()
    assert watcher.closed


def test_closing_the_window_ends_the_session_and_wakes_the_terminal(start):
    woken, watcher = threading.Event(), Watcher()
    live, console = start(watcher, on_end=woken.set)
    patiently(lambda: len(watcher.times) > 5)
    assert not woken.is_set()
    console.session.display.abandoned = True
    assert woken.wait(30) and watcher.closed and live.submit("walk").result(30).leave
    woken.clear()
    assert woken.wait(30)  # whoever did not wake up is woken again
    live.wait()
    live.stop()  # nothing went wrong


def test_time_that_runs_by_itself_does_not_wait_for_segments_in_real_time(start, monkeypatch):
    asked, step = [], Stack.step
    monkeypatch.setattr(Stack, "step", lambda self, *, waits=True: (asked.append(waits), step(self))[1])
    live, _ = start(Watcher(), speed=1.0)
    patiently(lambda: len(asked) > 3)
    assert not any(asked)
    live.submit(":speed 0").result(30)
    patiently(lambda: asked and asked[-1])
    live.stop()


def test_what_is_decided_while_pictures_are_drawn_counts(bundle, toy_encode, monkeypatch):
    """Segments take 0.15 s each, films 0.03 s a picture: ten pictures hide a segment from the control steps."""
    replan = Planner.replan
    monkeypatch.setattr(Planner, "replan", lambda self, *wishes: (time.sleep(0.15), replan(self, *wishes))[1])
    drawn = []

    def show():
        began = time.perf_counter()
        time.sleep(0.03)
        drawn.append(time.perf_counter() - began)

    film = SimpleNamespace(show=show, close=lambda: None)
    session = Session(Stack(bundle, encode=toy_encode), Outside(display=lambda stack: Display((film,))))
    session.command("wave")
    began = time.perf_counter()
    session.run(1.6)
    elapsed, decided = time.perf_counter() - began, session.stack.drafting.decided_s
    assert len(drawn) == 80 and len(decided) >= 5
    assert session.wall_s > 0.9 * sum(decided[:5]) > 0.6
    assert session.wall_s < elapsed - sum(drawn) + sum(decided)  # the other pictures do not
    session.close()


def test_closing_the_window_ends_a_script(bundle, toy_encode):
    watcher = Watcher(lambda self: self.wishes.append(leave) if len(self.times) == 7 else None)

    def leave(session):
        session.display.abandoned = True

    session = Session(Stack(bundle, encode=toy_encode), Outside(display=lambda stack: Display((), (watcher,))))
    session.display.run_at(speed=0.0)
    run_script(Console(session), read_instructions(["wave:5", "walk:5"], None))
    assert len(watcher.times) == 7 and watcher.closed


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_script_and_finishes_its_files(bundle, toy_encode, own_interrupts, name):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} on this system")
    told = []
    watcher = Watcher(lambda self: told or told.append(os.kill(os.getpid(), getattr(signal, name))))
    session = Session(Stack(bundle, encode=toy_encode), Outside(display=lambda stack: Display((), (watcher,))))
    session.display.run_at(speed=0.0)
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(UserError, match="stopped by the user after 0"):
        run_script(Console(session), read_instructions(["wave:600"], None))
    assert watcher.closed and signal.getsignal(getattr(signal, name)) is before


def test_ctrl_c_while_everything_is_loaded_ends_it(bundle, toy_encode, own_interrupts):
    watcher = Watcher()

    def slowly(say):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        return Session(Stack(bundle, encode=toy_encode), Outside(display=lambda stack: Display((), (watcher,))))

    with pytest.raises(KeyboardInterrupt):  # of which the command line says that the user stopped it
        ask_live(0, slowly)
    assert watcher.closed


def test_a_session_that_cannot_begin_says_why():
    def make():
        raise UserError("no display")

    woken = []
    with pytest.raises(UserError, match="no display"):
        Live(make, on_end=lambda: woken.append(True)).start()
    assert not woken  # nobody waits at the prompt yet
