"""The page in a headless Chromium, by its DevTools protocol: what is typed there moves the robot."""

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import time
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from motionlex.controllers.com_path import VelocityCommand
from motionlex.controllers.console import Console
from motionlex.controllers.display import Display
from motionlex.controllers.live import Live
from motionlex.controllers.session import Outside, Session
from motionlex.controllers.stack import Stack
from motionlex.controllers.viewers import WebPage
from motionlex.data.errors import UserError
from motionlex.envs.web_guard import Guard
from motionlex.envs.web_server import open_server

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--remote-debugging-port=0", "--remote-allow-origins=*", "--window-size=900,700",
    "--disable-extensions", "--disable-background-networking", "--mute-audio",
)  # fmt: skip
DPR = float(os.environ.get("DPR", "0.3"))
PAGES = []
CODES = "document.querySelectorAll('[data-motionlex=codes] span')"


def patiently(ask, seconds=60.0):
    """Return the first answer that is true."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return answer


class Wire:
    """A connection to the browser."""

    def __init__(self, address):
        self.socket, self.numbers = connect(address, max_size=None), itertools.count(1)

    def do(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv(timeout=60))).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]


class Page(Wire):
    """A window of its own: pages in hidden tabs stand still."""

    def __init__(self, browser, url):
        # few pixels: without a graphics card they are computed one by one
        target = Wire(browser).do("Target.createTarget", url=f"{url}?fixedDpr={DPR}", newWindow=True)["targetId"]
        super().__init__(f"{browser.partition('/devtools')[0]}/devtools/page/{target}")

    def get(self, script):
        return self.do("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self, name="said"):
        return self.get(f"document.querySelector('[data-motionlex={name}]')?.innerText ?? ''")

    def picture(self):
        png = base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)

    def type(self, words):
        """Write into the prompt box as a keyboard would, and press Enter."""
        patiently(lambda: self.get("!!document.querySelector('form input')"))
        self.get("document.querySelector('form input').focus()")
        self.do("Input.insertText", text=words)
        time.sleep(0.2)  # viser sends one message in 50 ms: Enter any sooner would overtake the text
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")

    def key(self, letter):
        """Press a key while no box has the focus."""
        self.get("document.activeElement?.blur()")
        for kind in ("keyDown", "keyUp"):
            code = f"Key{letter.upper()}"
            self.do(
                "Input.dispatchKeyEvent", type=kind, key=letter, code=code, windowsVirtualKeyCode=ord(letter.upper())
            )

    def drag(self, here, there):
        """Move the mouse from one pixel to another with its left button down."""
        ways = np.linspace(here, there, 8)
        self.do("Input.dispatchMouseEvent", type="mouseMoved", x=here[0], y=here[1])
        time.sleep(0.5)
        self.do("Input.dispatchMouseEvent", type="mousePressed", x=here[0], y=here[1], button="left", clickCount=1)
        for x, y in ways.tolist():
            self.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
            time.sleep(0.1)
        x, y = ways[-1].tolist()
        self.do("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def settle(self):
        """Wait until the scene has been drawn some times: the first pictures take long without a graphics card."""
        self.get("window.drawn = 0; (function again() { drawn += 1; requestAnimationFrame(again); })()")
        patiently(lambda: self.get("drawn") > 20)

    def reload(self):
        """Load the page anew, as F5 does, and wait until it says what it said before."""
        before = self.text()
        self.do("Page.reload")

        def back():
            with suppress(AssertionError):  # between two documents there is nobody to ask
                return self.get("window.marked !== true") and self.text() == before

        patiently(back)

    def press(self, label):
        found = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {json.dumps(label)})"
        patiently(lambda: self.get(f"!!{found}"))
        self.get(f"{found}.click()")


def pixel(point, width, height):
    """Where the page's first camera sees a point."""
    eye, target = np.array([2.4, -2.2, 1.5]), np.array([0.0, 0.0, 0.75])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    seen = np.array([right, -np.cross(right, forward), forward]) @ (point - eye)
    focal = height / 2 / np.tan(np.radians(55.0) / 2)
    return (seen[:2] / seen[2] * focal + np.array([width, height]) / 2).tolist()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser found ({', '.join(NAMES)}); on Debian: apt-get install chromium")
    folder = tmp_path_factory.mktemp("chromium")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    announced = folder / "DevToolsActivePort"
    try:
        patiently(lambda: announced.exists() and len(announced.read_text().split()) == 2)
        port, path = announced.read_text().split()
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def running():
    """A robot whose time runs by itself on a thread, with a page and nobody at the terminal."""
    PAGES.clear()

    def make():
        def display(stack):
            PAGES.append(WebPage(stack, host="127.0.0.1", port=0))
            return Display((), tuple(PAGES))

        return Console(Session(Stack.from_bundle("builtin"), Outside(display=display)), live=True)

    live = Live(make)
    session = live.start().session
    yield session.stack, PAGES[0].url
    live.stop()


def test_a_prompt_that_is_typed_in_the_page_moves_the_robot(chromium, running):
    stack, url = running
    first = Page(chromium, url)
    patiently(first.text)
    patiently(lambda: stack.time > 0.5)
    before = stack.qpos[:2]

    first.type("<b>walk</b> forward")
    patiently(lambda: np.hypot(*(stack.qpos[:2] - before)) > 0.5)

    patiently(lambda: "<b>walk</b> forward" in first.text())  # shown as it was typed
    assert "walk_forward (similarity" in first.text()
    assert first.get(f"{CODES}.length") == 64
    assert "of real time" in first.text("clock") and "m/s" in first.text("clock")
    assert first.get("document.querySelectorAll('.uplot canvas').length") == 3

    first.press("Pause")
    patiently(lambda: "Go on" in first.get("document.body.innerText"))
    still = stack.time
    time.sleep(0.3)
    assert stack.time == still
    scene = first.picture()[:, 330:570]  # between the panels
    assert scene.std() > 5.0 and len(np.unique(scene.reshape(-1, 3), axis=0)) > 100  # neither blank nor a bare floor

    second = Page(chromium, url)  # as after a reload: everything is there, even while time stands still
    patiently(lambda: first.text() == second.text() and second.get(f"{CODES}.length") == 64)
    assert "Go on" in second.get("document.body.innerText")

    second.press("Reset")  # the one commands, the other sees it
    patiently(lambda: "began" in first.text().splitlines()[0])
    assert stack.time == 0.0
    second.press("Go on")
    patiently(lambda: stack.time > 0.0)

    second.type("wave")  # both may talk
    patiently(lambda: "'wave' is nearest to wave" in first.text())
    assert stack.commands[-1].text == "wave"

    first.press("Pause")  # nothing more is said meanwhile
    patiently(lambda: "Go on" in first.get("document.body.innerText"))
    first.get("window.marked = true")
    first.reload()
    first.press("Go on")

    def obeyed():  # while the scene is drawn for the first time, without a graphics card, Enter may overtake the text
        first.type("bow")
        time.sleep(1.0)
        return stack.commands and stack.commands[-1].text == "bow"

    patiently(obeyed)
    patiently(lambda: "'bow' is nearest to" in second.text())
    for page in (first, second):  # what is drawn without a graphics card is drawn at the cost of the next test
        page.do("Page.close")


def test_a_flag_that_is_dragged_and_keys_say_where_the_robot_goes(chromium, running):
    """The mouse takes the flag by its knob; where it lands is what a pinhole camera makes of the pointer's way, but for
    the first pixels, before which it is no drag."""
    stack, url = running
    page = Page(chromium, url)
    patiently(page.text)
    viewer = PAGES[0]._web.viewer
    PAGES[0]._web.requests.reset(9)
    PAGES[0]._web.requests.go_to((0.5, -0.5))
    patiently(lambda: stack.goal is not None and viewer._scene.flag._handle.visible)
    page.press("Pause")
    patiently(lambda: "Go on" in page.get("document.body.innerText"))
    page.settle()
    slid = np.array(viewer._scene._world.position)
    width, height = page.get("[innerWidth, innerHeight]")
    knob = np.array([*viewer._scene.flag.xy, 0.7]) + slid
    there = knob + np.array([-0.6, 0.3, 0.0])
    page.drag(pixel(knob, width, height), pixel(there, width, height))
    patiently(lambda: np.linalg.norm(viewer._scene.flag.xy - (there - slid)[:2]) < 0.08)
    page.press("Go on")
    patiently(lambda: stack.goal is not None and np.linalg.norm(stack.goal - (there - slid)[:2]) < 0.08)

    page.key("i")
    patiently(lambda: stack.goal is None and isinstance(stack.path, VelocityCommand))
    assert stack.path.numbers == (0.2, 0.0, 0.0)
    page.key("j")
    patiently(lambda: stack.path.numbers == (0.2, 0.0, 0.2))
    patiently(lambda: not viewer._scene.flag._handle.visible)
    page.key("h")
    patiently(lambda: stack.path is None)


def test_a_page_that_cannot_be_served_is_a_users_mistake_and_wakes_nobody():
    woken = []

    live = Live(lambda: open_server("192.0.2.1", 0, Guard(None)), on_end=lambda: woken.append(True))
    with pytest.raises(UserError, match="no address of this machine"):  # 192.0.2.0/24 is for documentation
        live.start()
    assert woken == []
