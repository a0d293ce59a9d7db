"""Commands of several draws, motions of the high-level policy, and both joined into one thing to train on."""

import json
import logging
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from motionlex.controllers import generated as generated_module
from motionlex.controllers import generated_library as generated_library_module
from motionlex.controllers import low_level_scores, low_level_setup
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.command_tours import ScriptConfig, eulerian_circuit, random_scripts, random_walk
from motionlex.controllers.commands import build_command_source
from motionlex.controllers.evaluation import plan_motion
from motionlex.controllers.generated import (
    PlausibilityLimits,
    generate,
    plausible,
    switches,
)
from motionlex.controllers.generated_library import (
    add_generated,
    check_high_level,
    generated_command,
    generated_library,
)
from motionlex.controllers.high_level import load_high_level
from motionlex.controllers.low_level import train_low_level
from motionlex.controllers.low_level_config import LowLevelConfig, resolve_config
from motionlex.controllers.low_level_flags import LowLevelFlags
from motionlex.controllers.planner import Planner
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import StackConfig
from motionlex.data.captions import held_out_captions, training_captions
from motionlex.data.errors import UserError
from motionlex.data.features import features_to_state
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.quaternion import yaw
from motionlex.data.robots import get_robot
from motionlex.envs.episodes import Episodes
from motionlex.envs.joining import first_part, join_commands, join_libraries
from motionlex.envs.reference import MINIMUM_RUN, MotionLibrary, reference_command
from motionlex.envs.start_sampler import StartSampler
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig

ROBOT = get_robot("h1")
LOOSE = PlausibilityLimits(root_speed=1e6, joint_speed=1e6, penetration=1e6)
"""An untrained policy makes nothing plausible; the filter has tests of its own."""


class Numbered:
    """An autoencoder whose codes count the calls and whose frames say which segment and frame they are."""

    def __init__(self):
        self.statistics = SimpleNamespace(hz=50.0, standardise=lambda x: x)
        self.model = SimpleNamespace(vocabulary=9999, parameters=lambda: iter([torch.zeros(1)]))

    def encode_features(self, features, generator):
        return torch.randint(0, 9999, (len(features), 64), generator=generator)

    def decode_features(self, indices):
        frames = np.zeros((len(indices), 32, 127))
        frames[:, :, 1] = 1.0  # upright: the quaternion's w follows the height
        frames[:, :, 11:12] = 1e-3 * indices[:, :1, None].numpy()
        return frames


@pytest.fixture(scope="module")
def library(toy_clips):
    return MotionLibrary(toy_clips, ROBOT, 50.0)


@pytest.fixture(scope="module")
def source(tiny_bundle):
    return load_high_level(tiny_bundle)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def motion(source, toy_encode, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTIONLEX_CACHE", str(tmp_path_factory.mktemp("cache")))
        return generate(source, SHORT, seed=3, encode=toy_encode, limits=LOOSE)


SHORT = ScriptConfig(minutes=0.3, shortest_s=0.3, longest_s=1.1, commands=4)


@pytest.mark.parametrize("goal", ["latent", "decoded"])
def test_the_first_draw_is_the_same_however_many_follow(library, goal):
    one, three = (build_command_source(goal, library, Numbered(), seed=5, variants=n) for n in (1, 3))
    assert three.variants == 3
    if goal == "latent":
        np.testing.assert_array_equal(three.codes[0], one.codes[0])
        assert (three.codes[1] != three.codes[0]).mean() > 0.99 < (three.codes[2] != three.codes[1]).mean()
    else:
        block = len(one.qpos)
        assert len(three.qpos) == 3 * block
        np.testing.assert_array_equal(three.qpos[:block], one.qpos)
        np.testing.assert_array_equal(three.rows, one.rows)
        assert (three.qpos[block : 2 * block] != one.qpos).any()


def test_every_draw_of_an_episode_shows_its_own_frames(library):
    command = build_command_source("decoded", library, Numbered(), seed=5, variants=2)
    task = TrackingTask(ROBOT, library, TaskConfig(goal="decoded"), command)
    episodes = Episodes.empty(2, 19)
    episodes.frame[:], episodes.variant[:] = 20, (0, 1)
    seen = task.control(episodes, np.zeros((2, 19)))
    block = 32 * (int(command.segment.max()) + 1)
    # Frame 20 is frame 4 of segment 1, whose row 5 is shown next.
    np.testing.assert_array_equal(seen, command.qpos[[32 + 5, block + 32 + 5], 7:])
    assert (seen[0] != seen[1]).any()


def test_flags_ask_for_four_draws_where_there_are_codes(tmp_path):
    assert resolve_config(LowLevelFlags(goal="reference")).code_draws == 1
    assert resolve_config(LowLevelFlags(goal="latent", vae=tmp_path)).code_draws == 4
    assert resolve_config(LowLevelFlags(goal="decoded", vae=tmp_path, code_draws=2)).code_draws == 2
    assert LowLevelConfig().code_draws == 1 and LowLevelConfig().generated is None  # what old files mean


@pytest.mark.parametrize("nodes", [2, 3, 7])
def test_a_circuit_uses_every_ordered_pair_once(nodes):
    circuit = eulerian_circuit(nodes, 1, np.random.default_rng(0))
    pairs = list(pairwise(circuit))
    assert circuit[0] == circuit[-1] == 1
    assert sorted(pairs) == [(a, b) for a in range(nodes) for b in range(nodes) if a != b]


def test_a_long_walk_is_even_and_scripts_lose_no_switch():
    walk = random_walk(4, 4 * 3 * 5 + 1, np.random.default_rng(1))
    pairs, counts = np.unique(np.stack((walk[:-1], walk[1:])), axis=1, return_counts=True)
    assert pairs.shape[1] == 12 and (counts == 5).all()
    actions = ("bow", "hop", "jog", "stand")
    config = ScriptConfig(minutes=1.0, shortest_s=1.0, longest_s=2.0, commands=5)
    scripts = random_scripts(actions, config, 50.0, np.random.default_rng(2))
    seen = {(a.action, b.action) for script in scripts for a, b in pairwise(script)}
    assert len(seen) == 12
    assert sum(command.frames for script in scripts for command in script) == pytest.approx(3000, rel=0.15)
    for command in (command for script in scripts for command in script):
        assert command.text in training_captions(command.action)
        assert command.text not in held_out_captions(command.action)
        assert 48 <= command.frames <= 96 and command.frames == 16 * command.segments  # 1 to 2 s in whole segments


def test_generated_motion_covers_all_switches_of_its_actions(motion):
    assert motion.source.actions == ("stand", "walk_forward", "wave")
    everything = {(a, b) for a in motion.source.actions for b in motion.source.actions if a != b}
    assert switches(motion) == everything


def test_codes_of_a_generated_clip_decode_to_its_frames(motion, tiny_autoencoder):
    for plan in motion.plans[:2]:
        place, heading = np.zeros(2), 0.0
        stops = np.append(plan.starts[1:], plan.clip.frames)
        tail = None
        for start, stop, codes in zip(plan.starts, stops, plan.codes, strict=True):
            features = tiny_autoencoder.decode_features(torch.from_numpy(codes[None].astype(np.int64)))
            qpos, _ = features_to_state(features, hz=50.0, start_xy=place[None], start_yaw=np.array([heading]))
            executed, shown = stop - start, qpos[0].copy()
            if tail is not None:  # one fifth, two fifths, … of the new segment at its first four frames
                for frame in range(min(4, len(tail))):
                    weight = (frame + 1) / (min(4, len(tail)) + 1)
                    shown[frame] = (1 - weight) * tail[frame] + weight * qpos[0, frame]
            free = [0, 1, 2, *range(7, 26)]  # the root's quaternion is interpolated on the sphere instead
            # The cache keeps single precision, and the untrained codes throw the robot some metres about.
            np.testing.assert_allclose(plan.clip.qpos[start:stop, free], shown[:executed, free], atol=2e-4)
            place, heading = qpos[0, executed, :2], float(yaw(qpos[:, executed, 3:7])[0])
            tail = qpos[0, executed:]


def test_one_script_is_what_planner_and_stack_plan(source, toy_encode, tiny_bundle):
    """Batched planning of one script draws the same codes as the planner alone, whose chain the stack also runs."""
    config = ScriptConfig(minutes=1e-6, shortest_s=0.96, longest_s=0.96, commands=2)
    motion = generate(source, config, seed=7, encode=toy_encode, limits=LOOSE)
    (plan,) = motion.plans
    (script,) = random_scripts(source.actions, config, 50.0, np.random.default_rng(7))
    planner = Planner(
        source.autoencoder, source.latent_policy, ForwardKinematics(ROBOT),
        hz=50.0, sampling=source.sampling, generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    standing = np.concatenate(([0.0, 0.0, ROBOT.standing_height, 1.0, 0.0, 0.0, 0.0], ROBOT.default_pose))
    planner.reset(standing)
    parts = [plan_motion(planner, toy_encode([command.text])[0], 0.96, 50.0) for command in script]
    np.testing.assert_allclose(plan.clip.qpos, np.concatenate(parts), atol=1e-5)  # single precision
    assert [span.label for span in plan.clip.labels] == [command.action for command in script]

    everything = StackConfig(understood_from=-1.0)  # the toy texts resemble nothing
    stack = Stack(load_bundle(tiny_bundle), seed=7, encode=toy_encode, config=everything)
    stack.command(script[0].text)
    stack.step()
    np.testing.assert_array_equal(stack._segment.codes, plan.codes[0])
    np.testing.assert_allclose(stack._segment.qpos, plan.qpos[0], atol=1e-5)


def test_a_command_begins_with_a_segment(motion):
    for plan in motion.plans:
        assert {span.start for span in plan.clip.labels} <= set(plan.starts.tolist())
        assert set(np.diff(np.append(plan.starts, plan.clip.frames))) == {16}


def test_the_same_seed_gives_the_same_motion_and_the_cache_is_used(source, toy_encode, monkeypatch):
    config = replace(SHORT, minutes=0.05)

    def clips(seed, **changes):
        made = generate(source, replace(config, **changes), seed=seed, encode=toy_encode, limits=LOOSE)
        return np.concatenate([plan.clip.qpos for plan in made.plans])

    first, other = clips(0), clips(1)
    monkeypatch.setenv("MOTIONLEX_CACHE", str(Path("nowhere").absolute() / "none"))
    monkeypatch.setattr(generated_module, "cached_arrays", lambda key, make: make())
    np.testing.assert_array_equal(clips(0), first)
    assert first.shape != other.shape or (first != other).any()
    monkeypatch.undo()


def test_a_cached_plan_is_not_planned_again(source, toy_encode, monkeypatch):
    config = replace(SHORT, minutes=0.05)
    first = generate(source, config, seed=0, encode=toy_encode, limits=LOOSE)

    def fail(*arguments):
        raise AssertionError("planned again")

    monkeypatch.setattr(generated_module, "_plan", fail)
    again = generate(source, config, seed=0, encode=toy_encode, limits=LOOSE)
    np.testing.assert_array_equal(again.plans[0].clip.qpos, first.plans[0].clip.qpos)
    with pytest.raises(AssertionError, match="planned again"):
        generate(source, config, seed=1, encode=toy_encode, limits=LOOSE)


def test_the_filter_finds_what_was_hidden_in_a_standing_robot():
    qpos = np.tile(
        np.concatenate(([0.0, 0.0, ROBOT.standing_height, 1.0, 0.0, 0.0, 0.0], ROBOT.default_pose)), (100, 1)
    )
    limits = PlausibilityLimits()
    assert plausible(qpos, 50.0, ROBOT, limits).all()
    sunk = qpos.copy()
    sunk[30:33, 2] -= 0.07
    np.testing.assert_array_equal(np.flatnonzero(~plausible(sunk, 50.0, ROBOT, limits)), [30, 31, 32])
    jumped = qpos.copy()
    jumped[50:, 0] += 0.2  # 10 m/s within one frame
    np.testing.assert_array_equal(np.flatnonzero(~plausible(jumped, 50.0, ROBOT, limits)), [49, 50])
    swung = qpos.copy()
    swung[70:, 15] += 0.9  # 45 rad/s
    np.testing.assert_array_equal(np.flatnonzero(~plausible(swung, 50.0, ROBOT, limits)), [69, 70])


def test_an_implausible_segment_is_left_out_whole_and_reported(source, toy_encode, caplog):
    caplog.set_level(logging.INFO)
    config = replace(SHORT, minutes=0.05, shortest_s=1.0, longest_s=1.5)
    free = generate(source, config, seed=0, encode=toy_encode, limits=LOOSE)
    steps = [np.abs(np.diff(plan.clip.qpos[:, 7:], axis=0)).max(axis=1) * 50.0 for plan in free.plans]
    limit = float(np.sort(np.concatenate(steps))[-3])  # only the two fastest steps exceed it
    motion = generate(source, config, seed=0, encode=toy_encode, limits=replace(LOOSE, joint_speed=limit))
    rejected = 0
    for plan, step in zip(motion.plans, steps, strict=True):
        valid = np.asarray(plan.clip.valid)
        stops = np.append(plan.starts[1:], plan.clip.frames)
        touched = np.flatnonzero(step > limit)
        for start, stop in zip(plan.starts, stops, strict=True):
            hit = ((touched >= start) & (touched < stop)).any() or ((touched + 1 >= start) & (touched + 1 < stop)).any()
            assert (valid[start:stop] == (not hit)).all()
            rejected += hit * (stop - start)
    frames = sum(plan.clip.frames for plan in motion.plans)
    assert motion.rejected_share == pytest.approx(rejected / frames) and rejected > 0
    assert f"{100 * rejected / frames:.1f} % rejected" in caplog.text
    library = generated_library(motion)
    for start, stop in zip(library.run_starts, library.run_stops, strict=True):
        clip = motion.plans[library.run_clip[library.run_of[start]]].clip
        assert np.asarray(clip.valid)[library.clip_frame[start:stop]].all()
    with pytest.raises(UserError, match="implausible"):
        generate(source, config, seed=0, encode=toy_encode, limits=PlausibilityLimits(joint_speed=1e-9))


@pytest.mark.parametrize("goal", ["decoded", "latent"])
def test_the_command_is_what_the_tracker_is_shown_at_run_time(motion, goal):
    """At every frame: the running segment is the last that began, its codes, phase and frames ahead are shown."""
    library = generated_library(motion)
    command = generated_command(motion, library, goal, (1, 8))
    for frame in range(0, library.frames, 7):
        plan = motion.plans[int(library.clip_of(np.array([frame]))[0])]
        now = int(library.clip_frame[frame])
        running = int(np.flatnonzero(plan.starts <= now)[-1])
        cursor = now - int(plan.starts[running])
        assert command.phase[frame] == cursor / 16
        if goal == "latent":
            np.testing.assert_array_equal(command.codes[0, command.segment[frame]], plan.codes[running])
        else:
            shown = plan.qpos[running][[min(cursor + 1, 31), min(cursor + 8, 31)]]
            np.testing.assert_array_equal(command.qpos[command.rows[frame]], shown)
            moving = plan.qvel[running][[min(cursor + 1, 31), min(cursor + 8, 31)]]
            np.testing.assert_array_equal(command.qvel[command.rows[frame]], moving)


@pytest.mark.parametrize("goal", ["decoded", "latent", "reference"])
def test_joined_parts_show_what_they_showed_apart(library, motion, goal):
    task, variants = TaskConfig(goal=goal), 1 if goal == "reference" else 3
    autoencoder = Numbered()
    autoencoder.model.vocabulary = motion.source.autoencoder.model.vocabulary
    mine = build_command_source(goal, library, autoencoder, seed=1, variants=variants)
    other = generated_library(motion)
    theirs = generated_command(motion, other, goal, task.ahead)
    joined, command = add_generated(library, mine, motion, task, 0.4)
    assert joined.frames == library.frames + other.frames and command.variants == variants
    whole = TrackingTask(ROBOT, joined, task, command)
    for part, shown, offset in ((library, mine, 0), (other, theirs, library.frames)):
        alone = TrackingTask(ROBOT, part, task, shown)
        frames = np.arange(part.frames)
        for variant in range(variants):
            apart, together = (Episodes.empty(part.frames, 19) for _ in range(2))
            apart.frame[:], apart.variant[:] = frames, variant % shown.variants
            together.frame[:], together.variant[:] = frames + offset, variant
            state = part.at(frames)
            expected = alone.observe(state.qpos, state.qvel, apart)
            np.testing.assert_array_equal(whole.observe(state.qpos, state.qvel, together), expected)
            if goal == "latent":
                found = command.codes_at(together.frame, together.variant)
                for got, wanted in zip(found, shown.codes_at(apart.frame, apart.variant), strict=True):
                    np.testing.assert_array_equal(got, wanted)
        reference = joined.at(frames + offset)
        np.testing.assert_array_equal(reference.qpos, state.qpos)
        np.testing.assert_array_equal(reference.sites, state.sites)
        np.testing.assert_array_equal(joined.last_frame[frames + offset], part.last_frame + offset)
    data, shown = first_part(joined, command)
    assert data.clip_names == library.clip_names and data.frames == library.frames and shown.variants == 1
    again = TrackingTask(ROBOT, data, task, shown)
    state, episodes = library.at(np.arange(library.frames)), Episodes.empty(library.frames, 19)
    episodes.frame[:] = np.arange(library.frames)
    alone = TrackingTask(ROBOT, library, task, mine)
    seen = [each.observe(state.qpos, state.qvel, episodes) for each in (alone, again)]
    np.testing.assert_array_equal(*seen)


def test_starts_are_shared_as_asked_and_never_leave_a_clip(library, motion):
    other = generated_library(motion)
    for share in (0.25, 0.5, 0.9):
        joined = join_libraries(library, other, share=share)
        sampler = StartSampler(joined)
        draw = np.random.default_rng(0).random((2, 20000))
        starts = sampler.sample(draw)
        # Standard error 0.0035 at most; four of them.
        assert (starts >= library.frames).mean() == pytest.approx(share, abs=0.014)
        sampler.failure[:] = 0.0
        sampler.failure[0, -1] = 1.0  # failing in one place takes nothing away from the other group
        assert (sampler.sample(draw) >= library.frames).mean() == pytest.approx(share, abs=0.014)
    owner = joined.run_of[starts]
    assert (joined.run_starts[owner] <= starts).all() and (starts < joined.run_stops[owner] - 1).all()
    lengths = joined.run_stops - joined.run_starts
    assert (lengths >= MINIMUM_RUN).all()
    clips = joined.clip_of(starts)
    np.testing.assert_array_equal(clips >= len(library.clip_names), starts >= library.frames)
    moved = joined.to("cpu")
    torch_starts = StartSampler(moved).sample(torch.from_numpy(draw))
    np.testing.assert_array_equal(torch_starts.numpy(), StartSampler(joined).sample(draw))


def test_parts_that_do_not_belong_together_are_refused(library, motion, toy_clips, source, tiny_vae_run, tmp_path):
    half = MotionLibrary([clip.resample(25.0) for clip in toy_clips], ROBOT, 25.0)
    with pytest.raises(UserError, match="25 Hz cannot join"):
        join_libraries(library, half)
    with pytest.raises(UserError, match="between 0 and 1"):
        join_libraries(library, generated_library(motion), share=1.0)
    mine = build_command_source("latent", library, Numbered())
    with pytest.raises(UserError, match="9999 values and 64 of 8"):
        join_commands(mine, generated_command(motion, generated_library(motion), "latent", (1, 8)))
    check_high_level(source, robot="h1", task=TaskConfig(goal="latent"), vae=str(tiny_vae_run))
    with pytest.raises(UserError, match=r"plans at 50 Hz, control is 100 Hz: give --hz 50"):
        check_high_level(source, robot="h1", task=TaskConfig(hz=100.0), vae=None)
    with pytest.raises(UserError, match="moves robot 'h1', the low-level policy 'g1'"):
        check_high_level(source, robot="g1", task=TaskConfig(), vae=None)
    copy = shutil.copytree(tiny_vae_run, tmp_path / "vae")
    (copy / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="another autoencoder"):
        check_high_level(source, robot="h1", task=TaskConfig(goal="latent"), vae=str(copy))
    with pytest.raises(UserError, match="no bundle and no run"):
        load_high_level(tmp_path / "absent")


@pytest.mark.parametrize("goal", ["decoded", "latent", "reference"])
def test_training_sees_generated_motion_and_evaluation_does_not(
    goal, monkeypatch, toy_dataset, toy_encode, tiny_bundle, tiny_vae_run, tmp_path
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(low_level_setup, "load_dataset", toy_dataset)
    monkeypatch.setattr(generated_module, "TextEncoder", lambda name: SimpleNamespace(encode=toy_encode))
    monkeypatch.setattr(generated_module, "PlausibilityLimits", lambda: LOOSE)
    monkeypatch.setattr(generated_library_module, "ScriptConfig", lambda minutes: replace(SHORT, minutes=minutes))
    trained, evaluated = [], []
    original, evaluate = low_level_setup.TrackingTask, low_level_scores.evaluate_tracking

    def task(robot, library, config, command):
        trained.append((library, command))
        return original(robot, library, config, command)

    def score(policy, library, command, **settings):
        evaluated.append((library, command))
        return evaluate(policy, library, command, **{**settings, "per_run": 1, "seconds": 0.1})

    monkeypatch.setattr(low_level_setup, "TrackingTask", task)
    monkeypatch.setattr(low_level_scores, "evaluate_tracking", score)
    flags = LowLevelFlags(
        goal=goal, vae=None if goal == "reference" else tiny_vae_run, generated=tiny_bundle, generated_minutes=0.1,
        steps=128, worlds=4, threads=1, out=tmp_path / "run", code_draws=None if goal == "reference" else 2,
    )  # fmt: skip
    train_low_level(flags)
    (library, command), (data, shown) = trained[0], evaluated[0]
    assert library.clip_names[:2] == ("a", "b") and library.clip_names[2] == "generated_0"
    assert library.group_shares == (0.5, 0.5) and command.variants == (1 if goal == "reference" else 2)
    assert data.clip_names == ("a", "b") and shown.variants == 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["generated"] == str(tiny_bundle) and config["generated_share"] == 0.5
    assert config["code_draws"] == command.variants
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert len(meta["generated_sha256"]) == 64
    saved = low_level_setup.load_low_level_config(tmp_path / "run")
    plain, _ = low_level_setup.build_task(saved, low_level_setup.load_library(saved)[0], "cpu")
    assert plain.library.clip_names == ("a", "b") and plain.command.variants == 1
    if goal == "decoded":
        train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=256, threads=1, evaluate=False))
        meta["generated_sha256"] = "0" * 64
        (tmp_path / "run" / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(UserError, match="has changed since"):
            train_low_level(LowLevelFlags(resume=tmp_path / "run", steps=512, threads=1))


def test_reference_commands_join_through_the_library(library, motion):
    joined, command = add_generated(library, reference_command(library, (1, 8)), motion, TaskConfig(), 0.5)
    last = joined.last_frame
    np.testing.assert_array_equal(command.rows[:, 0], np.minimum(np.arange(joined.frames) + 1, last))
    assert command.qpos is joined.qpos
