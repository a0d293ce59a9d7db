"""What an evaluation of tracking rolls out, how it counts, and what it reports."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from tracking_doubles import (
    HZ,
    MICROMETRE,
    ROBOT,
    SHORT,
    Still,
    library_of,
    measured,
    moving,
    standing,
)

from motionlex.controllers import evaluation_tracking, low_level_setup, rollout_recorder, tracking_stage
from motionlex.controllers.evaluation_flags import EvaluateStackFlags
from motionlex.controllers.evaluation_report import evaluate_stack
from motionlex.controllers.evaluation_tracking import evaluate_tracking, quick_score, worst_clips
from motionlex.controllers.intervals import bootstrap_interval, ratio, wilson_interval
from motionlex.controllers.low_level_config import LowLevelConfig, resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.rollout_starts import repeated_starts, spread_starts, stratified_starts
from motionlex.controllers.tracking_report import check_out, clip_figure, markdown, write_report
from motionlex.data.clip import MotionClip, category_of
from motionlex.data.errors import UserError
from motionlex.envs.randomisation import Randomisation
from motionlex.envs.task_config import TaskConfig
from motionlex.scripts.evaluate_stack import main


def test_evaluation_draws_codes_that_training_has_not_seen(monkeypatch, toy_dataset, tiny_vae_run, tmp_path):
    """Codes of eight draws of training, of five seeds, against those that evaluation shows with two of its own."""
    config = resolve_config(
        LowLevelFlags(goal="latent", vae=tiny_vae_run, code_draws=8, worlds=4, steps=128, out=tmp_path / "run")
    )
    shown = []
    monkeypatch.setattr(tracking_stage, "load_low_level_config", lambda folder: config)
    monkeypatch.setattr(tracking_stage, "load_dataset", toy_dataset)
    monkeypatch.setattr(tracking_stage.LowLevelPolicy, "load", lambda folder: Still())
    monkeypatch.setattr(
        tracking_stage, "evaluate_tracking", lambda policy, library, command, **_: shown.append(command) or {}
    )
    monkeypatch.setattr(low_level_setup, "load_dataset", toy_dataset)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    for seed in (0, 0, 1):
        evaluate_stack(str(tmp_path / "run"), EvaluateStackFlags(stage="tracking", seed=seed))
    first, again, other = (command.codes for command in shown)
    np.testing.assert_array_equal(first, again)
    assert len(first) == 1 and (first != other).any()
    library, _ = low_level_setup.load_library(config)
    for seed in range(5):
        task, _ = low_level_setup.build_task(replace(config, seed=seed), library, "cpu", draws=8)
        assert len(task.command.codes) == 8
        assert not any((draw == codes[0]).all() for draw in task.command.codes for codes in (first, other))


def test_frames_weigh_alike_and_terminated_episodes_stop_counting(replay):
    """One clip is lost at once, the other kept: only the kept one has errors, and the rate is one half."""

    def change(qpos, qvel):
        qpos[qpos[:, 1] > 50.0, 2] += 1.0
        qpos[:, 0] += 0.05
        return qpos, qvel

    far = standing(101)
    far[:, 1] = 100.0
    replay(change)
    report = measured(library_of(moving(), MotionClip(name="far", qpos=far, hz=HZ)))
    assert report["success_rate"] == 0.5 and report["keypoint_error_global_mm"] == pytest.approx(50.0, abs=MICROMETRE)
    assert report["mean_survival_s"] == pytest.approx(0.5 * SHORT)
    rows = {row["clip"]: row for row in report["clips"]}
    assert rows["far"]["success_rate"] == 0.0 and rows["far"]["keypoint_error_global_mm"] is None
    assert rows["walk1"]["success_rate"] == 1.0 and report["worst"][0]["clip"] == "far"
    assert report["intervals_95"]["keypoint_error_global_mm"] is None  # one episode alone says nothing of spread


def test_a_simulation_that_blows_up_is_a_failure_by_both_rules(replay):
    def change(qpos, qvel):
        return qpos, np.full_like(qvel, np.nan)

    replay(change)
    report = measured(library_of(moving()))
    assert (report["success_rate"], report["success_rate_keypoint"]) == (0.0, 0.0)


def test_ten_second_clips_have_one_start_and_repeats_spread_over_half_a_second():
    library = library_of(moving(frames=501))
    first = stratified_starts(library, 3, 500)
    np.testing.assert_array_equal(first, [0])
    starts = repeated_starts(library, first, 64, 25, 500, distinct=True)
    assert len(starts) == 64 and starts.min() == 0 and starts.max() == 25
    assert np.bincount(starts).min() >= 2  # all 26 frames, evenly
    late = repeated_starts(library, np.array([3, 489, 495]), 2, 25, 500, distinct=False)
    np.testing.assert_array_equal(late, [3, 28, 489, 490, 495, 495])
    np.testing.assert_array_equal(repeated_starts(library, np.array([7]), 1, 25, 500, distinct=True), [7])
    np.testing.assert_array_equal(np.unique(spread_starts(library, 64, 500, 25)), np.arange(25))
    longer = library_of(moving(frames=1001), moving(frames=60, name="short"))
    spread = spread_starts(longer, 40, 500, 25)
    assert spread.min() == 0 and 0.03 < (spread >= 1001).mean() < 0.1 and spread[spread < 1001].max() <= 500


def test_repeats_keep_as_many_full_length_episodes_as_there_can_be():
    library = library_of(moving(frames=501), moving(frames=521, name="b"), moving(frames=81, name="short"))

    def repeat(frame, repeats, *, distinct):
        return repeated_starts(library, np.array([frame]), repeats, 25, 500, distinct=distinct).tolist()

    assert repeat(0, 5, distinct=False) == [0] * 5  # noise makes them differ, and each can last for ten seconds
    assert repeat(0, 5, distinct=True) == [0, 1, 2, 3, 4]  # one of ten seconds, four that miss a few frames
    assert repeat(501, 3, distinct=True) == [501, 511, 521]  # 20 frames to spare
    assert repeat(521, 3, distinct=False) == [501, 511, 521]  # the last start of a run repeats backwards
    assert repeat(1022, 3, distinct=False) == [1022, 1034, 1047]  # too short for ten seconds at any start


def test_the_end_of_a_motion_is_success_and_the_report_says_how_often(replay):
    """Starts with 0.2 s, 0.1 s and 0.04 s of motion left, asked for 0.2 s, everything survived."""
    replay()
    library = library_of(moving(frames=61), moving(frames=61, name="turn_1"))
    report = measured(library, starts=(0, 55, 61 + 58), seconds=0.2)
    assert report["success_rate"] == 1.0 and report["full_length_share"] == pytest.approx(1 / 3)
    assert report["mean_possible_s"] == report["mean_survival_s"] == pytest.approx((0.2 + 0.1 + 0.04) / 3)
    walk, turn = report["clips"]
    assert (walk["mean_possible_s"], walk["full_length_share"]) == (pytest.approx(0.15), 0.5)
    assert (turn["mean_possible_s"], turn["full_length_share"]) == (pytest.approx(0.04), 0.0)
    assert report["categories"][1]["full_length_share"] == 0.0 and "0.2 s or the end" in report["lengths"]
    text = markdown(report, title="x")
    assert "full length [%]" in text and report["lengths"] in text


def test_repeats_with_noise_are_seeded_and_without_it_no_frame_counts_twice():
    library = library_of(moving(frames=80))
    report = measured(library, seconds=0.2, repeats=64)
    assert report["episodes"] == 26 and report["noise"] is False
    noisy = [measured(library, seconds=0.2, repeats=40, noise=True, seed=seed) for seed in (1, 1, 2)]
    assert noisy[0]["episodes"] == 40 and noisy[0] == noisy[1]
    assert noisy[0]["joint_error_rad"] != noisy[2]["joint_error_rad"]
    assert noisy[0]["joint_error_rad"] > report["joint_error_rad"]


def test_robots_that_differ_are_seeded_and_worse_off_than_the_nominal_one():
    library, policy = library_of(moving(frames=80)), Still()
    config = TaskConfig()

    def score(seed, randomisation):
        return evaluate_tracking(
            policy, library, None, robot=ROBOT, config=config, seconds=0.3, per_run=1, repeats=6, seed=seed,
            randomisation=randomisation,
        )  # fmt: skip

    heavy = Randomisation.heavy()
    a, b, c = score(1, heavy), score(1, heavy), score(2, heavy)
    assert a == b and a["joint_error_rad"] != c["joint_error_rad"] and a["randomised"] is True
    assert score(1, None)["randomised"] is False and a["joint_error_rad"] > score(1, None)["joint_error_rad"]


def test_batches_of_robots_do_not_change_the_result(monkeypatch):
    library = library_of(moving(frames=80))
    whole = measured(library, seconds=0.3, repeats=7)
    monkeypatch.setattr(evaluation_tracking, "_BATCH", 3)
    assert measured(library, seconds=0.3, repeats=7) == whole


def test_the_quick_score_is_the_complete_one_on_its_starts():
    library = library_of(moving(frames=80), moving(frames=120, hinge=0.1, name="b"))
    config = TaskConfig()
    quick = quick_score(Still(), library, None, robot=ROBOT, config=config, episodes=6, seconds=0.4, noise=False)
    starts = spread_starts(library, 6, 20, 25)
    complete = measured(library, starts=starts.tolist(), seconds=0.4)
    spread = measured(library, spread=6, seconds=0.4)
    for key, value in quick.items():
        assert complete[key] == pytest.approx(value) and spread[key] == complete[key], key
    assert spread["clips"] == complete["clips"] and spread["lengths"] != complete["lengths"]
    again = [quick_score(Still(), library, None, robot=ROBOT, config=config, episodes=6, seconds=0.3) for _ in range(2)]
    assert again[0] == again[1]


def test_repeats_of_spread_starts_begin_at_the_same_frames():
    """Three starts over the first half second of 1.2 s, asked for 1 s: 1, 0.96 and 0.72 s can be had."""
    library = library_of(moving(frames=61))
    report = measured(library, spread=3, repeats=4, seconds=1.0, noise=True)
    assert report["episodes"] == 12 and report["mean_possible_s"] == pytest.approx((1.0 + 0.96 + 0.72) / 3)
    assert report["full_length_share"] == pytest.approx(1 / 3)
    assert measured(library, spread=3, repeats=4, seconds=1.0)["episodes"] == 3  # without noise they would be the same


def test_wilson_against_its_closed_form():
    z, n, p = 1.959963984540054, 40, 0.95
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson_interval(38, 40) == pytest.approx((centre - half, centre + half))
    assert wilson_interval(10, 10)[1] == 1.0 and wilson_interval(10, 10)[0] == pytest.approx(10 / (10 + z * z))


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval_and_seeded():
    rng = np.random.default_rng(0)
    x, one = rng.normal(5.0, 2.0, 400), np.ones(400)
    low, high = bootstrap_interval(x, one, seed=1)
    half = 1.96 * x.std() / 20.0
    # 1000 draws place a 2.5 % quantile to about 0.06 standard errors; three times that
    assert low == pytest.approx(x.mean() - half, abs=0.02) and high == pytest.approx(x.mean() + half, abs=0.02)
    assert bootstrap_interval(x, one, seed=1) == (low, high)
    assert bootstrap_interval(np.full(5, 3.0), np.ones(5), seed=0) == (3.0, 3.0)
    assert bootstrap_interval(np.array([1.0, 2.0]), np.array([1.0, 0.0]), seed=0) is None
    assert ratio(np.array([2.0, 30.0]), np.array([1.0, 3.0])) == 8.0  # frames weigh alike, not episodes
    assert np.isnan(ratio(np.zeros(2), np.zeros(2)))


def test_worst_clips_are_those_that_fail_and_then_those_that_err():
    def row(name, success, error):
        return {
            **{"clip": name, "success_rate": success, "keypoint_error_local_mm": error},
            **{"mean_survival_s": 1.0, "mean_possible_s": 2.0, "episodes": 2, "more": 0},
        }

    rows = [row("a", 1.0, 9.0), row("b", 0.5, 1.0), row("c", 1.0, 50.0), row("d", 0.5, None), row("e", 0.5, 3.0)]
    assert [r["clip"] for r in worst_clips(rows, 4)] == ["d", "e", "b", "c"]
    assert category_of("walk1_subject5:500-1001") == "walk" and category_of("dance_sway_2") == "dance_sway"


def test_the_report_of_a_run_comes_with_its_learning_curves(monkeypatch, toy_dataset, replay, tmp_path):
    replay()
    report, run, out = measured(library_of(moving())), tmp_path / "run", tmp_path / "out"
    monkeypatch.setattr(tracking_stage, "load_low_level_config", lambda folder: LowLevelConfig())
    monkeypatch.setattr(tracking_stage, "load_dataset", toy_dataset)
    monkeypatch.setattr(tracking_stage.LowLevelPolicy, "load", lambda folder: Still())
    monkeypatch.setattr(tracking_stage, "evaluate_tracking", lambda *_, **__: report)
    writer = SummaryWriter(str(run / "tensorboard"))
    writer.add_scalar("train/mean_return", 1.0, 10)
    writer.close()
    (run / "config.json").write_text("{}")
    for _ in range(2):  # the second report replaces the first
        result = evaluate_stack(str(run), EvaluateStackFlags(stage="tracking", out=out))
        names = ["tracking.json", "tracking.md", "tracking.png", "curves.png"]
        assert result["files"] == [str(out / name) for name in names]
        assert sorted(path.name for path in out.iterdir()) == sorted(names)


def test_the_report_becomes_files(tmp_path, replay):
    replay()
    report = measured(library_of(moving(), moving(velocity=(0.5, 0.0), name="walk2")), per_run=2)
    folder = tmp_path / "report"
    check_out(folder)
    paths = write_report(folder, report, title="a run")
    assert [path.name for path in paths] == ["tracking.json", "tracking.md", "tracking.png"]
    assert json.loads(paths[0].read_text())["success_rate"] == 1.0
    text = paths[1].read_text()
    assert "take the episodes to be independent" in text
    assert "| walk | 4 | 100.0 [51.0, 100.0] |" in text and "| walk2 | 2 | 100.0 |" in text
    assert Image.open(paths[2]).size[0] > 500
    assert len(clip_figure(report["clips"]).axes) == 2
    check_out(folder)  # an earlier report may be replaced
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        check_out(folder)
    with pytest.raises(UserError, match="is a file"):
        check_out(folder / "notes.txt")
    nothing = replace_all(report, "keypoint_error_local_mm", None)
    assert "–" in markdown(nothing, title="x")  # noqa: RUF001


def replace_all(report, key, value):
    return {**report, key: value, "intervals_95": {**report["intervals_95"], key: None}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--starts", "0"], "--starts must be at least 1"),
        (["--spread", "0"], "--spread must be at least 1"),
        (["--spread", "8", "--stage", "data"], "--spread is for --stage tracking, not data"),
        (["--seconds", "0"], "--seconds must be at least 0.1"),
        (["--seconds", "nan"], "--seconds must be"),
        (["--out", "x", "--stage", "data"], "--out is for --stage tracking"),
        (["nowhere", "--stage", "tracking"], "nowhere"),
    ],
)
def test_mistakes_end_in_one_line(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and "Traceback" not in error


def test_unknown_clips_and_empty_starts_are_refused():
    with pytest.raises(UserError, match="no starts"):
        measured(library_of(moving()), starts=())


def test_the_reference_is_read_before_the_step(replay):
    """An environment that moves on inside advance must not shift what the step is compared with."""
    seen = []
    replay()
    original = rollout_recorder.StepRecord

    class Spy(original):
        def __init__(self, **fields):
            seen.append((fields["state"].qpos[0, 0], fields["reference"].qpos[0, 0]))
            super().__init__(**fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout_recorder, "StepRecord", Spy)
        measured(library_of(moving(velocity=(1.0, 0.0))), seconds=0.1, starts=(10,))
    np.testing.assert_allclose(seen, [[(11 + k) / HZ] * 2 for k in range(5)])
