"""Commands of several draws, motions of the high-level policy, and both joined into one thing to train on."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from generated_doubles import LOOSE, ROBOT, SHORT, planned

from motionlex.controllers import generated as generated_module
from motionlex.controllers import generated_library as generated_library_module
from motionlex.controllers import low_level_scores, low_level_setup
from motionlex.controllers.commands import build_command_source
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
from motionlex.controllers.low_level_policy import LowLevelPolicy, PolicyShape
from motionlex.data.errors import UserError
from motionlex.envs.episodes import Episodes
from motionlex.envs.joining import first_part, join_commands, join_libraries
from motionlex.envs.reference import MINIMUM_RUN, MotionLibrary, reference_command
from motionlex.envs.start_sampler import StartSampler
from motionlex.envs.task import TrackingTask
from motionlex.envs.task_config import TaskConfig


@pytest.fixture(scope="module")
def library(toy_clips):
    return MotionLibrary(toy_clips, ROBOT, 50.0)


@pytest.fixture(scope="module")
def source(tiny_bundle):
    return load_high_level(tiny_bundle)


@pytest.fixture(scope="module")
def motion(source, toy_encode, tmp_path_factory):
    return planned(source, toy_encode, tmp_path_factory.mktemp("cache"))


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


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path / "cache"))


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


def test_scores_on_the_way_see_codes_that_nobody_else_sees(library, monkeypatch):
    config = LowLevelConfig(task=TaskConfig(goal="latent"), vae="run", code_draws=3, seed=11)
    coder = Numbered()
    coder.model.codebook = torch.zeros(9999, 2)
    loaded, seen = [], []
    monkeypatch.setattr(low_level_setup, "load_run", lambda *_: loaded.append(1) or coder)
    monkeypatch.setattr(
        low_level_scores, "quick_score", lambda policy, library, command, **_: seen.append(command) or {}
    )
    task, _ = low_level_setup.build_task(config, library, "cpu", draws=config.code_draws)
    final, _ = low_level_setup.build_task(config, library, "cpu", code_seed=low_level_setup.fresh_codes(config.seed))
    scorer = low_level_scores.Scorer(task, config, 1)
    shape = PolicyShape(observation=151, critic_observation=151, actions=19, action_limit=4.0, hidden=(4,))
    for _ in range(2):
        scorer(LowLevelPolicy(shape, config.task))
    assert (
        len(loaded) == 3 and seen[0] is seen[1] and seen[0].variants == 1
    )  # one for the training, the end, the scores
    for others in (*task.command.codes, final.command.codes[0]):
        assert (seen[0].codes[0] != others).mean() > 0.99  # of 9999 values one in 9999 agrees by chance


def test_reference_commands_join_through_the_library(library, motion):
    joined, command = add_generated(library, reference_command(library, (1, 8)), motion, TaskConfig(), 0.5)
    last = joined.last_frame
    np.testing.assert_array_equal(command.rows[:, 0], np.minimum(np.arange(joined.frames) + 1, last))
    assert command.qpos is joined.qpos
