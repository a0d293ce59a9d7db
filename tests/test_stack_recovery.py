"""Fallen robots: when they are put on their feet, and how one that has learned to gets up by itself."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from motionlex.controllers.bundle import check_agreement, load_bundle
from motionlex.controllers.recovery import Recovery
from motionlex.controllers.stack import Stack
from motionlex.controllers.stack_state import StackConfig
from motionlex.data.errors import UserError

HZ = 10.0


def watch(recovery, pattern):
    """What is said step by step: "_" is down, "-" is down as planned, anything else is up."""
    return [recovery.watch(down=mark in "_-", planned=mark == "-") for mark in pattern]


def test_lying_on_the_ground_for_too_long():
    """0.3 s at 10 Hz are three steps; lying as planned does not count, and standing begins anew."""
    recovery = Recovery(HZ, lying_s=0.3, rises=False)
    assert watch(recovery, "^^--^") == [None] * 5
    assert watch(recovery, "__^") == ["fell", None, None]
    assert watch(recovery, "_---__") == ["fell", None, None, None, None, None]
    assert watch(recovery, "__") == ["stood up", "fell"]  # it is taken to be upright from then on
    assert watch(Recovery(HZ, lying_s=None, rises=True), "_" * 100) == ["fell"] + [None] * 99


def test_getting_up_ends_when_the_robot_has_stood_for_a_while():
    recovery = Recovery(HZ, lying_s=0.1, rises=True, rising_s=2.0, steady_s=0.3)
    assert watch(recovery, "__") == ["fell", "gets up"]
    assert recovery.rising
    assert watch(recovery, "__-^^_^^^") == [None] * 9  # three steps are not more than 0.3 s
    assert watch(recovery, "^") == ["got up"]
    assert not recovery.rising
    assert watch(recovery, "^_") == [None, "fell"]


def test_getting_up_that_takes_too_long_is_given_up():
    recovery = Recovery(HZ, lying_s=0.0, rises=True, rising_s=0.5, steady_s=0.3)
    assert watch(recovery, "_") == ["gets up"]
    assert watch(recovery, "_____") == [None] * 5
    assert watch(recovery, "_") == ["stood up"]
    assert not recovery.rising


def lying(stack):
    """Let the robot lie 80 degrees forward, in the air: nothing touches it for a while."""
    down = stack.qpos
    down[2], down[3:7] = 3.0, [np.cos(0.7), 0.0, np.sin(0.7), 0.0]
    stack.tracker.simulator.reset(down, np.zeros(25))


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_bundle_that_has_learned_to_get_up_does_so_and_goes_on(tiny_bundle, toy_encode, monkeypatch, succeeds):
    """The policy is told its bundle's words from the pose where the robot lies, then what it was told before."""
    told = []

    def remember(embedding, path=None, replan=None):
        told.append(embedding)
        return replan(embedding, path)

    bundle = load_bundle(tiny_bundle)
    bundle = replace(bundle, meta=replace(bundle.meta, get_up="get up"))
    stack = Stack(bundle, encode=toy_encode, config=StackConfig(recover_s=0.1, lead_s=0.0, understood_from=-1.0))
    replan = stack._planner.replan
    monkeypatch.setattr(stack._planner, "replan", lambda text, path=None: remember(text, path, replan))
    words = {name: toy_encode([name])[0] for name in ("wave", "get up")}
    stack.command("wave")
    stack.step()
    upright = stack.qpos
    events = []
    for step in range(520):
        if step < 8 or not succeeds:
            lying(stack)
        elif step == 8:
            stack.tracker.simulator.reset(upright, np.zeros(25))
        else:  # held upright: the toy policy cannot stand
            held = stack.qpos
            held[2:7] = upright[2:7]
            stack.tracker.simulator.reset(held, np.zeros(25))
        before = len(told)
        events.append(stack.step().event)
        if len(told) > before:
            rising = "gets up" in events and not {"got up", "stood up"} & set(events[:-1])
            assert torch.equal(told[-1], words["get up" if rising else "wave"])
        if {"got up", "stood up"} & set(events):
            break
    said = [event for event in events if event]
    assert said == ["fell", "gets up", "got up" if succeeds else "stood up"]
    assert stack.fell
    # More than 1 s upright from step 8 on, or more than 8 s after it began.
    assert len(events) == (8 + 51 if succeeds else events.index("gets up") + 1 + 401)
    stack.step()
    assert torch.equal(told[-1], words["get up" if succeeds else "wave"])  # a running segment ends before the next


def test_a_plan_to_get_up_begins_where_the_robot_lies(tiny_bundle, toy_encode):
    bundle = load_bundle(tiny_bundle)
    bundle = replace(bundle, meta=replace(bundle.meta, get_up="get up"))
    stack = Stack(bundle, encode=toy_encode, config=StackConfig(recover_s=0.0))
    stack.command("wave")
    stack.step()
    lying(stack)
    assert stack.step().event == "gets up"
    xy, yaw = stack._planner.anchor
    np.testing.assert_allclose(xy, stack.qpos[:2])
    assert yaw == pytest.approx(stack.heading)
    assert stack.qpos[2] > 2.5  # the robot itself is not touched


def test_a_rate_at_which_decisions_come_too_rarely_is_refused(tiny_bundle):
    """16 frames at 50 Hz are 0.32 s; at 40 Hz they are 0.40 s."""
    bundle = load_bundle(tiny_bundle)
    parts = (bundle.autoencoder, bundle.latent_policy, bundle.low_level)
    slow = [
        replace(bundle.meta, hz=40.0),
        replace(bundle.autoencoder, statistics=replace(bundle.autoencoder.statistics, hz=40.0)),
        bundle.latent_policy,
    ]
    check_agreement(bundle.meta, *parts)

    policy = copy.copy(bundle.low_level)
    policy.task = replace(policy.task, hz=40.0)
    with pytest.raises(UserError, match=r"0\.40 s only, wanted 0\.32 s: train the parts at 50 Hz"):
        check_agreement(*slow, policy)
