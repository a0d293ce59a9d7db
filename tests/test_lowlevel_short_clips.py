"""Clips without a stretch that is long enough: left out with a word, and refused where the user named them."""

from dataclasses import replace

import numpy as np
import pytest

from motionlex.controllers import low_level_setup, tracking_stage
from motionlex.controllers.evaluation_flags import EvaluateStackFlags
from motionlex.controllers.evaluation_report import evaluate_stack
from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_config import resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.data.datasets import MotionData
from motionlex.data.errors import UserError


def flags(folder, **changes):
    return LowLevelFlags(**{"out": folder, "steps": 128, "evaluate": False, "threads": 1, **changes})


def stretches(clip, *names_and_frames):
    """Beginnings of a clip: so many frames each."""
    return tuple(
        replace(clip, name=name, qpos=clip.qpos[:frames], labels=(), valid=None) for name, frames in names_and_frames
    )


@pytest.fixture
def short_clips(monkeypatch, small_training, toy_clips):
    """Two clips of 200 frames among seven that are too short by one frame, and one that has 40 frames in two parts."""
    short = stretches(toy_clips[0], *((f"s{i}", 39) for i in range(7)))
    (broken,) = stretches(toy_clips[0], ("broken", 41))
    broken = replace(broken, valid=np.arange(41) != 20)
    clips = (short[0], toy_clips[0], *short[1:], toy_clips[1], broken)
    data = MotionData(name="toy", train=clips, validation=(), hz=50.0)
    monkeypatch.setattr(low_level_setup, "load_dataset", lambda *_, **__: data)
    monkeypatch.setattr(tracking_stage, "load_dataset", lambda *_, **__: data)
    return clips


LEFT_OUT = "clips without a stretch of at least 40 valid frames (0.80 s) are left out"


def test_clips_that_are_too_short_are_told_of_once(tmp_path, short_clips, caplog):
    train_low_level(flags(tmp_path / "run"))
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert told == [f"{LEFT_OUT} (8 of 10): s0, s1, s2, s3, s4 and 3 more"]
    library, _ = low_level_setup.load_library(resolve_config(flags(tmp_path / "run")))
    assert library.frames == 400 and library.unused == ("s0", "s1", "s2", "s3", "s4", "s5", "s6", "broken")


def test_clips_that_are_long_enough_are_no_news(tmp_path, small_training, toy_clips, monkeypatch, caplog):
    clips = stretches(toy_clips[0], ("enough", 40), ("long", 200))
    data = MotionData(name="toy", train=clips, validation=(), hz=50.0)
    monkeypatch.setattr(low_level_setup, "load_dataset", lambda *_, **__: data)
    library, _ = low_level_setup.load_library(resolve_config(flags(tmp_path / "run")))
    assert library.frames == 240 and library.unused == () and "left out" not in caplog.text


def test_a_clip_without_any_valid_frame_is_left_out_like_others(
    tmp_path, small_training, toy_clips, monkeypatch, caplog
):
    dead = replace(toy_clips[0], name="dead", valid=np.zeros(toy_clips[0].frames, dtype=bool))
    data = MotionData(name="toy", train=(dead, toy_clips[1]), validation=(), hz=50.0)
    monkeypatch.setattr(low_level_setup, "load_dataset", lambda *_, **__: data)
    library, _ = low_level_setup.load_library(resolve_config(flags(tmp_path / "run")))
    assert library.unused == ("dead",) and np.isfinite(library.qpos).all() and "(1 of 2): dead" in caplog.text


@pytest.mark.parametrize(("named", "short"), [(("a", "s1"), "s1"), (("a:0-0.76", "b"), "a:0-0.76"), (("s1",), "s1")])
def test_a_named_clip_that_is_too_short_is_refused(tmp_path, short_clips, named, short):
    wanted = rf"^--clips {short}: no stretch of at least 40 valid frames \(0\.80 s\) in the clip"
    with pytest.raises(UserError, match=wanted):
        train_low_level(flags(tmp_path / "run", clips=named))
    assert not list(tmp_path.iterdir())
    train_low_level(flags(tmp_path / "run"))
    with pytest.raises(UserError, match=wanted):
        evaluate_stack(str(tmp_path / "run"), EvaluateStackFlags(stage="tracking", clips=named))


def test_a_run_of_before_that_has_named_such_a_clip_goes_on(tmp_path, short_clips, monkeypatch, caplog):
    with monkeypatch.context() as patch:  # as older versions, which did not look
        patch.setattr(low_level_setup, "valid_runs", lambda clip: [(0, clip.frames)])
        train_low_level(flags(tmp_path / "run", clips=("a", "s1")))
    caplog.clear()
    assert train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=256, evaluate=False, threads=1))["steps"] == 256
    assert f"{LEFT_OUT} (1 of 2): s1\n" in caplog.text
