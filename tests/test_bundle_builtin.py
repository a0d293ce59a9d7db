"""The shipped bundle: whole, small, and it does what it is told."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import bars_worker
import numpy as np
import pytest
from demo_worker import outcome

from motionlex.controllers.bundle import builtin_bundle, load_bundle, verify
from motionlex.controllers.episode import TimedCommand
from motionlex.controllers.evaluation_prompts import foreign_text
from motionlex.controllers.evaluation_rollouts import Stacks
from motionlex.controllers.simulation import run_commands
from motionlex.controllers.stack import Stack
from motionlex.controllers.text import TextEncoder
from motionlex.data.captions import held_out_captions


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(builtin_bundle())


@pytest.fixture(scope="module")
def encode():
    return TextEncoder().encode


def test_it_is_whole_small_and_says_how_it_was_made():
    meta = verify(builtin_bundle())
    size = sum(path.stat().st_size for path in builtin_bundle().rglob("*") if path.is_file())
    assert size < 20e6
    assert meta.hz == 50.0 and meta.robot == "h1" and meta.goal in ("latent", "decoded")
    assert len(meta.commands) >= 3 and meta.commands[0].startswith("train_motion_vae")
    assert all("/" not in command.split()[0] for command in meta.commands)
    assert meta.provenance["licence"]


def test_commands_and_their_captions_name_the_right_action(bundle, encode):
    from motionlex.controllers.bundle import nearest_action

    for text, action in (("stand still", "stand"), ("walk forward", "walk_forward"), ("wave", "wave")):
        assert nearest_action(encode([text])[0, 0], bundle.captions)[0] == action


def test_its_threshold_refuses_most_of_what_it_does_not_hold_and_nothing_that_it_does(bundle, encode):
    """All held-out captions of its 20 actions are obeyed, and at least 8 of 10 foreign prompts are not."""
    own = [caption for label in bundle.captions for caption in held_out_captions(label)]
    found = foreign_text(Stacks(bundle=bundle, encode=encode, seed=0), own)
    assert found["threshold"] == bundle.meta.understood_from == 0.5
    assert len(own) == found["own_refused"]["count"] == 77 and found["own_refused"]["mean"] == 0.0
    assert found["refused"]["mean"] >= 0.8, found["obeyed"]


def test_the_demo_succeeds_in_at_least_eight_of_ten_seeds():
    """Two processes, since one seed after the other takes minutes."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        outcomes = list(pool.map(outcome, range(10)))
    assert outcomes.count("good") >= 8, outcomes


@pytest.mark.skipif("MOTIONLEX_SLOW_TESTS" not in os.environ, reason="half a minute: set MOTIONLEX_SLOW_TESTS to run")
def test_held_out_captions_are_obeyed_and_paths_are_followed():
    """One caption of each of 20 actions, and six paths without words, by the states that were simulated.

    Loose bounds between what the bundle does (17 of 20 captions; 0.20 m) and what it does where something is broken: 0
    of 20 with a text of zeros; 0.94 m where the planner is not shown the path, since a robot that stands beside a path
    at 0.6 m/s which begins after 1 s is 0.96 m away from it over 5 s; 0.53 m where it turns the wrong way.
    """
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        prompts, paths = pool.submit(bars_worker.recognised), pool.submit(bars_worker.path_errors)
        pairs, (errors, falls) = prompts.result(), paths.result()
    assert len(pairs) == 20
    assert sum(wanted == seen for wanted, seen in pairs) >= 12, [pair for pair in pairs if pair[0] != pair[1]]
    assert len(errors) == 6 and falls <= 1, falls
    assert np.mean(errors) < 0.45, errors


def test_other_words_give_other_motion(bundle, encode):
    ends = []
    for text in ("walk forward", "walk backward"):
        run = run_commands(Stack(bundle, encode=encode), iter([TimedCommand(text=text, seconds=4.0)]))
        ends.append(run.qpos[-1, 0])
    assert ends[0] > ends[1] + 0.5


def test_motion_is_driven_by_the_embedding_not_by_the_label(bundle, encode):
    from dataclasses import replace

    names = list(bundle.captions)
    rows = list(bundle.captions.values())
    permuted = replace(bundle, captions=dict(zip(names, [*rows[1:], rows[0]], strict=True)))
    runs = [
        run_commands(Stack(each, seed=5, encode=encode), iter([TimedCommand(text="wave", seconds=1.0)]))
        for each in (bundle, permuted)
    ]
    assert np.array_equal(runs[0].qpos, runs[1].qpos)
    assert runs[0].commands[0].action != runs[1].commands[0].action


def test_it_walks_to_a_goal_and_stays_there(bundle, encode):
    stack = Stack(bundle, seed=1, encode=encode)
    stack.command("stand still")
    goal = np.array([1.0, -2.0])
    stack.go_to(*goal)
    away = []
    for _ in range(16 * 50):
        stack.step()
        away.append(float(np.linalg.norm(stack.com - goal)))
    assert away[0] > 2.0 and min(away) < 0.3 and max(away[-100:]) < 0.7 and not stack.fell


def test_told_to_stand_and_then_to_walk_it_walks_and_told_to_stand_again_it_stands(bundle, encode):
    """The words for standing and a velocity contradict each other: heard together, they made it fall."""
    stack = Stack(bundle, seed=0, encode=encode)
    stack.command("stand still")
    stack.steer(0.6, 0.0, 0.0)
    for _ in range(5 * 50):
        stack.step()
    assert stack.com[0] > 2.0 and not stack.fell
    stack.command("stay where you are")
    for _ in range(4 * 50):
        stack.step()
    before = stack.com
    for _ in range(50):
        stack.step()
    assert np.linalg.norm(stack.com - before) < 0.1 and not stack.fell
