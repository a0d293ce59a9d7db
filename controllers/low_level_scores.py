"""How good a policy in training is: a cheap score on the way and the whole evaluation at the end."""

from __future__ import annotations

from motionlex.controllers.evaluation_tracking import Report, evaluate_tracking, quick_score
from motionlex.controllers.low_level_config import LowLevelConfig
from motionlex.controllers.low_level_policy import LowLevelPolicy
from motionlex.controllers.low_level_setup import build_task, fresh_codes
from motionlex.envs.joining import first_part
from motionlex.envs.reference import CommandSource
from motionlex.envs.task import TrackingTask


class Scorer:
    """Scores a policy now and then while it is trained, on few rollouts: always the same starts, noise and codes."""

    def __init__(self, task: TrackingTask, config: LowLevelConfig, threads: int) -> None:
        """Note what to score; the codes are drawn at the first score.

        Args:
            task: Of the training, with its library on the CPU.
            config: The run.
            threads: Physics threads.
        """
        self._task, self._config, self._threads = task, config, threads
        self._command: CommandSource | None = None

    def __call__(self, policy: LowLevelPolicy) -> dict[str, float]:
        """Score the deterministic policy on the data set's motions, with the task's start noise.

        The codes are a draw of their own, which neither training nor the evaluation at the end sees.
        """
        config = self._config
        library, _ = first_part(self._task.library, self._task.command)
        if self._command is None:
            seed = fresh_codes(config.seed, "scores")
            self._command = build_task(config, library, "cpu", code_seed=seed)[0].command
        return quick_score(
            policy, library, self._command, robot=self._task.robot, config=config.task, threads=self._threads
        )


def evaluate_policy(task: TrackingTask, policy: LowLevelPolicy, config: LowLevelConfig, threads: int) -> Report:
    """Evaluate the trained policy on the data set's part of its library, with draws of the codes that are new to it."""
    library, _ = first_part(task.library, task.command)
    fresh, _ = build_task(config, library, "cpu", code_seed=fresh_codes(config.seed))
    runs = len(library.run_starts)
    per_run = max(1, min(8, 256 // runs))
    repeats = max(1, 32 // runs)  # few motions: several rollouts of each, from disturbed starts
    return evaluate_tracking(
        policy.eval(),
        library,
        fresh.command,
        robot=task.robot,
        config=config.task,
        per_run=per_run,
        threads=threads,
        repeats=repeats,
        noise=repeats > 1,
        seed=1,  # noise that no score on the way, by which a training may have been ended, has seen
    )


def final_figures(report: Report) -> dict[str, float]:
    """Return what a run tells of its evaluation: plain numbers; clips, categories and notes stay in evaluate-stack."""
    left_out = ("hz", "seconds")  # settings, and the run has seconds of its own
    numbers = {name: value for name, value in report.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if name not in left_out and value is not None}
