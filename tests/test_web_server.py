"""Who gets in, where the server listens, and what it sends; without a browser."""

import http.client
import logging
import re
import socket
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
import viser
import websockets.asyncio.server
from scipy.spatial.transform import Rotation
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.envs import web_server
from motionlex.envs.simulator import Simulator
from motionlex.envs.web_guard import Guard, is_loopback
from motionlex.envs.web_history import History
from motionlex.envs.web_scene import Shape
from motionlex.envs.web_server import free_port, open_server
from motionlex.envs.web_viewer import Sketch, WebViewer

ROBOT = get_robot("h1")


@pytest.fixture(scope="module")
def local():
    """A server for this machine."""
    server = open_server("127.0.0.1", 0, Guard(None))
    yield server.get_port()
    server.stop()


@pytest.fixture(scope="module")
def shared():
    """A server for other machines, too."""
    server = open_server("0.0.0.0", 0, Guard("right"))
    yield server.get_port()
    server.stop()


def fetch(port, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body, response.headers


def first_message(port, *, origin=None, path="/", headers=None):
    """Open a web socket as viser's page does, and return how much the server says first."""
    with connect(
        f"ws://127.0.0.1:{port}{path}", subprotocols=[f"viser-v{viser.__version__}"], origin=origin,
        additional_headers=headers, open_timeout=10, max_size=None,
    ) as socket_:  # fmt: skip
        return len(socket_.recv(timeout=10))


def test_this_machine_gets_the_page_and_the_scene(local):
    status, body, headers = fetch(local)
    assert status == 200 and b"<script" in body
    assert headers["X-Frame-Options"] == "DENY"
    assert fetch(local, Host=f"localhost:{local}")[0] == 200
    assert fetch(local, Host="127.0.0.1:9999")[0] == 200  # behind ssh -L 9999:...
    assert first_message(local) > 0 and first_message(local, origin=f"http://127.0.0.1:{local}") > 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "robot.example"},  # DNS rebinding
        {"Host": "127.0.0.1.robot.example:80"},
        {"Host": "["},
        {"Origin": "http://robot.example"},
        {"Origin": "null"},  # a page in a sandbox, or a file
        {"Origin": "http://127.0.0.1:1"},  # another server of this machine
        {"Origin": "http://["},
    ],
)
def test_pages_of_other_sites_get_nothing(local, headers):
    assert fetch(local, **headers)[0] == 403


def test_web_sockets_of_other_sites_get_nothing(local):
    with pytest.raises(InvalidStatus) as refused:
        first_message(local, origin="http://robot.example")
    assert refused.value.response.status_code == 403


def test_other_machines_need_the_token(shared):
    for path in ("/", "/index.html", "/?token=wrong", "/?token=", "/?token=wrong&token=right", "/?tok=right"):
        status, body, headers = fetch(shared, path)
        assert status == 401 and b"<script" not in body and headers["Set-Cookie"] is None
    with pytest.raises(InvalidStatus) as refused:
        first_message(shared)
    assert refused.value.response.status_code == 401

    status, _, headers = fetch(shared, "/?token=right")
    assert status == 303 and headers["Location"] == "/"
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert fetch(shared, Cookie=cookie, Host="robot.example")[0] == 200  # whatever the machine is called
    assert fetch(shared, Cookie=cookie.replace("right", "wrong"))[0] == 401
    assert first_message(shared, headers={"Cookie": cookie}) > 0
    with pytest.raises(InvalidStatus):  # a page of another site cannot use the browser's cookie
        first_message(shared, origin="http://robot.example", headers={"Cookie": cookie})


def test_a_line_that_a_browser_opens_to_spare_is_not_worth_a_word(caplog):
    server = open_server("127.0.0.1", 0, Guard(None))
    with socket.create_connection(("127.0.0.1", server.get_port())) as line:
        line.shutdown(socket.SHUT_WR)
        while line.recv(1024):
            pass
    server.stop()
    assert "handshake" not in caplog.text


def test_headers_that_are_repeated_or_garbled_do_not_pass():
    twice = Headers([("Host", "127.0.0.1:1"), ("Host", "robot.example")])
    assert Guard(None).check("/", twice).status == 403
    origins = Headers([("Host", "127.0.0.1:1"), ("Origin", "http://127.0.0.1:1"), ("Origin", "http://robot.example")])
    assert Guard(None).check("/", origins).status == 403
    guard = Guard("right")
    for cookie in (
        "a=b; motionlex",
        "=",
        '"',
        "[]=x",
        f"{guard._cookie}=\xff",
        f"{guard._cookie}=",
    ):
        assert guard.check("/", Headers(Host="robot.example", Cookie=cookie)).status == 401
    beside = f'a={{"x": 1}}; =; []; {guard._cookie}=right; other'  # cookies of other programs on the same machine
    assert guard.check("/", Headers(Host="robot.example", Cookie=beside)) is None


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("LocalHost", True), ("0.0.0.0", False), ("::", False),
     ("", False), ("10.0.0.1", False), ("localhost.example", False), ("127.0.0.1.example", False)],
)  # fmt: skip
def test_only_names_of_this_machine_are_loopback(host, own):
    assert is_loopback(host) == own


def test_ports_in_use_are_passed_over_and_foreign_addresses_are_mistakes():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        assert free_port("127.0.0.1", busy) > busy
    for host in ("192.0.2.1", "no such host"):  # 192.0.2.0/24 is for documentation and nobody's
        with pytest.raises(UserError, match="no address of this machine"):
            free_port(host, 8080)


def test_a_viser_that_does_not_ask_the_guard_is_not_used(monkeypatch):
    genuine = websockets.asyncio.server.serve
    monkeypatch.setattr(web_server, "_asked", lambda guard, inner: inner)
    with pytest.raises(UserError, match="cannot be protected"):
        open_server("127.0.0.1", 0, Guard(None))
    assert websockets.asyncio.server.serve is genuine


def test_no_tunnel_leads_around_the_guard(monkeypatch, caplog):
    opened = []
    monkeypatch.setattr("viser._viser.ViserTunnel", lambda *args: opened.append(args))
    server = open_server("127.0.0.1", 0, Guard(None))
    assert server.request_share_url() is None and opened == [] and "refused" in caplog.text
    server.stop()


def page(**options):
    simulator = Simulator(ROBOT)
    qpos = np.concatenate(([0, 0, ROBOT.standing_height, 1, 0, 0, 0], ROBOT.default_pose))
    simulator.reset(qpos, np.zeros(25))
    return simulator, WebViewer(simulator, port=0, **options)


def test_the_page_is_for_this_machine_unless_told_otherwise(capsys):
    _, viewer = page()
    try:
        assert viewer.url == f"http://127.0.0.1:{viewer.port}/"
        for _, _, _, _, (address, *_) in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET):
            if not is_loopback(address):
                with pytest.raises(OSError):
                    socket.create_connection((address, viewer.port), timeout=2)
    finally:
        viewer.close()
    assert capsys.readouterr().out == ""  # stdout is for results


def test_another_address_comes_with_a_warning_and_a_new_token(caplog):
    tokens = set()
    for _ in range(2):
        with caplog.at_level(logging.INFO):
            _, viewer = page(host="0.0.0.0")
        viewer.close()
        tokens.add(re.fullmatch(r"http://[^/]+/\?token=([\w-]{32})", viewer.url).group(1))
    assert len(tokens) == 2 and "not" in caplog.text and "ssh -L" in caplog.text


def test_what_was_typed_is_text_on_the_page():
    _, viewer = page()
    try:
        viewer.panel.tell("<img src=x onerror=alert(1)> & “quoted”")
        content = viewer.panel._said.content
        assert "&lt;img src=x onerror=alert(1)&gt; &amp; “quoted”" in content and "<img" not in content
        for number in range(20):
            viewer.panel.tell(f"line {number}")
        assert "line 19" in viewer.panel._said.content and "line 3<" not in viewer.panel._said.content
    finally:
        viewer.close()


def test_the_page_shows_robot_plan_and_paths():
    simulator, viewer = page()
    planned = simulator.qpos
    planned[0] += 3.0
    line = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    try:
        viewer.draw(Sketch(time=0.02, planned_qpos=planned, codes=np.arange(64), planned=line, wanted=None))
        scene = viewer._scene
        robot, ghost = scene.robot._handles["cylinders"], scene.ghost._handles["cylinders"]
        shift = ghost.batched_positions - robot.batched_positions
        np.testing.assert_allclose(shift, np.tile([3.0, 0.0, 0.0], (31, 1)), atol=1e-5)  # float32 of metres
        assert ghost.opacity < 0.5 and robot.opacity is None
        segments = scene.planned._handle.points
        np.testing.assert_allclose(segments[:, 0, :2], line[:-1])
        np.testing.assert_allclose(segments[:, 1, :2], line[1:])
        assert scene.planned._handle.visible and not scene.wanted._handle.visible
        assert viewer.panel._codes.content.count("<span") == 64
    finally:
        viewer.close()


def test_a_sketch_without_everything_never_says_that_there_is_nothing(monkeypatch):
    """It was made because nothing slow was due; that may have changed on the way to the page."""
    _, viewer = page()
    line, now = np.array([[0.0, 0.0], [1.0, 0.0]]), [100.0]
    monkeypatch.setattr("motionlex.envs.web_viewer.time", SimpleNamespace(perf_counter=lambda: now[0]))
    shown = []
    monkeypatch.setattr(viewer, "show_wishes", lambda *wishes: shown.append(wishes))
    try:
        viewer.draw(Sketch(time=0.02, planned=line, velocity=(0.5, 0.0, 0.0)))
        assert viewer._scene.planned._handle.visible and not viewer.due()
        now[0] += 10.0
        assert viewer.due()
        viewer.draw(Sketch(time=0.04), whole=False)
        assert viewer._scene.planned._handle.visible and shown == [((0.5, 0.0, 0.0), None)]
        now[0] += 1.0
        viewer.draw(Sketch(time=0.06))
        assert not viewer._scene.planned._handle.visible and shown[1:] == [(None, None)]
    finally:
        viewer.close()


def test_parts_are_where_mujoco_has_the_geoms():
    model = ROBOT.model(control="none")
    shape, rng = Shape(model), np.random.default_rng(0)
    qpos = np.concatenate((rng.normal(size=3), rng.normal(size=4), rng.uniform(-0.5, 0.5, 19)))
    qpos[3:7] /= np.linalg.norm(qpos[3:7])
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    parts = shape.place(qpos)
    kinds = {kind: [g for g in range(model.ngeom) if model.geom_type[g] == kind] for kind in (2, 3, 5, 6)}
    assert (len(kinds[3]), len(kinds[5]), len(kinds[6])) == (28, 3, 3)  # capsules, cylinders, boxes of our H1
    boxes = parts["boxes"]
    np.testing.assert_allclose(boxes.positions, data.geom_xpos[kinds[6]], atol=1e-12)
    turned = Rotation.from_quat(np.roll(boxes.wxyzs, -1, axis=1)).as_matrix()
    np.testing.assert_allclose(turned, data.geom_xmat[kinds[6]].reshape(-1, 3, 3), atol=1e-12)
    np.testing.assert_allclose(shape.scales["boxes"], 2 * model.geom_size[kinds[6]])
    assert len(parts["cylinders"].positions) == 31 and len(parts["spheres"].positions) == len(kinds[2]) + 2 * 28
    ends = parts["spheres"].positions[len(kinds[2]) :].reshape(2, 28, 3)
    middle = data.geom_xpos[kinds[3]]
    np.testing.assert_allclose(ends.mean(axis=0), middle, atol=1e-12)
    half = np.linalg.norm(ends[0] - middle, axis=1)
    np.testing.assert_allclose(half, model.geom_size[kinds[3], 1], atol=1e-12)


def test_history_keeps_ten_seconds_and_begins_anew_with_time():
    history = History(np.array([10.0, 40.0]))
    for step in range(1, 801):
        time = step * 0.02
        qpos = np.zeros(26)
        qpos[:3] = time, -time, 1.0
        history.add(time, qpos, np.full(25, 3.0), np.array([-5.0, 10.0]))
        history.add(time, qpos, np.zeros(25), np.zeros(2))  # the same moment again
    table = history.table
    assert len(table) == 501 and table[0, 0] == pytest.approx(6.0) and table[-1, 0] == pytest.approx(16.0)
    np.testing.assert_allclose(table[:, 1], 1.0)
    np.testing.assert_allclose(table[:, 2], np.sqrt(18.0))
    np.testing.assert_allclose(table[:, 3], 50.0)  # 5 of 10 N m is more than 10 of 40
    np.testing.assert_allclose(table[:, 4:], np.stack((table[:, 0], -table[:, 0]), axis=1))
    history.add(0.02, np.zeros(26), np.zeros(25), np.zeros(2))
    assert len(history.table) == 1
