"""A session's books: recordings and tables, events, measurements, films; each finished even if another fails."""

import csv
import math

import mujoco
import numpy as np
import pytest
from PIL import Image, ImageSequence

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.console import Console
from motionlex.controllers.display import Display
from motionlex.controllers.episode import TimedCommand, heading_change_deg
from motionlex.controllers.instructions import read_line
from motionlex.controllers.interaction import run_script
from motionlex.controllers.recording import Recording
from motionlex.controllers.session import Outside, Session
from motionlex.controllers.simulation import run_commands
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import StackConfig
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.data.storage import read_npz
from motionlex.envs.gif import Gif
from motionlex.envs.simulator import Simulator


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


@pytest.fixture
def new_session(bundle, toy_encode):
    def new(*, config=None, **outside):
        return Session(Stack(bundle, encode=toy_encode, config=config), Outside(**outside))

    return new


def lying(qpos):
    """The same pose, 80 degrees forward, in the air: nothing touches it for a while."""
    down = qpos.copy()
    down[2], down[3:7] = 2.0, [np.cos(0.7), 0.0, np.sin(0.7), 0.0]
    return down


def test_the_table_holds_what_every_control_step_led_to(new_session, tmp_path):
    session = new_session(kept_s=math.inf, record=tmp_path / "f.npz")
    session.command("wave")
    states = [session.step() for _ in range(30)]
    session.close()
    arrays = read_npz(tmp_path / "f.npz")
    np.testing.assert_array_equal(arrays["torque"], [state.torque for state in states])
    np.testing.assert_array_equal(arrays["codes"], [state.codes for state in states])
    header, *rows = csv.reader((tmp_path / "f.csv").read_text().splitlines())
    table = np.array(rows, dtype=float)
    joints = session.stack.robot.joint_names
    assert len(header) == len(set(header)) == 1 + 7 + 3 * 19 + 64

    def column(name):
        return table[:, header.index(name)]

    np.testing.assert_allclose(column("time_s"), np.arange(1, 31) / 50, atol=1e-9)
    np.testing.assert_allclose(column("root_z_m"), [state.qpos[2] for state in states], rtol=1e-8)
    np.testing.assert_allclose(column("root_qw"), [state.qpos[3] for state in states], rtol=1e-8)
    for number in (0, 18):
        name = joints[number]
        np.testing.assert_allclose(column(f"{name}_rad"), [s.qpos[7 + number] for s in states], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(
            column(f"{name}_rad_per_s"), [s.qvel[6 + number] for s in states], rtol=1e-8, atol=1e-12
        )
        np.testing.assert_allclose(column(f"{name}_N_m"), [s.torque[number] for s in states], rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(column("code_63"), [state.codes[63] for state in states])


def replayed(arrays):
    """Replay a recording with plain MuJoCo, starting anew at every intervention; largest difference of positions."""
    model = mujoco.MjModel.from_xml_string(str(arrays["model_xml"]))
    data, worst = mujoco.MjData(model), 0.0
    after = np.concatenate((arrays["qpos"][1:], arrays["final_qpos"][None]))
    for row in range(len(arrays["ctrl"])):
        if row == 0 or row in arrays["interventions"]:
            data.qpos[:], data.qvel[:] = arrays["qpos"][row], arrays["qvel"][row]
        data.ctrl[:] = arrays["ctrl"][row]
        mujoco.mj_step(model, data)
        if row + 1 not in arrays["interventions"]:
            worst = max(worst, float(np.abs(data.qpos - after[row]).max()))
    return worst


def test_recordings_survive_resets_and_pushes_and_time_goes_on(new_session, tmp_path):
    session = new_session(kept_s=math.inf)
    session.command("wave")
    session.run(0.2)
    session.push(0.3, 0.0)
    session.run(0.1)
    session.reset()
    session.command("stand")
    session.run(0.1)
    session.save(tmp_path / "f.npz")
    arrays = read_npz(tmp_path / "f.npz")
    assert arrays["interventions"].tolist() == [40, 60]
    np.testing.assert_allclose(arrays["time"], np.arange(80) * 0.005, atol=1e-12)
    assert replayed(arrays) == 0.0
    times = np.loadtxt(tmp_path / "f.csv", delimiter=",", skiprows=1)[:, 0]
    np.testing.assert_allclose(times, np.arange(1, 21) / 50, atol=1e-9)


def test_long_sessions_keep_their_end(bundle, toy_encode, tmp_path):
    """In blocks of 8 control steps: after 50 steps, what is older than the last two may be gone, both kinds alike."""
    stack = Stack(bundle, encode=toy_encode)
    recording = Recording(stack, longest_s=0.04, block=8)
    stack.command("stand")
    for step in range(50):
        if step in (3, 45):
            stack.push(np.array([0.1, 0.0]))
        state = stack.step()
        recording.add(state, 10.0 + step)
    recording.save(tmp_path / "f.npz")
    arrays = read_npz(tmp_path / "f.npz")
    steps = len(arrays["codes"])
    assert 2 <= steps <= 18 and len(arrays["qpos"]) == 4 * steps
    np.testing.assert_array_equal(arrays["final_qpos"], state.qpos)
    assert arrays["interventions"].tolist() == [4 * (steps - 5)] and replayed(arrays) == 0.0
    assert np.loadtxt(tmp_path / "f.csv", delimiter=",", skiprows=1)[:, 0].tolist() == [
        10.0 + step for step in range(50 - steps, 50)
    ]


def test_a_snapshot_is_saved_as_the_recording_was(bundle, toy_encode, tmp_path):
    """Equal recordings give equal files: one is written at once, the other after everything has gone on."""
    stack = Stack(bundle, encode=toy_encode)
    recording = Recording(stack, longest_s=0.04, block=8)
    stack.command("stand")

    def go_on(steps):
        for step in range(steps):
            if step == 10:
                stack.push(np.array([0.1, 0.0]))
            recording.add(stack.step(), stack.time)

    go_on(29)
    recording.save(tmp_path / "now.npz")
    still = recording.snapshot()
    go_on(29)
    still.save(tmp_path / "later.npz")
    for suffix in (".npz", ".csv"):
        now, later = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("now", "later"))
        assert now == later
    recording.save(tmp_path / "end.npz")
    assert (tmp_path / "end.npz").read_bytes() != now


def test_falls_and_what_follows_are_told_and_counted(new_session):
    heard = []
    session = new_session(config=StackConfig(recover_s=0.1), say=heard.append)
    session.command("stand")
    session.step()
    session.stack.tracker.simulator.reset(lying(session.stack.qpos), np.zeros(25))
    session.run(0.2)
    summary = session.summary()
    assert summary["fell"] is True
    # down for more than 0.1 s, that is at the sixth step after the one at which it is noticed first
    assert summary["events"] == [
        {"time_s": pytest.approx(0.04), "event": "fell"},
        {"time_s": pytest.approx(0.14), "event": "stood up"},
    ]
    assert heard[0] == "0.04 s: the robot fell" and "on its feet again" in heard[1]
    session.reset()
    assert session.summary()["fell"] is True  # the session saw it, whatever the stack has forgotten


def test_turns_are_counted_beyond_a_half(new_session):
    """The robot is turned by hand, 0.6 rad a step: nine steps are 5.4 rad, more than half a turn."""
    session = new_session()
    session.command("stand")
    session.step()
    start = session.turned
    for step in range(1, 10):
        pose = session.stack.qpos
        pose[3:7] = [np.cos(0.3 * step), 0.0, 0.0, np.sin(0.3 * step)]
        session.stack.tracker.simulator.reset(pose, np.zeros(25))
        session.step()
    # what the robot turns by itself within a control step is small
    assert session.turned - start == pytest.approx(5.4, abs=0.1)


def test_a_session_reports_what_run_commands_does(bundle, toy_encode):
    commands = [TimedCommand(text="wave", seconds=0.3), TimedCommand(text="stand", seconds=0.2)]
    run = run_commands(Stack(bundle, encode=toy_encode), iter(commands))
    session = Session(Stack(bundle, encode=toy_encode))
    for command in commands:
        session.command(command.text)
        session.run(command.seconds)
    assert session.reports == run.commands and len(run.qpos) == 26
    np.testing.assert_array_equal(run.qpos[-1], session.stack.qpos)
    assert session.summary()["heading_change_deg"] == pytest.approx(heading_change_deg(run.qpos), abs=1e-9)
    assert session.summary()["distance_m"] == pytest.approx(np.linalg.norm(run.qpos[-1, :2] - run.qpos[0, :2]))


class Broken:
    def __init__(self):
        self.closed = False

    def show(self):
        pass

    def close(self):
        self.closed = True
        raise OSError(28, "No space left on device", "film")


class Stopping(Broken):
    """A film during which the user presses Ctrl-C."""

    def show(self):
        raise KeyboardInterrupt

    def close(self):
        self.closed = True


def test_everything_is_finished_even_if_something_fails(new_session, tmp_path):
    films = (Broken(), Broken())
    session = new_session(kept_s=math.inf, record=tmp_path / "f.npz", display=lambda stack: Display(films))
    session.command("wave")
    session.step()
    with pytest.raises(OSError, match="No space"):
        session.close()
    assert all(film.closed for film in films) and (tmp_path / "f.npz").is_file()
    session.close()  # nothing is left to do


def test_a_stopped_script_finishes_its_files(new_session, tmp_path):
    film = Stopping()
    session = new_session(kept_s=math.inf, record=tmp_path / "f.npz", display=lambda stack: Display((film,)))
    with pytest.raises(UserError, match=r"stopped by the user after 0.02 s"):
        run_script(Console(session), [read_line("wave:5", None)])
    assert film.closed and len(read_npz(tmp_path / "f.npz")["qpos"]) == 4


def test_files_hold_one_robot(new_session, tmp_path):
    for outside in ({"record": tmp_path / "f.npz"}, {"display": lambda stack: Display((Stopping(),))}):
        session = new_session(kept_s=math.inf, load=lambda name, seed: pytest.fail("loaded"), **outside)
        with pytest.raises(UserError, match="other files"):
            session.change_bundle("other", 0)


@pytest.fixture
def no_opengl(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")


def test_gifs_keep_time_and_size(bundle, tmp_path, no_opengl):
    """50 Hz: every third step is a picture of 60 ms; one second is 17 pictures."""
    simulator = Simulator(get_robot("h1"))
    gif = Gif(tmp_path / "f.gif", simulator)
    simulator.data.qpos[2:4] = 1.0, 1.0
    for step in range(50):
        simulator.data.qpos[8] = 0.02 * step
        gif.show()
    assert list(tmp_path.iterdir()) == []
    gif.close()
    with Image.open(tmp_path / "f.gif") as image:
        assert image.size == (320, 240)
        pictures = [
            (frame.info["duration"], np.asarray(frame.convert("RGB"))) for frame in ImageSequence.Iterator(image)
        ]
    assert [duration for duration, _ in pictures] == [60] * 17
    assert len(np.unique(pictures[0][1].reshape(-1, 3), axis=0)) > 3  # not blank
    assert not np.array_equal(pictures[0][1], pictures[-1][1])
    assert [path.name for path in tmp_path.iterdir()] == ["f.gif"]


def test_gifs_of_odd_rates_keep_the_true_time_on_the_whole(tmp_path, no_opengl):
    """At 40 Hz a picture lasts 50 ms exactly; at 33.3 Hz 60 ms; at 62.5 Hz 64 ms, in hundredths of a second."""
    for hz, count in ((40.0, 20), (100.0 / 3, 17), (62.5, 16)):
        simulator = Simulator(get_robot("h1"))
        simulator.hz = hz
        gif = Gif(tmp_path / "f.gif", simulator)
        for _ in range(round(hz)):
            gif.show()
        durations = gif.durations()
        assert len(durations) == count and all(duration % 10 == 0 for duration in durations)
        true = count * math.ceil(hz / 20) / hz * 1000
        assert sum(durations) == pytest.approx(true, abs=5.0)


def test_gifs_end_after_a_minute(tmp_path, no_opengl, caplog):
    simulator = Simulator(get_robot("h1"))
    simulator.hz = 1.0
    gif = Gif(tmp_path / "f.gif", simulator, width=32, height=24)
    caplog.set_level("INFO")
    for _ in range(62):
        gif.show()
    assert len(gif.durations()) == 60 and sum(gif.durations()) == 60_000
    assert caplog.text.count("ends here") == 1
