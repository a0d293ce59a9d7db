"""The judge of motion and the stage-wise evaluation."""

import numpy as np
import pytest

from motionlex.controllers import evaluation
from motionlex.controllers.benchmark import benchmark_loop
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.motion_classifier import (
    WINDOW_S,
    confusion,
    fit_classifier,
    heading_velocity,
    label_windows,
    measure,
)
from motionlex.data import quaternion
from motionlex.data.clip import LabelSpan, MotionClip
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot

HZ = 50.0


def moving_clip(label, *, speed=0.0, turn=0.0, arm=0.0, seconds=8.0, seed=0):
    """Slide and turn at constant speeds while one arm swings by ``arm`` [rad]."""
    robot = get_robot("h1")
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * HZ)) / HZ
    yaw = rng.uniform(-3, 3) + turn * time
    qpos = np.zeros((len(time), 26))
    step = speed / HZ * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    qpos[:, :2] = rng.normal(size=2) + np.cumsum(step, axis=0)
    qpos[:, 2] = robot.standing_height
    qpos[:, 3:7] = quaternion.from_yaw(yaw)
    qpos[:, 7:] = robot.default_pose + 0.02 * rng.standard_normal(19)
    qpos[:, 7 + 11] += arm * np.sin(2 * np.pi * 1.1 * time + rng.uniform(0, 6))
    span = LabelSpan(start=0, stop=len(time), label=label)
    return MotionClip(name=f"{label}{seed}", qpos=qpos, hz=HZ, labels=(span,))


KINDS = {
    "stand": {},
    "walk_forward": {"speed": 0.8},
    "walk_backward": {"speed": -0.5},
    "turn_left": {"turn": 1.0},
    "turn_right": {"turn": -1.0},
    "wave": {"arm": 0.8},
}


def clips(seeds):
    return [moving_clip(label, seed=seed, **kind) for label, kind in KINDS.items() for seed in seeds]


def test_measurements_do_not_depend_on_place_or_heading():
    clip = moving_clip("walk_forward", speed=0.8, turn=0.3, arm=0.2)
    window = clip.qpos[:100]
    turn = quaternion.from_yaw(np.array(1.9))
    moved = window.copy()
    moved[:, :3] = quaternion.rotate(turn, window[:, :3]) + np.array([3.0, -7.0, 0.0])
    moved[:, 3:7] = quaternion.multiply(turn, window[:, 3:7])
    np.testing.assert_allclose(measure(window, HZ), measure(moved, HZ), atol=1e-9)


def test_heading_velocity_of_known_motion():
    velocity, turning = heading_velocity(moving_clip("x", speed=0.8, turn=0.5).qpos, HZ)
    # a chord belongs to the heading half a step later: 0.8 * sin(0.5 * 0.01) sideways at most
    np.testing.assert_allclose(velocity[:, 0], 0.8, atol=1e-3)
    np.testing.assert_allclose(velocity[:, 1], 0.0, atol=1e-2)
    np.testing.assert_allclose(turning, 0.5, atol=1e-9)


def test_the_judge_recognises_unseen_variants_and_not_shuffled_labels():
    judge = fit_classifier(clips(range(3)))
    measurements, labels = label_windows(clips([17]))
    assert judge.accuracy(measurements, labels) > 0.95
    wrong = [sorted(KINDS)[(sorted(KINDS).index(label) + 1) % len(KINDS)] for label in labels]
    assert judge.accuracy(measurements, wrong) < 0.1
    assert judge.classify(moving_clip("turn_left", turn=0.9, seed=5).qpos[:100], HZ) == "turn_left"


def test_windows_never_cross_labels_or_glitches():
    clip = moving_clip("a", seconds=6.0)
    spans = (LabelSpan(start=0, stop=150, label="a"), LabelSpan(start=150, stop=300, label="b"))
    valid = np.ones(300, dtype=bool)
    valid[200] = False
    marked = MotionClip(name="m", qpos=clip.qpos, hz=HZ, labels=spans, valid=valid)
    frames = round(WINDOW_S * HZ)
    _, labels = label_windows([marked], stride_s=1 / HZ)
    assert labels.count("a") == 150 - frames + 1
    assert labels.count("b") == 0  # frame 200 spoils every window of the second span
    with pytest.raises(UserError, match="nothing to learn"):
        label_windows([moving_clip("a", seconds=1.0)])


def test_confusion_by_hand():
    table = confusion([("a", "a"), ("a", "b"), ("b", "b"), ("a", "b")])
    assert table == {"a": {"a": 1, "b": 2}, "b": {"b": 1}}


def test_shuffling_perfect_recognition_gives_chance():
    pairs = [(label, label) for label in "abcdefghij"]
    shuffled = evaluation._shuffled_accuracy(pairs, np.random.default_rng(0), rounds=4000)
    # ten labels once each: a random permutation fixes one of ten on average, standard error 0.1/sqrt(4000)
    assert abs(shuffled - 0.1) < 4 * 0.1 / np.sqrt(4000)


def test_an_arc_path_has_the_wanted_speed_and_heading():
    path = evaluation.arc_path(0.6, 0.2, 8.0)
    step = np.diff(path.xy, axis=0)
    moving = path.time[:-1] >= 1.0
    np.testing.assert_allclose(np.linalg.norm(step[moving], axis=1) / 0.05, 0.6, rtol=1e-4)
    assert path.yaw is not None
    heading = np.arctan2(step[moving, 1], step[moving, 0])
    np.testing.assert_allclose(heading, path.yaw[:-1][moving] + 0.005, atol=1e-6)


def test_every_stage_reports_its_keys_on_an_untrained_bundle(tiny_bundle, toy_encode):
    bundle = load_bundle(tiny_bundle)
    judge = fit_classifier(clips(range(2)))
    config = evaluation.EvaluationConfig(prompts_per_action=1, prompt_s=2.0, survival_rollouts=0, path_s=1.0)
    generated = evaluation.evaluate_generated(bundle, judge, toy_encode, config)
    assert {"paraphrase_accuracy", "shuffled_accuracy", "chance", "action_confusion"} <= set(generated)
    simulated = evaluation.evaluate_simulated(bundle, judge, toy_encode, config)
    wanted = {"paraphrase_accuracy", "shuffled_accuracy", "chance", "survival_30s", "com_path_error_m"}
    assert wanted | {"action_confusion"} <= set(simulated)
    assert simulated["survival_30s"] is None and simulated["chance"] == pytest.approx(1 / 6)
    data = evaluation.evaluate_data(judge, clips([9]))
    assert data["accuracy"] > 0.9
    assert data["measurements"]["walk_forward"]["forward_speed_mps"] == pytest.approx(0.8, abs=1e-3)
    assert data["measurements"]["turn_left"]["yaw_rate_dps"] == pytest.approx(np.rad2deg(1.0), rel=1e-3)


def test_the_loop_benchmark_reports_its_keys(tiny_bundle, toy_encoder, monkeypatch):
    monkeypatch.setattr("motionlex.controllers.stack.TextEncoder", toy_encoder)
    result = benchmark_loop(tiny_bundle, seconds=1.0)
    keys = {f"{name}_ms_p{share}" for name in ("segment", "control") for share in (50, 95, 99)}
    assert keys | {"real_time_factor", "waited_ms_per_segment", "text_ms", "command_to_motion_s"} <= set(result)
    latest = (6 + 16 + 1) / 50  # 0.12 s in which the next segment is decided already, that segment, and one step
    assert result["command_to_motion_s"] - 1e-3 * result["text_ms"] == pytest.approx(latest)
    assert all(value > 0 for value in result.values())
    assert result["segment_ms_p99"] >= result["segment_ms_p50"]


def test_a_perfect_autoencoder_gives_the_clip_back_wherever_it_turns():
    """Codes that name segments exactly: chaining, placing and integrating must lose nothing but the trapezoid rule."""
    import torch

    from motionlex.data.kinematics import ForwardKinematics
    from motionlex.data.segments import SegmentSource

    kinematics = ForwardKinematics(get_robot("h1"))
    clip = moving_clip("walk_turn_left", speed=0.7, turn=0.6, arm=0.3, seconds=4.0, seed=3)
    source = SegmentSource([clip, moving_clip("x", speed=0.2, turn=-0.5, arm=0.5, seed=4)], None, kinematics=kinematics)

    class Perfect:
        statistics = source.fit()

        def encode_features(self, x, generator):
            self.stored = x.double().numpy()
            return torch.arange(len(x))[:, None].expand(-1, 64)

        def decode_features(self, indices):
            return self.statistics.destandardise(self.stored[indices[:, 0].numpy()])

    unchecked = getattr(evaluation.reconstruct, "__wrapped__", evaluation.reconstruct)  # the stand-in is no real model
    got = unchecked(Perfect(), clip, kinematics, torch.Generator())
    frames = got.frames
    assert clip.frames - 32 <= frames <= clip.frames and got.labels[0].stop == frames
    # float32 features and one-sided velocities at the clip's first frame
    np.testing.assert_allclose(got.qpos[:, :3], clip.qpos[:frames, :3], atol=0.01)
    # hinges that never move are dropped features, which come back as the mean of the two clips
    np.testing.assert_allclose(got.qpos[:, 7:], clip.qpos[:frames, 7:], atol=0.01)
    assert np.abs(np.einsum("fq,fq->f", got.qpos[:, 3:7], clip.qpos[:frames, 3:7])).min() > 1 - 1e-5
