"""The simulated stage: held-out prompts obeyed in MuJoCo, survival under random commands, commanded paths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from motionlex.controllers.bundle import Bundle
from motionlex.controllers.episode import TimedCommand
from motionlex.controllers.evaluation import (
    EvaluationConfig,
    basic_measurements,
    choose_prompts,
    mean_measurements,
    prompt_scores,
)
from motionlex.controllers.evaluation_paths import evaluate_paths
from motionlex.controllers.evaluation_prompts import evaluate_sensitivity
from motionlex.controllers.evaluation_rollouts import Performance, Stacks, perform
from motionlex.controllers.evaluation_scores import FALLEN, Jury, Value, mean_row, score_takes, share
from motionlex.controllers.motion_classifier import WINDOW_S
from motionlex.controllers.progress import ProgressLine
from motionlex.controllers.simulation import run_commands
from motionlex.controllers.stack import Stack
from motionlex.controllers.switches import evaluate_switches
from motionlex.controllers.text import TextFunction
from motionlex.data.captions import training_captions

SURVIVAL_S = 30.0
"""Duration of a survival rollout [s]."""
COMMAND_S = 5.0
"""Time between its commands [s]."""


def evaluate_simulated(bundle: Bundle, jury: Jury, encode: TextFunction, config: EvaluationConfig) -> dict[str, Value]:
    """Judge the simulated robot: held-out prompts, other prompts, survival, switches and desired paths.

    Args:
        bundle: What is evaluated.
        jury: Who judges.
        encode: Text encoder.
        config: How much is simulated.

    Returns:
        ``paraphrase_accuracy`` (actions recognised in the last two seconds; a robot that lies shows none of them),
        ``shuffled_accuracy`` (the same against the captions of other episodes), ``chance``, ``survival_30s`` (share of
        rollouts of 30 s with a new command every 5 s without a fall), ``switch_accuracy`` (share of those commands that
        are recognised), ``com_path_error_m``, ``action_confusion`` and mean measurements; ``scores`` as at every stage,
        with what only physics has; ``paths``; ``sensitivity`` with
        ``paths_without_words``, and ``switches``, where they are asked for.
    """
    stacks = Stacks(bundle=bundle, encode=encode, seed=config.seed)
    prompts = choose_prompts(jury.judge.labels, config.prompts_per_action)
    done, progress = [], ProgressLine(len(prompts), "simulated prompt")
    for number, (action, caption) in enumerate(prompts):
        done.append(perform(stacks.make(number), action, caption, config.prompt_s))
        progress.advance(f"{action}: {caption[:50]} -> {jury.recognise(done[-1].take)}")
    takes = [each.take for each in done]
    paths = evaluate_paths(stacks.make, config.path_s, config.path_repeats, seed=config.seed)
    report: dict[str, Value] = {
        **prompt_scores([(take.action, jury.recognise(take)) for take in takes], jury.judge, config.seed),
        "falls": float(sum(each.fell for each in done)),
        **evaluate_survival(jury, stacks, config),
        "com_path_error_m": paths["path_error_m"],
        "paths": paths,
        "measurements": mean_measurements(
            [(take.action, basic_measurements(take.clip.qpos, take.clip.hz)) for take in takes]
        ),
        "scores": {**score_takes(jury, takes), **physical_scores(done, jury.seed)},
    }
    if config.sensitivity:
        report["sensitivity"] = evaluate_sensitivity(jury, stacks, prompts, config.prompt_s)
        report["paths_without_words"] = evaluate_paths(
            stacks.make, config.path_s, config.path_repeats, text=None, seed=config.seed
        )
    if config.switches:
        report["switches"] = evaluate_switches(jury, stacks, config.switches)
    return report


def physical_scores(done: Sequence[Performance], seed: int) -> dict[str, Value]:
    """What only a simulated robot has: whether it stays up, and what its motors do."""
    return {
        "upright": share([not each.fell for each in done]),
        "torque_saturation": mean_row([each.saturation for each in done], seed),
        "power_w": mean_row([each.power_w for each in done], seed),
    }


def evaluate_survival(jury: Jury, stacks: Stacks, config: EvaluationConfig) -> dict[str, Value]:
    """Let robots obey random commands for 30 s each.

    Returns:
        ``survival_30s`` (share of rollouts without a fall), its interval, their number and that of the falls,
        ``seconds_survived`` (until the first fall, 30 where there is none) and ``switch_accuracy`` (share of the
        commands that are recognised; none is after a fall).
    """
    if config.survival_rollouts < 1:
        return {"survival_30s": None, "switch_accuracy": None}
    rng = np.random.default_rng(config.seed)
    fell, lasted_s, recognised = [], [], list[bool]()
    progress = ProgressLine(config.survival_rollouts, "survival rollout")
    for rollout in range(config.survival_rollouts):
        actions = [str(action) for action in rng.choice(jury.judge.labels, size=round(SURVIVAL_S / COMMAND_S))]
        stack = stacks.make(1000 + rollout)
        hits, seconds = obey_in_turn(jury, stack, actions)
        recognised += hits
        lasted_s.append(seconds)
        fell.append(stack.fell)
        progress.advance(f"{', '.join(actions)}: {'fell' if stack.fell else 'survived'}")
    lasted = share([not each for each in fell])
    return {
        "survival_30s": lasted["mean"],
        "survival_30s_interval_95": lasted["interval_95"],
        "survival_rollouts": len(fell),
        "survival_falls": sum(fell),
        "seconds_survived": mean_row(lasted_s, config.seed),
        "switch_accuracy": share(recognised)["mean"],
    }


def obey_in_turn(jury: Jury, stack: Stack, actions: Sequence[str]) -> tuple[list[bool], float]:
    """Command one action after the other, each by its first training caption.

    Args:
        jury: Who judges.
        stack: The robot, at its start.
        actions: What to command, every ``COMMAND_S``.

    Returns:
        Whether each is recognised in its last two seconds, and for how long the robot did not fall [s].
    """
    upright, recognised, window = 0, [], round(WINDOW_S * stack.hz)

    def count() -> None:
        nonlocal upright
        upright += not stack.fell

    for action in actions:
        command = TimedCommand(text=training_captions(action)[0], seconds=COMMAND_S)
        run = run_commands(stack, iter([command]), count)
        got = FALLEN if run.fell else jury.judge.classify(run.qpos[-window:], run.hz)
        recognised.append(got == action)
    return recognised, upright / stack.hz
