"""Typed lines: what they mean, what they do to a session, and that nothing typed can do anything else."""

import contextlib
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.console import Console
from motionlex.controllers.instructions import VERBS, Instruction, help_text, read_line, shown, suggestions
from motionlex.controllers.script import script_lines
from motionlex.controllers.session import Outside, Session
from motionlex.controllers.stack import Stack
from motionlex.data.errors import UserError


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


@pytest.fixture
def console(bundle, tiny_bundle, toy_encode):
    """A console of a toy robot, words for 0.04 s; what the session says by itself is in ``console.heard``."""

    def load(name, seed):
        return Stack(load_bundle(tiny_bundle if name == "tiny" else tiny_bundle / name), seed=seed, encode=toy_encode)

    heard = []
    session = Session(Stack(bundle, encode=toy_encode), Outside(load=load, kept_s=math.inf, say=heard.append))
    console = Console(session, seconds=0.04)
    console.heard = heard
    return console


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("walk forward", Instruction(verb="say", text="walk forward", seconds=5.0)),
        ("  walk:2.5 ", Instruction(verb="say", text="walk", seconds=2.5)),
        ("say: hello", Instruction(verb="say", text="say: hello", seconds=5.0)),
        (":q", Instruction(verb="quit")),
        (":exit", Instruction(verb="quit")),
        (":push  -1 0.5", Instruction(verb="push", numbers=(-1.0, 0.5))),
        (":com 0.5 0 -0.2", Instruction(verb="com", numbers=(0.5, 0.0, -0.2))),
        (":com off", Instruction(verb="com")),
        (":speed 0", Instruction(verb="speed", numbers=(0.0,))),
        (":speed 0.05", Instruction(verb="speed", numbers=(0.05,))),
        (":wait 2.5", Instruction(verb="wait", numbers=(2.5,), seconds=2.5)),
        (":seed 7", Instruction(verb="seed", numbers=(7.0,))),
        (":save a b.npz", Instruction(verb="save", text="a b.npz")),
        (":bundle ../x", Instruction(verb="bundle", text="../x")),
    ],
)
def test_meanings(line, meaning):
    assert read_line(line, None) == meaning


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (":", "unknown command ':'"),
        (":5", "unknown command ':5'"),
        (": walk", "unknown command ':'"),
        (":rest", "Did you mean :reset?"),
        (":Push 1 0", "Did you mean :push?"),
        (":help me", "wanted :help, got 'me'"),
        (":push", "wanted :push VX VY, got ''"),
        (":push 1 2 3", "wanted :push VX VY"),
        (":push a b", "got 'a b'"),
        (":push 1e400 0", "got inf"),
        (":com nan 0 0", "VX must be"),
        (":com 1 2", "wanted :com VX VY YAW_RATE"),
        (":speed -1", "X must be at least 0"),
        (":speed 1e9", "at most 100"),
        (":speed 1e-300", "at least 0.05"),  # nobody would be heard within a control step of hours
        (":seed -1", "N must be at least 0"),
        (":seed 4294967296", "at most 4294967295"),
        (":seed 0.5", "whole number"),
        (":save", "wanted :save FILE.npz"),
        (":save a\x07b.npz", "wanted :save FILE.npz, got 'a\\x07b.npz'"),
        (":bundle", "wanted :bundle NAME"),
        ("", "empty command"),
        ("walk:0", "seconds after the colon"),
    ],
)
def test_mistakes(line, wanted):
    with pytest.raises(UserError) as caught:
        read_line(line, None)
    assert wanted in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.text(max_size=60).map(":{}".format) | st.sampled_from(sorted(VERBS)).flatmap(
    lambda verb: st.text(alphabet="0123456789.-+einfa ,_", max_size=30).map(lambda rest: f":{verb} {rest}")
))  # fmt: skip
def test_any_line_is_an_instruction_within_its_limits_or_a_mistake_on_one_line(line):
    try:
        meaning = read_line(line, None)
    except UserError as error:
        assert "\n" not in str(error).replace(repr(line), "") and len(str(error)) < 1000
        return
    if meaning.verb == "say":
        assert meaning.text.strip() and 0 < meaning.seconds <= 3600
    else:
        assert line.strip().startswith(":") and meaning.verb in VERBS
        limit = VERBS[meaning.verb].limit
        assert all(math.isfinite(number) and abs(number) <= limit for number in meaning.numbers)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_lines_of_text_or_no_script(content):
    try:
        lines = script_lines(content, "it")
    except UserError as error:
        assert str(error).startswith("it ")
    else:
        assert all(line == line.strip() and line and line[0] != "#" for line in lines)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_answers_repeat_texts_harmlessly(text):
    """Nothing that a terminal would act on, and not endlessly: ten characters per escape, quotes, an ellipsis."""
    assert shown(text).isprintable() and len(shown(text)) <= 10 * 61 + 2


def test_suggestions_go_on_as_the_text_begins():
    known = ("walk forward", "wave", "stand still")
    assert suggestions("wa", known) == ["walk forward", "wave"]
    assert suggestions("WALK f", known) == ["walk forward"]
    assert suggestions("x", known) == []
    assert suggestions(":s", known) == [":speed ", ":seed ", ":save "]
    assert suggestions(":quit", known) == [":quit"]
    assert suggestions("", known) == sorted(known)


def test_help_names_everything(console):
    answer = console.handle(":help").text
    assert all(f":{verb}" in answer for verb in VERBS)
    assert "wave, walk forward" in answer or "walk forward, wave" in answer  # first captions, not labels
    assert answer == help_text(console.sentences)


def test_words_run_for_their_seconds_and_an_empty_line_repeats_them(console):
    assert "Nothing to repeat" in console.handle("").text
    answer = console.handle("wave:0.1")
    assert not answer.failed and console.session.time == pytest.approx(0.1)
    assert "0.10 s" in answer.text and "'wave' is nearest to wave (similarity 1.00)" in console.heard[0]
    console.handle(":seed 3")
    console.handle("  ")
    assert console.session.time == pytest.approx(0.2)
    assert [report.text for report in console.session.reports] == ["wave", "wave"]


def test_what_is_not_understood_is_said(console):
    console.session.stack.hearing.understood_from = 0.9
    console.handle("make me a coffee")
    assert "'make me a coffee' is not understood, the robot keeps standing: the nearest" in console.heard[0]
    assert "wanted 0.90" in console.heard[0]
    assert [report.understood for report in console.session.reports] == [False]


def test_a_push_changes_the_velocity_and_a_reset_brings_it_back(console):
    console.handle("stand")
    before = console.session.stack.tracker.qvel[:2]
    assert console.handle(":push 0.5 -1").text == "pushed by (0.5, -1) m/s"
    np.testing.assert_allclose(console.session.stack.tracker.qvel[:2] - before, [0.5, -1.0])
    console.handle("stand:0.2")
    assert np.linalg.norm(console.session.stack.qpos[:2]) > 0.01
    console.handle(":reset")
    np.testing.assert_array_equal(console.session.stack.qpos[:2], 0.0)
    assert console.session.time == pytest.approx(0.24)  # time goes on
    console.handle("stand")
    assert [report.start_s for report in console.session.reports] == [0.0, pytest.approx(0.04), pytest.approx(0.24)]


def test_velocities_are_followed_limited_and_let_go(console):
    stack = console.session.stack
    console.handle(":com 0.1 0 0")
    np.testing.assert_allclose(stack.path.velocity, [0.1, 0.0])
    assert "more is not in the motions" in console.handle(":com 1e6 0 0").text  # the toys slide at 0.5 m/s
    assert stack.path.velocity[0] == pytest.approx(0.5, abs=0.1)
    console.handle(":com off")
    assert stack.path is None


def test_without_words_the_path_alone_decides_and_without_both_the_robot_stands(console, monkeypatch, toy_encode):
    """What the latent policy is told, segment by segment: 16 steps each, decided 6 steps before they begin."""
    seen, planner = [], console.session.stack._planner
    sample = planner._policy.sample

    def spy(conditions, *rest, **more):
        still = torch.equal(conditions.text[0], toy_encode(["stand still"])[0])
        words = ("still" if still else "own") if bool(conditions.has_text) else "none"
        seen.append((words, bool(conditions.has_path)))
        return sample(conditions, *rest, **more)

    monkeypatch.setattr(planner._policy, "sample", spy)
    for line in (":com 0.1 0 0", ":wait 0.32", "wave:0.32", ":com off", ":wait 0.32", ":reset", ":wait 0.04"):
        assert not console.handle(line).failed
    assert console.session.time == pytest.approx(1.0)
    assert seen[0] == seen[1] == ("none", True)
    assert seen[2] == ("own", True) and seen[3] == ("own", False)
    assert seen[-1] == ("still", False)
    assert [report.text for report in console.session.reports] == ["wave"]


def test_another_seed_is_as_if_the_stack_had_begun_with_it(console, bundle, toy_encode):
    """Nothing is drawn before the first step."""
    console.handle(":seed 9")
    console.handle("wave:0.4")
    stack = Stack(bundle, seed=9, encode=toy_encode)
    stack.command("wave")
    for _ in range(20):
        stack.step()
    np.testing.assert_array_equal(console.session.stack.qpos, stack.qpos)


def test_another_bundle_begins_at_the_start_with_the_same_seed(console):
    console.handle("wave:0.1")
    old = console.session.stack
    assert "bundle tiny" in console.handle(":bundle tiny").text
    assert console.session.stack is not old and console.session.time == pytest.approx(0.1)
    now = console.session.stack
    failed = console.handle(":bundle nowhere")
    assert failed.failed and "no bundle at" in failed.text and console.session.stack is now
    console.handle("wave:0.1")
    assert console.session.summary()["seconds"] == pytest.approx(0.2)


def test_recordings_are_saved_beside_a_table_and_never_over_anything(console, tmp_path):
    console.handle("wave:0.1")
    path = tmp_path / "a b.npz"
    assert str(path) in console.handle(f":save {path}").text
    written = path.read_bytes()
    assert (tmp_path / "a b.csv").is_file()
    refused = console.handle(f":save {path}")
    assert refused.failed and "exists already" in refused.text and path.read_bytes() == written
    (tmp_path / "c.csv").write_text("mine")
    assert console.handle(f":save {tmp_path / 'c.npz'}").failed
    assert (tmp_path / "c.csv").read_text() == "mine" and not (tmp_path / "c.npz").exists()


def test_a_full_disk_is_said(console, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    answer = console.handle(f":save {tmp_path / 'a.npz'}")
    assert answer.failed and "No space left" in answer.text and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [":save x.npz", ":bundle builtin", ":quit", ":q"])
def test_strangers_name_no_files_and_cannot_leave(line, console):
    answer = console.handle(line, trusted=False)
    assert answer.failed and not answer.leave and "terminal only" in answer.text


def test_leaving(console):
    assert console.handle(":quit").leave and not console.handle("wave").leave


ODD = st.text(max_size=40) | st.sampled_from(
    ["", "$(reboot)", "`ls`; rm -rf ~", "'; DROP TABLE x; --", "/etc/passwd", "\x1b[2J", "walk:nan", "走れ", "💃" * 500]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=ODD | st.sampled_from(sorted(set(VERBS) - {"save", "bundle"})).flatmap(
    lambda verb: st.lists(st.floats().map(str) | st.text(max_size=5), max_size=3).map(
        lambda words: " ".join([f":{verb}", *words])
    )
))  # fmt: skip
def test_any_line_has_an_answer_and_leaves_a_robot_that_moves(line, console, monkeypatch):
    for name in ("os.system", "subprocess.Popen", "builtins.eval", "builtins.exec"):
        monkeypatch.setattr(name, lambda *args, **kwargs: pytest.fail("typed text was executed"))
    with contextlib.suppress(UserError):
        assume(read_line(line, 0.04).seconds < 2)
    answer = console.handle(line)
    monkeypatch.undo()
    assert isinstance(answer.text, str) and (answer.text or answer.leave)
    assert np.isfinite(console.session.step().qpos).all()
    json.dumps(console.session.summary())
