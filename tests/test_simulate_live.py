"""Time that runs by itself: lines from any thread, viewers and their wishes, the prompt on a real terminal."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from motionlex.controllers import display as display_module
from motionlex.controllers import prompt as prompt_module
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.console import Console
from motionlex.controllers.display import Display
from motionlex.controllers.live import MOST_WAITING, Live
from motionlex.controllers.prompt import Prompt, history_file
from motionlex.controllers.session import Outside, Session
from motionlex.controllers.stack import Stack
from motionlex.controllers.viewers import WebPage
from motionlex.data.errors import UserError
from motionlex.scripts.simulate import main


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


class Watcher:
    """A viewer that remembers what it was shown; ``on_draw`` is called with itself at every control step."""

    def __init__(self, on_draw=lambda watcher: None):
        self.times, self.told, self.controls, self.closed, self.wishes = [], [], [], False, []
        self.on_draw, self.threads = on_draw, set()

    def draw(self, state):
        self.threads.add(threading.current_thread().name)
        self.times.append(state.time)
        self.on_draw(self)

    def tell(self, text):
        self.told.append(text)

    def show_controls(self, *, paused, speed):
        self.controls.append((paused, speed))

    def obey(self, session):
        while self.wishes:
            self.wishes.pop(0)(session)

    def close(self):
        self.closed = True


@pytest.fixture
def start(bundle, toy_encode):
    """Start a live session with a viewer; as fast as possible unless told otherwise."""
    running = []

    def new(watcher, speed=0.0, **more):
        def make():
            session = Session(Stack(bundle, encode=toy_encode), Outside(display=lambda stack: Display((), (watcher,))))
            session.display.run_at(speed=speed)
            return Console(session, live=True)

        live = Live(make, **more)
        running.append(live)
        return live, live.start()

    yield new
    for live in running:
        live._stop.set()
        live._thread.join(30)


def patiently(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


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
    live, _ = start(watcher, on_failure=woken.set)
    assert woken.wait(30) and live.submit("walk").result(30).leave
    with pytest.raises(OSError, match="No space"):
        live.stop()
    assert watcher.closed


def test_a_session_that_cannot_begin_says_why():
    def make():
        raise UserError("no display")

    woken = []
    with pytest.raises(UserError, match="no display"):
        Live(make, on_failure=lambda: woken.append(True)).start()
    assert not woken  # nobody waits at the prompt yet


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


def test_wishes_of_the_page_are_obeyed_between_steps(page):
    session, requests, said = page
    assert requests.say(":quit", 0) is None  # words, whatever they look like
    session.run(0.02)
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

    requests.reset(2)
    session.display.obey(session)
    np.testing.assert_array_equal(session.stack.qpos[:2], 0.0)
    assert said[-1] == "the robot stands where it began"


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


@pytest.fixture
def simulate(tiny_bundle, toy_encoder, monkeypatch, tmp_path, capsys):
    """Run the command with a watcher instead of a page; returns it and the JSON."""
    monkeypatch.setattr("motionlex.controllers.stack.TextEncoder", toy_encoder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def call(watcher, *flags):
        monkeypatch.setattr("motionlex.controllers.viewers.WebPage", lambda stack, host, port: watcher)
        assert main(["--bundle", str(tiny_bundle), "--viewer", "web", "--json", *map(str, flags)]) == 0
        return json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    return call


def test_the_terminal_talks_to_a_robot_that_goes_on(simulate, monkeypatch, tmp_path):
    watcher, lines = Watcher(), iter([":speed 0", "wave", "", ":save", ":nonsense"])

    def typed(prompt):
        count = len(watcher.times)
        patiently(lambda: len(watcher.times) > count + 2)
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    result = simulate(watcher, "--record", tmp_path / "f.npz")
    assert [c["text"] for c in result["commands"]] == ["wave", "wave"] and watcher.closed
    assert result["seconds"] == pytest.approx(0.02 * len(watcher.times))
    assert len(np.load(tmp_path / "f.npz")["codes"]) == len(watcher.times)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM as elsewhere")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_a_terminal_only_the_page_asks_until_somebody_ends_it(
    simulate, monkeypatch, tmp_path, number, own_interrupts
):
    def ends(watcher):
        if len(watcher.times) == 1:
            watcher.wishes.append(lambda session: session.command("wave"))
        if len(watcher.times) == 10:
            os.kill(os.getpid(), number)

    monkeypatch.setattr("sys.stdin", open(os.devnull))
    before = signal.getsignal(signal.SIGTERM)
    watcher = Watcher(ends)
    result = simulate(watcher, "--record", tmp_path / "f.npz")
    assert [c["text"] for c in result["commands"]] == ["wave"] and watcher.closed
    assert (tmp_path / "f.npz").is_file() and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"XDG_STATE_HOME": "/some/where"}, "/some/where/motionlex/history"),
        ({"XDG_STATE_HOME": "relative"}, "{home}/.local/state/motionlex/history"),
        ({}, "{home}/.local/state/motionlex/history"),
    ],
)
def test_the_place_of_the_history(environment, wanted):
    assert history_file(environment) == Path(wanted.format(home=Path.home()))


def test_nobody_without_a_home_has_a_history(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert history_file({}) is None


def test_a_prompt_without_readline(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(prompt_module, "readline", None)
    answers = iter(["walk", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "wave", EOFError(), KeyboardInterrupt()])

    def typed(prompt):
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", typed)
    prompt = Prompt(lambda: ["walk forward"], tmp_path / "history")
    assert [prompt.ask() for _ in range(4)] == ["walk", "wave", None, None]
    assert "not UTF-8" in capsys.readouterr().out
    prompt.close()
    assert list(tmp_path.iterdir()) == []


def test_a_history_that_cannot_be_kept_is_no_matter(tmp_path):
    (tmp_path / "file").write_text("")
    for history in (tmp_path / "file" / "history", tmp_path):
        Prompt(lambda: [], history).close()


SNIPPET = """
import sys
from pathlib import Path
from motionlex.controllers.prompt import Prompt
prompt = Prompt(lambda: ["walk forward", "wave"], Path(sys.argv[1]))
while (line := prompt.ask()) is not None:
    print("got", repr(line), flush=True)
prompt.close()
print("left", flush=True)
"""


@pytest.mark.skipif(prompt_module.readline is None, reason="this Python has no readline")
def test_tab_completes_and_the_arrow_brings_back_lines_of_the_last_session(tmp_path):
    """On a terminal of its own: what is typed, what comes back."""
    pty = pytest.importorskip("pty")

    def talk(*typed):
        main_end, other_end = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", SNIPPET, str(tmp_path / "state" / "history")],
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            env={**os.environ, "TERM": "xterm", "INPUTRC": "/dev/null"},
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # ignored where tests run in the background
        )
        os.close(other_end)
        seen = b""

        def until(wanted):
            nonlocal seen
            while wanted not in seen:
                assert select.select([main_end], [], [], 60.0)[0], seen
                try:
                    seen += os.read(main_end, 4096)
                except OSError:  # the other end was closed
                    break
            assert wanted in seen, seen
            seen = seen.partition(wanted)[2]

        for text, wanted in typed:
            until(b"command> ")
            if text == b"\x03":  # the terminal that would turn Ctrl-C into a signal is not the process's own
                process.send_signal(signal.SIGINT)
            else:
                os.write(main_end, text)
            until(wanted)
        process.wait(30)
        os.close(main_end)

    talk((b"wal\t\n", b"got 'walk forward'"), (b":he\t\n", b"got ':help'"), (b"\x04", b"left"))
    talk((b"\x1b[A\x1b[A\n", b"got 'walk forward'"), (b"\x03", b"left"))
    assert (tmp_path / "state" / "history").stat().st_mode & 0o077 == 0  # nobody else reads it
