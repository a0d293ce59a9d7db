"""The judge of motion and the stage-wise evaluation."""

import numpy as np
import pytest
import torch
from motion_kinds import HZ, KINDS, clips, moving_clip

from motionlex.controllers import evaluation, evaluation_scores
from motionlex.controllers.actuation import MotorWatch
from motionlex.controllers.benchmark import benchmark_loop
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.evaluation_prompts import FOREIGN, empty_text, exchange, foreign_text, shuffled_text
from motionlex.controllers.evaluation_rollouts import Stacks, perform
from motionlex.controllers.evaluation_scores import FALLEN, Jury, clip_of, recall, score_takes, share
from motionlex.controllers.evaluation_simulated import evaluate_simulated
from motionlex.controllers.evaluation_takes import Take, cut_takes, paired_takes
from motionlex.controllers.latent_policy import LatentPolicy
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
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot


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
    shuffled = evaluation.permuted_accuracy(pairs, np.random.default_rng(0), rounds=4000)
    # ten labels once each: a random permutation fixes one of ten on average, standard error 0.1/sqrt(4000)
    assert abs(shuffled - 0.1) < 4 * 0.1 / np.sqrt(4000)


@pytest.fixture(scope="module")
def jury():
    return Jury(judge=fit_classifier(clips(range(2))), robot=get_robot("h1"))


@pytest.fixture(scope="module")
def stacks(tiny_bundle, toy_encode):
    return Stacks(bundle=load_bundle(tiny_bundle), encode=toy_encode)


def test_every_stage_reports_its_keys_on_an_untrained_bundle(stacks, jury):
    config = evaluation.EvaluationConfig(prompts_per_action=1, prompt_s=2.0, survival_rollouts=0, path_s=1.0)
    generated = evaluation.evaluate_generated(stacks.bundle, jury, stacks.encode, config)
    assert {"paraphrase_accuracy", "shuffled_accuracy", "chance", "action_confusion"} <= set(generated)
    simulated = evaluate_simulated(stacks.bundle, jury, stacks.encode, config)
    wanted = {"paraphrase_accuracy", "shuffled_accuracy", "chance", "survival_30s", "com_path_error_m"}
    assert wanted | {"action_confusion"} <= set(simulated)
    assert simulated["survival_30s"] is None and simulated["chance"] == pytest.approx(1 / 6)
    assert simulated["paths"]["path_error_m"] == simulated["com_path_error_m"] > 0
    assert simulated["paths"]["settled"]["path_error_m"] is None  # no path lasted until 4 s
    physics = {"upright", "torque_saturation", "power_w", "joint_error_rad", "foot_sliding_mps"}
    assert physics <= set(simulated["scores"]) and "sensitivity" not in simulated and "switches" not in simulated
    assert 0 < simulated["scores"]["power_w"]["mean"] < 1e5
    data = evaluation.evaluate_data(jury, clips([9]))
    assert data["accuracy"] > 0.9 and data["scores"]["judge_accuracy"]["mean"] > 0.9
    assert data["measurements"]["walk_forward"]["forward_speed_mps"] == pytest.approx(0.8, abs=1e-3)
    assert data["measurements"]["turn_left"]["yaw_rate_dps"] == pytest.approx(np.rad2deg(1.0), rel=1e-3)


def test_the_loop_benchmark_reports_its_keys(tiny_bundle, toy_encoder, monkeypatch):
    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)
    result = benchmark_loop(tiny_bundle, seconds=1.0)
    keys = {f"{name}_ms_p{share}" for name in ("segment", "control") for share in (50, 95, 99)}
    assert keys | {"real_time_factor", "waited_ms_per_segment", "text_ms", "command_to_motion_s"} <= set(result)
    latest = (10 + 16 + 1) / 50  # 0.2 s in which the next segment is decided already, that segment, and one step
    assert result["command_to_motion_s"] - 1e-3 * result["text_ms"] == pytest.approx(latest)
    assert all(value > 0 for value in result.values())
    assert result["segment_ms_p99"] >= result["segment_ms_p50"]


@pytest.mark.parametrize("path", [False, True])
def test_the_loop_benchmark_measures_segments_with_a_path_on_request(tiny_bundle, toy_encoder, monkeypatch, path):
    heard, sample = [], LatentPolicy.sample

    def listening(policy, conditions, *rest, **more):
        heard.append(bool(conditions.has_path.all()))
        return sample(policy, conditions, *rest, **more)

    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)
    monkeypatch.setattr(LatentPolicy, "sample", listening)
    benchmark_loop(tiny_bundle, seconds=1.0, path=path)
    assert len(heard) > 3 and set(heard) == {path}


def test_a_perfect_autoencoder_gives_the_clip_back_wherever_it_turns():
    """Codes that name segments exactly: chaining, placing and integrating must lose nothing but the trapezoid rule."""

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
    assert frames == clip.frames == 200 and got.labels == clip.labels  # 168 is no multiple of 16: the end is uneven
    # float32 features and one-sided velocities at the clip's first frame
    np.testing.assert_allclose(got.qpos[:, :3], clip.qpos[:frames, :3], atol=0.01)
    # hinges that never move are dropped features, which come back as the mean of the two clips
    np.testing.assert_allclose(got.qpos[:, 7:], clip.qpos[:frames, 7:], atol=0.01)
    assert np.abs(np.einsum("fq,fq->f", got.qpos[:, 3:7], clip.qpos[:frames, 3:7])).min() > 1 - 1e-5


def test_takes_are_pieces_of_one_label_without_glitches():
    clip = moving_clip("a", seconds=16.0)
    spans = (LabelSpan(start=0, stop=90, label="a"), LabelSpan(start=90, stop=690, label="b"))
    valid = np.ones(800, dtype=bool)
    valid[400] = False
    marked = MotionClip(name="m", qpos=clip.qpos, hz=HZ, labels=spans, valid=valid)
    takes = cut_takes([marked], 5.0)
    # "a" lasts 1.8 s, too short; "b" gives 90-340, 340-590 (the glitch) and 590-690
    assert [(take.action, take.name, take.clip.frames) for take in takes] == [
        ("b", "m:90-340", 250),
        ("b", "m:590-690", 100),
    ]
    np.testing.assert_allclose(takes[0].window_starts(), [0.0, 1.0, 2.0, 3.0])
    assert takes[1].window_starts() == [0.0]
    np.testing.assert_array_equal(takes[0].last_window, marked.qpos[240:340])
    told = Take(action="b", name="x", clip=takes[0].clip, settle_s=1.5)
    np.testing.assert_allclose(told.window_starts(), [2.0, 3.0])
    shifted = marked.qpos + np.eye(26)[0]
    copy = MotionClip(name="copy", qpos=shifted, hz=HZ, labels=spans, valid=valid & (np.arange(800) < 680))
    pairs = paired_takes([(marked, copy)], 5.0)
    assert [take.name for take in pairs] == ["m:90-340"]  # frames 680 to 690 are masked in the copy
    np.testing.assert_array_equal(pairs[0].reference, marked.qpos[90:340])
    np.testing.assert_array_equal(pairs[0].clip.qpos, shifted[90:340])


def test_recordings_and_their_reconstructions_are_cut_into_the_same_takes(stacks, jury):
    """13 s each: one clip without a glitch, one with a masked frame, one whose ends are too short for a segment."""
    marked = []
    for name, bad in (("walk_forward", []), ("wave", [300]), ("stand", [20, 640])):
        clip = moving_clip(name, seconds=13.0, **KINDS[name])
        valid = np.ones(650, dtype=bool)
        valid[bad] = False
        marked.append(MotionClip(name=name, qpos=clip.qpos, hz=HZ, labels=clip.labels, valid=valid))
    # pieces of 5 s from the beginning on, less those that hold a masked frame
    wanted = [f"walk_forward:{piece}" for piece in ("0-250", "250-500", "500-650")]
    wanted += ["wave:0-250", "wave:500-650", "stand:250-500"]
    data = evaluation.evaluate_data(jury, marked)
    decoded = evaluation.evaluate_reconstruction(stacks.bundle, jury, marked, seed=0)
    for stage in (data, decoded):
        assert stage["scores"]["take_names"] == wanted and stage["scores"]["takes"] == 6
        assert stage["scores"]["actions"] == 3
    assert data["windows"] == decoded["windows"]
    assert data["scores"]["joint_error_rad"]["mean"] == 0.0 < decoded["scores"]["joint_error_rad"]["mean"]
    copy = evaluation.reconstruct_clean(
        stacks.bundle.autoencoder, marked[2], ForwardKinematics(get_robot("h1")), torch.Generator()
    )
    np.testing.assert_array_equal(np.flatnonzero(copy.valid), np.arange(21, 640))
    np.testing.assert_array_equal(copy.qpos[~copy.valid], marked[2].qpos[~copy.valid])
    np.testing.assert_allclose(copy.qpos[21, :2], marked[2].qpos[21, :2], atol=1e-9)  # it starts where the clip does


def test_errors_against_a_reference_and_sliding_of_known_motion(jury):
    """A robot that stands while its reference stands 30 mm beside it, one elbow bent by 0.19 rad; then both glide."""
    clip = moving_clip("stand", seconds=3.0)
    still = np.tile(clip.qpos[0], (150, 1))
    reference = still.copy()
    reference[:, :2] += [0.018, 0.024]
    reference[:, 7] += 0.19  # the first hinge turns a hip, so that all of a leg's key points move
    take = Take(action="stand", name="x", clip=clip_of("x", still, HZ), reference=reference)
    scores = score_takes(jury, [take])
    assert scores["joint_error_rad"]["mean"] == pytest.approx(0.01)  # 0.19 rad over 19 hinges
    # most key points are 30 mm away; aligned, only those of one leg are away at all
    assert scores["keypoint_error_global_mm"]["mean"] > 25.0 > scores["keypoint_error_local_mm"]["mean"] > 0.0
    beside = Take(action="stand", name="x", clip=take.clip, reference=still + np.eye(26)[0] * 0.03)
    scores = score_takes(jury, [beside])
    assert scores["keypoint_error_global_mm"]["mean"] == pytest.approx(30.0)
    assert scores["keypoint_error_local_mm"]["mean"] == pytest.approx(0.0, abs=1e-9)
    glide = still.copy()
    glide[:, 1] += 0.3 / HZ * np.arange(150)
    glide[:, 2] -= glide[0, 2] - get_robot("h1").standing_height
    glide[:, 7:] = get_robot("h1").default_pose
    glide[:, 3:7] = [1.0, 0.0, 0.0, 0.0]
    scores = score_takes(jury, [Take(action="stand", name="x", clip=clip_of("x", glide, HZ))])
    assert scores["foot_sliding_mps"]["mean"] == pytest.approx(0.3) and scores["foot_contact_share"]["mean"] == 1.0
    assert scores["joint_error_rad"] is None


class Compass:
    """An evaluator of two dimensions: a motion points along the direction in which it travels."""

    labels = ("north", "south", "west")
    prototypes = np.array([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]])

    def embed_windows(self, clip, starts):
        way = clip.qpos[-1, :2] - clip.qpos[0, :2]
        return np.tile(way / np.linalg.norm(way), (len(starts), 1))

    def similarity(self, embedded):
        return embedded @ self.prototypes.T


def test_recall_over_actions_by_hand(jury, monkeypatch):
    def take(action, degrees, down=False):
        qpos = np.array(moving_clip("stand", seconds=2.0).qpos)
        angle = np.deg2rad(degrees)
        qpos[:, :2] = np.arange(100)[:, None] * [np.cos(angle), np.sin(angle)] / HZ
        return Take(action=action, name="x", clip=clip_of("x", qpos, HZ), down=down)

    # the stand-in is no real evaluator: the functions without the run-time check of their types
    unchecked = getattr(recall, "__wrapped__", recall)
    ranked = evaluation_scores.take_ranks
    monkeypatch.setattr(evaluation_scores, "take_ranks", getattr(ranked, "__wrapped__", ranked))
    scale = type("J", (), {"evaluators": (Compass(), Compass())})()
    # north by north-west: north, west, south; south-west by west: west, south, north; a robot that lies: nothing
    takes = [take("north", 100), take("south", 190), take("north", 200), take("west", 180, down=True)]
    found = unchecked(scale, takes)
    assert [found[f"recall_at_{k}"]["mean"] for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    assert found["recall_at_1"]["seeds"] == [0.25, 0.25] and found["recall_at_1"]["spread"] == 0.0
    low, high = found["recall_at_1"]["interval_95"]
    # Wilson 1927 for 1 of 4, by the quadratic formula with z = 1.96
    z = 1.959964
    centre, half = (0.25 + z * z / 8) / (1 + z * z / 4), z / (1 + z * z / 4) * np.sqrt(0.25 * 0.75 / 4 + z * z / 64)
    np.testing.assert_allclose([low, high], [centre - half, centre + half], rtol=1e-5)
    assert jury.recognise(takes[3]) == FALLEN and share([])["mean"] is None
    assert recall(jury, takes) == {}  # no evaluator, nothing to say


def test_a_motor_watch_measures_what_a_replay_measures(stacks):
    """The same controls, replayed step by step through MuJoCo by hand."""
    import mujoco

    stack = stacks.make(0)
    watch = MotorWatch(stack.tracker.simulator)
    applied = []
    stack.tracker.simulator.recorders.append(lambda data: applied.append(data.ctrl.copy()))
    start = stack.qpos
    stack.command("wave")
    for _ in range(10):
        stack.step()
    model = stack.tracker.simulator.model
    data = mujoco.MjData(model)
    data.qpos[:] = start
    power, full = [], []
    limit = np.array([joint.torque_limit for joint in get_robot("h1").joints])
    for ctrl in applied:
        data.ctrl[:] = ctrl
        before = data.qvel[6:].copy()
        mujoco.mj_step(model, data)
        power.append(float(np.abs(data.actuator_force) @ np.abs(before)))
        full.append(np.abs(data.actuator_force) >= 0.99 * limit)
    np.testing.assert_allclose(data.qpos, stack.qpos, atol=1e-12)
    assert watch.power_w == pytest.approx(np.mean(power), rel=1e-9)
    assert watch.saturation == pytest.approx(np.mean(full), rel=1e-9)


def test_exchanged_prompts_never_ask_for_their_own_action():
    prompts = [(action, f"{action} {n}") for action in "abcde" for n in range(3)]
    for seed in range(50):
        given = exchange(prompts, np.random.default_rng(seed))
        assert [action for action, _, _ in given] == [action for action, _ in prompts]
        assert all(action != other and text.startswith(other) for action, text, other in given)
        assert sorted(text for _, text, _ in given) == sorted(text for _, text in prompts)
    most = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")]
    assert [other for _, _, other in exchange(most, np.random.default_rng(0))] == ["b", "b", "b", "a"]
    assert exchange([("a", "a1"), ("a", "a2")], np.random.default_rng(0)) == []


def test_shuffled_text_is_really_commanded(stacks, jury, monkeypatch):
    """A stack that does exactly what it is told: judged against the first prompt it is always wrong."""
    from motionlex.controllers import evaluation_prompts

    told = []

    def obedient(stack, action, text, seconds):
        told.append(text)
        motion = moving_clip(text, seconds=seconds, **KINDS[text])
        take = Take(action=action, name=text, clip=clip_of(text, motion.qpos, HZ))
        return type("Done", (), {"take": take, "fell": False})()

    monkeypatch.setattr(evaluation_prompts, "perform", obedient)
    prompts = [(label, label) for label in KINDS]
    found = shuffled_text(jury, stacks, prompts, 2.0)
    assert sorted(told) == sorted(KINDS) and all(text != own for text, (own, _) in zip(told, prompts, strict=True))
    assert found["accuracy"]["mean"] == 0.0 and found["accuracy_of_given"]["mean"] == 1.0
    assert found["chance"] == pytest.approx(1 / 6) and found["prompts"] == 6


def test_other_texts_on_an_untrained_bundle(stacks, jury, monkeypatch):
    shown = []
    original = stacks.bundle.latent_policy.sample

    def sample(conditions, *rest, **more):
        shown.append(bool(conditions.has_text.any()))
        return original(conditions, *rest, **more)

    monkeypatch.setattr(stacks.bundle.latent_policy, "sample", sample)
    empty = empty_text(jury, stacks, 2, 2.0)
    assert shown and not any(shown)  # the latent policy saw no words in any segment
    assert empty["rollouts"] == 2 and sum(empty["recognised"].values()) == 2
    done = perform(stacks.make(0), "wave", "wave", 2.0)
    assert all(shown[-3:]) and done.take.reference.shape == (100, 26)
    foreign = foreign_text(stacks, ["wave", "please stand"])
    # random vectors of 384 numbers are nearly orthogonal, so that no foreign prompt reaches 0.5
    assert foreign["refused"]["mean"] == 1.0 and foreign["refused"]["count"] == len(FOREIGN) == len(set(FOREIGN))
    assert foreign["own_refused"]["mean"] == 0.0 and foreign["obeyed"] == []
