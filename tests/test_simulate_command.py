"""``motionlex simulate``: commands, paths, JSON, and mistakes in one clear line."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motionlex.controllers import simulation
from motionlex.controllers.com_path import read_com_path
from motionlex.controllers.episode import TimedCommand, heading_change_deg, is_down, parse_commands, speeds, tilt_deg
from motionlex.data.errors import UserError
from motionlex.scripts.simulate import main


@pytest.fixture(autouse=True)
def quick_text(monkeypatch, toy_encoder, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)


def test_commands_and_durations():
    assert parse_commands(["walk", "turn left:2.5", "say: hello", "wave:1"], 4.0) == (
        TimedCommand(text="walk", seconds=4.0),
        TimedCommand(text="turn left", seconds=2.5),
        TimedCommand(text="say: hello", seconds=4.0),
        TimedCommand(text="wave", seconds=1.0),
    )
    assert parse_commands(["walk"], None)[0].seconds == 5.0


@pytest.mark.parametrize("bad", ["", "   ", ":5", "walk:0", "walk:-1", "walk:nan", "walk:inf"])
def test_bad_commands_are_user_errors(bad):
    with pytest.raises(UserError):
        parse_commands([bad], None)


def test_json_carries_the_agreed_keys(tiny_bundle, capsys, tmp_path):
    record = tmp_path / "f.npz"
    flags = ["--bundle", str(tiny_bundle), "--json", "--record", str(record), "--seed", "1", "stand:0.4", "wave:0.6"]
    assert main(flags) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    result = json.loads(lines[-1])
    agreed = {"fell", "seconds", "real_time_factor", "distance_m", "heading_change_deg", "commands", "bundle"}
    assert agreed <= set(result)
    assert result["seconds"] == pytest.approx(1.0)
    assert [c["text"] for c in result["commands"]] == ["stand", "wave"]
    assert [c["start_s"] for c in result["commands"]] == [0.0, pytest.approx(0.4)]
    assert all({"text", "action", "similarity", "start_s"} <= set(c) for c in result["commands"])
    assert result["bundle"] == "tiny"
    assert all(c["understood"] for c in result["commands"]) and result["events"] == []
    assert result["path_error_m"] is result["heading_error_deg"] is result["speed_error_mps"] is None
    with np.load(record) as file:
        assert len(file["qpos"]) == 200  # 1 s at 5 ms
        assert file["codes"].shape == (50, 64) and file["torque"].shape == (50, 19)
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 51


@pytest.mark.parametrize("live", [True, False])
def test_weights_of_the_text_encoder_are_read_before_somebody_may_talk(tiny_bundle, monkeypatch, live):
    """The first new words would stop a running robot for seconds; a script waits for nobody."""
    stacks = []

    def session(stack):
        stacks.append(stack)
        return SimpleNamespace(stack=stack, summary=dict)

    monkeypatch.setattr(simulation, "ask", lambda seconds, seed, make: make(print))
    monkeypatch.setattr(simulation, "_session", lambda flags, stack, kept, say: session(stack))
    monkeypatch.setattr(simulation, "run_script", lambda console, instructions: None)
    monkeypatch.setattr(simulation, "Console", lambda session, seed: None)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    commands = () if live else ("walk:0.1",)
    simulation.simulate(simulation.SimulateFlags(commands=commands, bundle=str(tiny_bundle)))
    assert stacks[0].hearing._encoder.loaded == live


def test_what_of_a_long_text_is_not_read_is_said(tiny_bundle, caplog):
    with caplog.at_level("INFO"):
        assert main(["--bundle", str(tiny_bundle), "walk " * 300 + ":0.1"]) == 0
    assert "only its first 1000 characters are read" in caplog.text


def test_what_is_measured_of_a_path_is_in_the_json(tiny_bundle, capsys, tmp_path):
    path = write(tmp_path / "p.csv", "t_s,x_m,y_m,yaw_rad\n0,0,0,0\n4,0.4,0,0\n")
    assert main(["--bundle", str(tiny_bundle), "--json", "--com-path", str(path), "stand:1.6"]) == 0
    followed = json.loads(capsys.readouterr().out)
    assert main(["--bundle", str(tiny_bundle), "--json", ":com 0.1 0 0", "stand:1.6"]) == 0
    steered = json.loads(capsys.readouterr().out)
    for result in (followed, steered):
        assert 0 < result["path_error_m"] < 2.0 and 0 <= result["heading_error_deg"] <= 180
        assert 0 <= result["speed_error_mps"] < 5.0


def test_a_path_faster_than_the_motions_is_walked_later(tiny_bundle, caplog, tmp_path):
    path = write(tmp_path / "p.csv", "t_s,x_m,y_m\n0,0,0\n1,90,0\n")
    assert main(["--bundle", str(tiny_bundle), "--json", "--com-path", str(path), "stand:0.1"]) == 0
    assert "more than the motions have" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bundle", "nowhere", "walk"],
        [""],
        ["walk", "  "],
        ["walk:0"],
        ["--seconds", "0", "walk"],
        ["--com-path", "nowhere.csv", "walk"],
        ["--video", "nowhere/x.mp4", "walk"],
        ["--temperature", "-1", "walk"],
        ["--top-p", "0", "walk"],
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, tiny_bundle, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "--bundle" not in arguments:
        arguments = ["--bundle", str(tiny_bundle), *arguments]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().count("\n") == 0 and "error" in captured.err
    assert list(tmp_path.iterdir()) == []


def pipe(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_no_text_and_no_terminal_is_a_mistake_with_advice(tiny_bundle, capsys, monkeypatch):
    for content in (b"", b"\n# nothing but words to people\n"):
        pipe(monkeypatch, content)
        assert main(["--bundle", str(tiny_bundle)]) == 2
        assert "walk forward" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)  # as under pythonw, or with stdin closed
    assert main(["--bundle", str(tiny_bundle)]) == 2


SCRIPT = "\ufeff# a comment\r\nwave:0.2\r\n\r\n  stand:0.1\n:push 0.1 0\nwave:0.1\n:quit\nnever:9\n"


@pytest.mark.parametrize("how", ["file", "-", "pipe", "words"])
def test_scripts_come_from_files_pipes_and_the_command_line(how, tiny_bundle, tmp_path, capsys, monkeypatch, caplog):
    caplog.set_level("INFO")
    (tmp_path / "script.txt").write_text(SCRIPT, newline="")
    pipe(monkeypatch, SCRIPT.encode())
    words = [line.strip() for line in SCRIPT.split("\n") if line.strip() and "#" not in line]
    flags = {"file": ["--script", str(tmp_path / "script.txt")], "-": ["--script", "-"], "pipe": [], "words": words}
    assert main(["--bundle", str(tiny_bundle), "--json", *flags[how]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [c["text"] for c in result["commands"]] == ["wave", "stand", "wave"]
    assert [c["start_s"] for c in result["commands"]] == [0.0, pytest.approx(0.2), pytest.approx(0.3)]
    assert result["seconds"] == pytest.approx(0.4)
    assert "pushed by (0.1, 0) m/s" in caplog.text


def test_the_prompt_repeats_on_an_empty_line_and_leaves_on_quit(tiny_bundle, capsys, monkeypatch):
    answers = iter(["", "wave:0.1", "", "walk:0", ":quit", "never asked"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["--bundle", str(tiny_bundle), "--json"]) == 0
    output = capsys.readouterr().out
    result = json.loads(output.strip().splitlines()[-1])
    assert [c["text"] for c in result["commands"]] == ["wave", "wave"]
    assert "Nothing to repeat yet" in output and "seconds" in output
    assert next(answers) == "never asked"


def write(path, text):
    path.write_text(text)
    return path


def test_a_path_is_read_and_interpolated(tmp_path):
    path = read_com_path(write(tmp_path / "p.csv", "t_s,x_m,y_m,yaw_rad\n0,0,0,3\n2,4,-2,-3\n"))
    xy, yaw = path.at(np.array([-1.0, 1.0, 9.0]))
    np.testing.assert_allclose(xy, [[0, 0], [2, -1], [4, -2]])
    np.testing.assert_allclose(yaw, [3, (3 + 2 * np.pi - 3) / 2, 2 * np.pi - 3])
    free = read_com_path(write(tmp_path / "q.csv", "t_s, x_m, y_m\n0,0,0\n\n1,1,0\n"))
    assert free.yaw is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x,y\n0,0\n",
        "t_s,x_m,y_m\n",
        "t_s,x_m,y_m\n0,0,0\n",
        "t_s,x_m,y_m\n0,0,0\n0,1,0\n",
        "t_s,x_m,y_m\n0,0,0\n1,nan,0\n",
        "t_s,x_m,y_m\n0,0,0\n1,0\n",
        "t_s,x_m,y_m\n0,0,0\n1,0,zero\n",
        "t_s,x_m,y_m\n1,0,0\n0,0,0\n",
    ],
)
def test_malformed_paths_are_user_errors(tmp_path, text):
    with pytest.raises(UserError, match="com-path"):
        read_com_path(write(tmp_path / "p.csv", text))


@settings(max_examples=200, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(st.one_of(st.floats(), st.text(max_size=5)), max_size=5), max_size=6).map(
            lambda rows: "\n".join(["t_s,x_m,y_m", *(",".join(map(str, row)) for row in rows)]).encode(errors="replace")
        ),
    )
)
def test_any_file_is_a_path_or_a_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("path") / "p.csv"
    path.write_bytes(content)
    try:
        found = read_com_path(path)
    except UserError as error:
        assert "p.csv" in str(error)
        return
    assert len(found.time) >= 2 and np.isfinite(found.xy).all() and (np.diff(found.time) > 0).all()


def test_binary_paths_are_user_errors(tmp_path):
    (tmp_path / "p.csv").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="com-path"):
        read_com_path(tmp_path / "p.csv")


def circle(turn_rate, radius, seconds=8.0, hz=50.0):
    """Walk forward along a circle."""
    time = np.arange(round(seconds * hz) + 1) / hz
    yaw = turn_rate * time
    qpos = np.zeros((len(time), 26))
    qpos[:, 0], qpos[:, 1], qpos[:, 2] = radius * np.sin(yaw), radius * (1 - np.cos(yaw)), 1.0
    qpos[:, 3], qpos[:, 6] = np.cos(yaw / 2), np.sin(yaw / 2)
    return qpos


def test_measurements_of_a_circle():
    qpos = circle(turn_rate=1.0, radius=0.8)
    assert heading_change_deg(qpos) == pytest.approx(np.rad2deg(8.0))
    speed, forward = speeds(qpos, 50.0)
    # chord instead of arc, and the heading half a step behind: second order in 1/50 rad
    assert speed == pytest.approx(0.8, rel=1e-3) and forward == pytest.approx(0.8, rel=1e-3)


def test_tilt_and_falling_by_hand():
    assert tilt_deg(np.array([np.cos(0.3), np.sin(0.3), 0.0, 0.0])) == pytest.approx(np.rad2deg(0.6))
    pose = circle(1.0, 1.0)[0]
    assert not is_down(pose)
    low = pose.copy()
    low[2] = 0.49
    tilted = pose.copy()
    tilted[3:7] = np.cos(np.deg2rad(31)), 0, np.sin(np.deg2rad(31)), 0
    assert is_down(low) and is_down(tilted)
