"""Survival under random commands, counted by hand."""

import numpy as np
import pytest
from motion_kinds import HZ, KINDS, clips, moving_clip

from motionlex.controllers import evaluation_simulated
from motionlex.controllers.bundle import load_bundle
from motionlex.controllers.evaluation import EvaluationConfig
from motionlex.controllers.evaluation_rollouts import Stacks
from motionlex.controllers.evaluation_scores import Jury
from motionlex.controllers.evaluation_simulated import evaluate_survival
from motionlex.controllers.motion_classifier import fit_classifier
from motionlex.controllers.simulation import Run
from motionlex.controllers.stack import Stack
from motionlex.data.captions import training_captions
from motionlex.data.robots import get_robot

OTHER = {"stand": "turn_left", "turn_left": "turn_right"}
"""What a disobedient robot does in place of an action."""


class ScriptedStack(Stack):
    """A robot without physics: it obeys, except for one command, until it falls at a given control step."""

    def __init__(self, *, falls_at=None, disobeys=None):
        self.hz, self.fell = HZ, False
        self.falls_at, self.disobeys = falls_at, disobeys
        self.told, self.steps = [], 0


def scripted_run(stack, commands, on_step):
    """Stand-in for ``run_commands``: as many steps, of the commanded motion."""
    (command,) = commands
    action = next(label for label in KINDS if training_captions(label)[0] == command.text)
    done = OTHER.get(action, "stand") if len(stack.told) == stack.disobeys else action
    stack.told.append(action)
    for _ in range(round(command.seconds * stack.hz)):
        stack.steps += 1
        stack.fell |= stack.steps == stack.falls_at
        on_step()
    motion = moving_clip(done, seconds=command.seconds, seed=5, **KINDS[done])
    return Run(qpos=motion.qpos, hz=HZ, commands=(), fell=stack.fell, wall_s=0.0)


@pytest.fixture(scope="module")
def jury():
    return Jury(judge=fit_classifier(clips(range(2))), robot=get_robot("h1"))


def test_falls_and_recognised_commands_are_counted_as_by_hand(jury, tiny_bundle, toy_encode, monkeypatch):
    """Of four robots two fall: one in the middle of its second command, one in its very last step."""
    robots = [
        ScriptedStack(),  # 6 of 6 commands are recognised
        ScriptedStack(falls_at=376),  # it stood for 375 steps, 7.5 s: 1 of 6
        ScriptedStack(disobeys=3),  # 5 of 6
        ScriptedStack(falls_at=1500),  # 5 of 6
    ]
    monkeypatch.setattr(evaluation_simulated, "run_commands", scripted_run)
    made = iter(robots)
    monkeypatch.setattr(Stacks, "make", lambda stacks, seed: next(made))
    stacks = Stacks(bundle=load_bundle(tiny_bundle), encode=toy_encode)
    found = evaluate_survival(jury, stacks, EvaluationConfig(survival_rollouts=4))
    assert [robot.steps for robot in robots] == [1500] * 4  # 30 s each
    assert all(len(robot.told) == 6 for robot in robots) and len({tuple(robot.told) for robot in robots}) == 4
    assert found["survival_rollouts"] == 4 and found["survival_falls"] == 2 and found["survival_30s"] == 0.5
    # Wilson 1927 for 2 of 4: the middle is 1/2 by symmetry
    z = 1.959964
    half = z / (1 + z * z / 4) * np.sqrt(0.25 / 4 + z * z / 64)
    np.testing.assert_allclose(found["survival_30s_interval_95"], [0.5 - half, 0.5 + half], rtol=1e-5)
    assert found["switch_accuracy"] == pytest.approx((6 + 1 + 5 + 5) / 24)
    assert found["seconds_survived"]["mean"] == pytest.approx((30.0 + 7.5 + 30.0 + 29.98) / 4)
    low, high = found["seconds_survived"]["interval_95"]
    assert 7.5 <= low < found["seconds_survived"]["mean"] < high <= 30.0


def test_without_rollouts_nothing_is_said(jury, tiny_bundle, toy_encode):
    stacks = Stacks(bundle=load_bundle(tiny_bundle), encode=toy_encode)
    found = evaluate_survival(jury, stacks, EvaluationConfig(survival_rollouts=0))
    assert set(found.values()) == {None}
