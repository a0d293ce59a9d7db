"""Scripts that say where to go: velocities around each action's own, followed by the plan as by the running stack."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motionlex.controllers import generated, led_commands
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.code_sampling import SamplingConfig
from motionlex.controllers.command_tours import ScriptConfig, ScriptedCommand, random_scripts
from motionlex.controllers.generated import PlausibilityLimits
from motionlex.controllers.high_level import load_high_level
from motionlex.controllers.led_commands import FASTEST, TURN, action_velocities, lead
from motionlex.controllers.planner import Planner
from motionlex.controllers.script_planning import plan_scripts
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import StackConfig
from motionlex.data.errors import UserError
from motionlex.data.quaternion import from_yaw

HZ = 50.0


def command(action, seconds, **changes):
    return ScriptedCommand(action=action, text=action, frames=round(seconds * HZ), **changes)


def moving(velocity, turn, seconds, heading):
    """A root that moves at (forward, left) in its own frame while it turns: integrated step by step."""
    rows = np.zeros((round(seconds * HZ), 26))
    xy = np.zeros(2)
    for row in rows:
        row[:2], row[3:7] = xy, from_yaw(heading)
        forward = np.array([np.cos(heading), np.sin(heading)])
        xy = xy + (velocity[0] * forward + velocity[1] * np.array([-forward[1], forward[0]])) / HZ
        heading += turn / HZ
    return rows


def test_velocities_are_those_that_the_plans_were_made_with():
    walk = moving((0.8, 0.1), 0.3, 4.0, 2.0)
    side = moving((0.0, -0.5), -0.1, 4.0, 2.0 + 4.0 * 0.3 - 2.0 * np.pi)  # the same heading, another branch
    side[:, :2] += walk[-1, :2]
    script = (command("walk", 4.0), command("side", 4.0))
    found = action_velocities([(script, np.concatenate((walk, side))), ((command("nod", 0.5),), side[:25])], HZ)
    assert set(found) == {"walk", "side"}  # nodding is over before it has settled
    np.testing.assert_allclose(found["walk"], (0.8, 0.1, 0.3), atol=2e-2)
    np.testing.assert_allclose(found["side"], (0.0, -0.5, -0.1), atol=1e-9)


def test_only_what_goes_somewhere_is_led_within_its_own_range():
    own = {"walk": np.array([0.8, 0.0, 0.1]), "wave": np.array([0.02, 0.0, 0.0])}
    script = (command("walk", 2.0), command("wave", 2.0), command("bow", 2.0))
    rng = np.random.default_rng(0)
    led = [lead(script, own, rng) for _ in range(300)]
    assert all(wave.velocity is None and bow.velocity is None for _, wave, bow in led)
    speeds, left, turns = np.array([walk.velocity for walk, _, _ in led]).T
    assert 0.0 <= speeds.min() < 0.05 and 0.8 * FASTEST - 0.05 < speeds.max() <= 0.8 * FASTEST
    assert (left == 0.0).all()
    assert 0.1 - TURN <= turns.min() < 0.1 - TURN + 0.02 and 0.1 + TURN - 0.02 < turns.max() <= 0.1 + TURN


def test_a_led_script_is_what_the_running_stack_decides(tiny_bundle, toy_encode):
    """The first segment of a command with a velocity: same codes, same frames, of as many candidates."""
    source = load_high_level(tiny_bundle)
    told = command("walk forward", 0.32, velocity=(0.5, 0.1, 0.2))
    embeddings = {told.text: toy_encode([told.text])[0]}
    (rows,) = plan_scripts(source, [(told,)], embeddings, torch.Generator().manual_seed(7))
    stack = Stack(
        load_bundle(tiny_bundle), seed=7, encode=toy_encode, config=StackConfig(understood_from=-1.0, lead_s=0.0)
    )
    stack.steer(0.5, 0.1, 0.2)
    stack.command(told.text)
    stack.step()
    np.testing.assert_array_equal(stack._plan.segment.codes, rows["codes"][0])
    np.testing.assert_allclose(stack._plan.segment.qpos, rows["qpos"][0], atol=1e-9)


def test_the_last_share_of_the_scripts_is_led_and_named(tiny_bundle, toy_encode, monkeypatch, tmp_path):
    monkeypatch.setenv("MOTIONLEX_CACHE", str(tmp_path))
    source, loose = load_high_level(tiny_bundle), PlausibilityLimits(root_speed=1e6, joint_speed=1e6, penetration=1e6)
    planned, original = [], generated.plan_scripts

    def watched(source, scripts, *rest):
        planned.append(scripts)
        return original(source, scripts, *rest)

    monkeypatch.setattr(generated, "plan_scripts", watched)
    monkeypatch.setattr(led_commands, "MOVING_MPS", 0.0)  # whatever an untrained policy does, it moves
    config = ScriptConfig(minutes=0.6, shortest_s=0.7, longest_s=1.1, commands=4, led_share=0.4)
    motion = generated.generate(source, config, seed=0, encode=toy_encode, limits=loose)
    free, led = planned
    assert len(led) == round(0.4 * (len(free) + len(led))) > 1
    assert not any(command.velocity for script in free for command in script)
    assert all(command.velocity for script in led for command in script)
    written = random_scripts(source.actions, config, HZ, np.random.default_rng(0))
    assert list(free) == written[: len(free)]
    names = [plan.clip.name.rsplit("_", 1)[0] for plan in motion.plans]
    assert names == ["generated"] * len(free) + ["led"] * len(led)
    with pytest.raises(UserError, match="led_share"):
        ScriptConfig(led_share=1.5)


def test_every_script_of_a_mixed_batch_gets_the_best_of_its_own_candidates(tiny_bundle, toy_encode, monkeypatch):
    """Free scripts have one candidate, led ones three: what is taken is what was compared, row by row."""
    source = replace(load_high_level(tiny_bundle), sampling=SamplingConfig(candidates=3))
    scripts = [
        (command("wave", 0.64),),
        (command("walk forward", 0.64, velocity=(0.4, 0.0, 0.0)),),
        (command("stand", 0.32), command("walk forward", 0.32, velocity=(0.2, 0.0, 0.0))),
    ]
    texts = sorted({told.text for script in scripts for told in script})
    embeddings = dict(zip(texts, toy_encode(texts), strict=True))
    counts, taken, decoded = [], [], []
    sample, place = type(source.latent_policy).sample, Planner.place

    def last(self, features, path):
        counts.append((len(features), path is not None))
        return len(features) - 1

    def watched(self, conditions, generator, sampling=None, *, samples=1):
        codes, log_prob = sample(self, conditions, generator, sampling, samples=samples)
        decoded.append(codes.numpy())
        return codes, log_prob

    def placed(self, codes, features):
        taken.append(codes)
        return place(self, codes, features)

    monkeypatch.setattr(Planner, "best", last)
    monkeypatch.setattr(Planner, "place", placed)
    monkeypatch.setattr(type(source.latent_policy), "sample", watched)
    plan_scripts(source, scripts, embeddings, torch.Generator().manual_seed(0))
    assert counts == [(1, False), (1, False), (3, True), (1, False), (3, True), (3, True)]
    assert [len(codes) for codes in decoded] == [2, 3, 1, 6]  # in every turn the free ones, then the led ones
    rows = [(0, 0), (0, 1), (1, 2), (2, 0), (3, 2), (3, 5)]  # the last candidate of every script
    for codes, (batch, row) in zip(taken, rows, strict=True):
        np.testing.assert_array_equal(codes, decoded[batch][row])
