"""The prompt beside a robot whose time runs by itself: lines typed, histories, signals, a real terminal."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from watching_doubles import Watcher, patiently

from motionlex.controllers import prompt as prompt_module
from motionlex.controllers.prompt import Prompt, history_file
from motionlex.scripts.simulate import main


@pytest.fixture
def simulate(tiny_bundle, toy_encoder, monkeypatch, tmp_path, capsys):
    """Run the command with a watcher instead of a page; returns it and the JSON."""
    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)
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
                while not select.select([main_end], [], [], 10.0)[0]:
                    process.send_signal(signal.SIGINT)  # CPython misses one between the prompt and the wait for a key
            else:
                os.write(main_end, text)
            until(wanted)
        process.wait(30)
        os.close(main_end)

    talk((b"wal\t\n", b"got 'walk forward'"), (b":he\t\n", b"got ':help'"), (b"\x04", b"left"))
    talk((b"\x1b[A\x1b[A\n", b"got 'walk forward'"), (b"\x03", b"left"))
    assert (tmp_path / "state" / "history").stat().st_mode & 0o077 == 0  # nobody else reads it
