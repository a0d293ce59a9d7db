"""Train the text-motion evaluator of evaluate-stack on training clips and captions."""

from __future__ import annotations

from collections.abc import Sequence

from motionlex.controllers.evaluator_training import EvaluatorFlags, train_evaluator
from motionlex.scripts.common import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``motionlex train-evaluator``."""
    return run_cli(EvaluatorFlags, train_evaluator, argv, "motionlex train-evaluator")
