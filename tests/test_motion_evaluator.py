"""The text-motion evaluator: its features, its loss, its retrieval, its training, its files."""

import json
import math

import numpy as np
import pytest
import torch

from motionlex.controllers.evaluator_training import (
    EvaluatorFlags,
    collect_windows,
    fit_evaluator,
    measure_evaluator,
    train_evaluator,
)
from motionlex.controllers.motion_evaluator import (
    FEATURES,
    WINDOW_FRAMES,
    EvaluatorConfig,
    MotionEvaluator,
    heading_features,
    info_nce,
    load_evaluators,
    ranks,
    shipped_evaluators,
)
from motionlex.controllers.text import TextEncoder
from motionlex.data import quaternion
from motionlex.data.clip import LabelSpan, MotionClip
from motionlex.data.datasets import load_dataset
from motionlex.data.errors import UserError
from motionlex.data.robots import get_robot
from motionlex.scripts import train_evaluator as command

ROBOT = get_robot("h1")
HZ = 50.0


def circling(*, speed=0.8, turn=0.5, climb=0.1, swing=0.0, frames=201):
    """Walk an arc while rising, one joint turning at a constant rate: every feature is known in closed form."""
    time = np.arange(frames) / HZ
    yaw = 0.7 + turn * time
    qpos = np.zeros((frames, 26))
    qpos[:, 0] = 3.0 + speed / turn * (np.sin(yaw) - np.sin(0.7))
    qpos[:, 1] = -2.0 - speed / turn * (np.cos(yaw) - np.cos(0.7))
    qpos[:, 2] = ROBOT.standing_height + climb * time
    qpos[:, 3:7] = quaternion.from_yaw(yaw)
    qpos[:, 7:] = ROBOT.default_pose
    qpos[:, 7 + 3] += swing * time
    span = LabelSpan(start=0, stop=frames, label="walk_turn_left")
    return MotionClip(name="arc", qpos=qpos, hz=HZ, labels=(span,))


def test_features_of_a_known_motion():
    features = heading_features(circling(swing=0.3))
    assert features.shape == (201, FEATURES)
    inside = features[1:-1]
    # central differences of a circle: the chord over 2/hz is shorter by sin(x)/x with x = turn/hz = 0.01
    np.testing.assert_allclose(inside[:, 0], 0.8, rtol=1e-4)
    np.testing.assert_allclose(inside[:, 1], 0.0, atol=1e-9)
    np.testing.assert_allclose(inside[:, 2:4], [[0.1, 0.5]] * 199, atol=1e-9)
    np.testing.assert_allclose(inside[:, 5:8], [[0.0, 0.0, -1.0]] * 199, atol=1e-12)
    speeds = np.zeros(19)
    speeds[3] = 0.3
    np.testing.assert_allclose(inside[:, 27:], np.tile(speeds, (199, 1)), atol=1e-9)


def test_features_do_not_depend_on_place_or_heading():
    clip = circling()
    turn = quaternion.from_yaw(np.array(2.1))
    moved = np.array(clip.qpos)
    moved[:, :3] = quaternion.rotate(turn, clip.qpos[:, :3]) + np.array([5.0, 1.0, 0.0])
    moved[:, 3:7] = quaternion.multiply(turn, clip.qpos[:, 3:7])
    other = MotionClip(name="moved", qpos=moved, hz=HZ)
    np.testing.assert_allclose(heading_features(other), heading_features(clip), atol=1e-9)


def test_info_nce_in_closed_form():
    """Two pairs along the axes: own cosine 1, other cosine 0. Pairs of one action are no negatives: nothing to tell."""
    axes, tau = torch.eye(2, dtype=torch.float64), 0.5
    apart = info_nce(axes, axes, torch.tensor([0, 1]), tau)
    assert float(apart) == pytest.approx(math.log1p(math.exp(-1 / tau)), rel=1e-12)
    crossed = info_nce(axes, axes.flip(0), torch.tensor([0, 1]), tau)
    assert float(crossed) == pytest.approx(math.log1p(math.exp(1 / tau)), rel=1e-12)
    assert float(info_nce(axes, axes, torch.tensor([3, 3]), tau)) == 0.0
    # one direction alone is asymmetric: motion (1, 0) twice, texts along the axes
    motion = axes[[0, 0]]
    forward = 0.5 * (math.log1p(math.exp(-1 / tau)) + math.log1p(math.exp(1 / tau)))  # rows (1, 0)/tau and (1, 0)/tau
    backward = math.log(2.0)  # both motions are alike for either text
    value = float(info_nce(motion, axes, torch.tensor([0, 1]), tau))
    assert value == pytest.approx(0.5 * (forward + backward), rel=1e-12)


def test_ranks_on_a_hand_made_matrix():
    similarity = np.array(
        [
            [0.9, 0.1, 0.5],  # wanted 0: first
            [0.9, 0.1, 0.5],  # wanted 2: second
            [0.9, 0.1, 0.5],  # wanted 1: third
            [0.4, 0.4, 0.2],  # wanted 1: a tie is lost
        ]
    )
    np.testing.assert_array_equal(ranks(similarity, np.array([0, 2, 1, 1])), [0, 1, 2, 1])


def test_windows_stay_inside_labels_and_off_glitches():
    valid = np.ones(400, dtype=bool)
    valid[250] = False
    clip = circling(frames=400)
    spans = (LabelSpan(start=0, stop=150, label="bow"), LabelSpan(start=150, stop=400, label="wave"))
    marked = MotionClip(name="m", qpos=clip.qpos, hz=HZ, labels=spans, valid=valid)
    windows = collect_windows([clip.slice(0, 50), marked])
    assert windows.labels == ("bow", "wave")
    starts = windows.starts - 50  # the first clip is too short for a window, but has its frames
    np.testing.assert_array_equal(starts[windows.label == 0], [0, 10, 20, 30, 40, 50])
    # 150 itself fits (frames 150 to 249), then the glitch, then 260 to 300
    np.testing.assert_array_equal(starts[windows.label == 1], [150, 260, 270, 280, 290, 300])
    np.testing.assert_allclose(
        windows.gather(torch.tensor([1]))[0], heading_features(marked)[10 : 10 + WINDOW_FRAMES : 2], rtol=1e-6
    )
    assert collect_windows([marked], ["wave"]).labels == ("wave",)
    with pytest.raises(UserError, match="lasts 2 s"):
        collect_windows([clip.slice(0, 60)])


@pytest.fixture(scope="module")
def builtin():
    return load_dataset("builtin", None, hz=HZ)


@pytest.fixture(scope="module")
def held_out(builtin):
    return collect_windows(builtin.validation)


def test_a_few_steps_recognise_held_out_actions(builtin, held_out):
    """Clips and captions that were not trained on; 20 actions, so that guessing gives 0.05."""
    encode = TextEncoder().encode
    windows = collect_windows(builtin.train[::2])
    config = EvaluatorConfig(labels=windows.labels, steps=40, batch=48, channels=32)
    trained = fit_evaluator(config, windows, encode)
    measured = measure_evaluator(trained, held_out, encode)
    assert measured["chance"] == 0.05
    assert measured["recall_at_1"] > 0.6 and measured["text_recall_at_1"] > 0.6
    assert measured["recall_at_1"] <= measured["recall_at_2"] <= measured["recall_at_3"] <= 1.0
    wrong = collect_windows(
        [
            MotionClip(
                name=clip.name,
                qpos=clip.qpos,
                hz=HZ,
                labels=tuple(
                    LabelSpan(start=s.start, stop=s.stop, label="hop" if s.label == "bow" else "bow")
                    for s in clip.labels
                ),
            )
            for clip in builtin.validation
        ]
    )
    assert measure_evaluator(trained, wrong, encode)["recall_at_1"] < 0.1


def test_the_shipped_evaluators(held_out):
    """Three seeds, small, trained on the built-in library; they recognise held-out motions and captions."""
    folders = shipped_evaluators("builtin")
    assert [folder.name for folder in folders] == ["seed_0", "seed_1", "seed_2"]
    for seed, evaluator in enumerate(load_evaluators(folders, held_out.labels)):
        files = list(folders[seed].iterdir())
        assert sorted(path.name for path in files) == ["config.json", "meta.json", "weights.safetensors"]
        assert sum(path.stat().st_size for path in files) < 1e6
        meta = json.loads((folders[seed] / "meta.json").read_text())
        assert evaluator.config.seed == meta["seed"] == seed and evaluator.config.data == "builtin"
        measured = measure_evaluator(evaluator, held_out, TextEncoder().encode)
        assert measured["recall_at_1"] > 0.97 and measured["text_recall_at_1"] > 0.9
        assert measured["recall_at_1"] == pytest.approx(meta["recall_at_1"], abs=0.01)
    assert shipped_evaluators("lafan1") == ()


def test_another_rate_gives_nearly_the_same_vector(builtin):
    evaluator = MotionEvaluator.load(shipped_evaluators("builtin")[0])
    clip = next(clip for clip in builtin.validation if clip.labels[-1].label == "stand").slice(100, 301)
    one, other = (evaluator.embed_windows(part, [0.0, 1.0, 99.0]) for part in (clip, clip.resample(100.0)))
    assert one.shape == (3, evaluator.config.dimensions)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1.0, atol=1e-6)
    # window 2 leaves the clip and is moved back to its last 100 frames, from frame 101 on
    np.testing.assert_allclose(one[2], evaluator.embed_windows(clip, [101 / HZ])[0], atol=1e-6)
    assert np.einsum("ij,ij->i", one, other).min() > 0.999


def test_a_run_folder_comes_from_the_command_and_loads(tmp_path, monkeypatch, toy_dataset, toy_encoder, capsys):
    monkeypatch.setattr("motionlex.controllers.evaluator_training.load_dataset", toy_dataset)
    monkeypatch.setattr("motionlex.controllers.evaluator_training.TextEncoder", toy_encoder)
    arguments = ["--data", "builtin", "--steps", "3", "--batch", "8", "--seed", "4", "--out", str(tmp_path / "run")]
    assert command.main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["steps"] == 3 and result["run"] == str(tmp_path / "run") and result["seconds_per_step"] > 0
    loaded = MotionEvaluator.load(tmp_path / "run")
    assert loaded.labels == ("stand", "wave") and loaded.config.seed == 4
    again = train_evaluator(EvaluatorFlags(steps=3, batch=8, seed=4, out=tmp_path / "again"))
    assert again["steps"] == 3
    twin = MotionEvaluator.load(tmp_path / "again")
    for name, value in loaded.state_dict().items():  # the same seed gives the same weights
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=0, atol=0)
    assert command.main(arguments) == 2 and "already exists" in capsys.readouterr().err
    assert command.main(["--steps", "0"]) == 2 and "--steps must be positive" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"does not know bow.*train-evaluator --data NAME"):
        load_evaluators([tmp_path / "run"], ["bow", "stand"])
    with pytest.raises(UserError, match="no motion evaluator"):
        MotionEvaluator.load(tmp_path)
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="no readable evaluator"):
        MotionEvaluator.load(tmp_path / "run")
