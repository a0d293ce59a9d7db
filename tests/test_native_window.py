"""MuJoCo's own window on a virtual display: keys pressed there move the robot, closing it ends the simulation."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty")
pytestmark = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs Xvfb and xdotool (Debian: xvfb, xdotool)"
)


@pytest.fixture
def display():
    """Environment of a display of our own."""
    wayland = {"MUJOCO_GL", "WAYLAND_DISPLAY", "XDG_SESSION_TYPE"}  # would open a window on the desktop instead
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as number:
        name = number.readline().strip()
    try:
        assert name.isdigit(), "Xvfb did not start"
        yield {**{key: value for key, value in os.environ.items() if key not in wayland}, "DISPLAY": f":{name}"}
    finally:
        server.terminate()
        server.wait(30)


def test_arrows_walk_and_closing_the_window_ends_the_simulation(display, tmp_path):
    def xdotool(*words):
        return subprocess.run(["xdotool", *words], env=display, capture_output=True, text=True, timeout=30).stdout

    main_end, other_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "motionlex.scripts.main", "simulate", "--viewer", "native", "--json"],
        stdin=other_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**display, "XDG_STATE_HOME": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in the background
    )
    os.close(other_end)
    try:
        end = time.monotonic() + 120
        while not (windows := xdotool("search", "--onlyvisible", "--name", "MuJoCo").split()):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end, "no window"
            time.sleep(0.2)
        time.sleep(2)  # a window hears no key before it has drawn itself
        xdotool("windowfocus", "--sync", windows[0])
        for _ in range(2):
            xdotool("key", "Up")
        time.sleep(5)
        xdotool("key", "ctrl+q")
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(30)
        os.close(main_end)
    assert process.returncode == 0, errors
    result = json.loads(output.splitlines()[-1])
    assert result["distance_m"] > 0.3 and not result["fell"]  # a robot that stands sways by centimetres
