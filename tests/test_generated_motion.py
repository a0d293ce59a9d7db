"""Motion that the high-level policy makes up: scripts, plans, their filter and cache."""

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_doubles import LOOSE, ROBOT, SHORT, planned

from motionlex.controllers import generated as generated_module
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.command_tours import ScriptConfig, eulerian_circuit, random_scripts, random_walk
from motionlex.controllers.evaluation import plan_motion
from motionlex.controllers.generated import (
    PlausibilityLimits,
    generate,
    plausible,
    switches,
)
from motionlex.controllers.generated_library import (
    generated_library,
)
from motionlex.controllers.high_level import load_high_level
from motionlex.controllers.planner import Planner
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import StackConfig
from motionlex.data.captions import held_out_captions, training_captions
from motionlex.data.errors import UserError
from motionlex.data.features import features_to_state
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.quaternion import yaw


@pytest.fixture(scope="module")
def source(tiny_bundle):
    return load_high_level(tiny_bundle)


@pytest.fixture(scope="module")
def motion(source, toy_encode, tmp_path_factory):
    return planned(source, toy_encode, tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path / "cache"))


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
    np.testing.assert_array_equal(stack._plan.segment.codes, plan.codes[0])
    np.testing.assert_allclose(stack._plan.segment.qpos, plan.qpos[0], atol=1e-5)


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
