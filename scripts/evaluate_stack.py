"""Evaluate the stack stage by stage: data, reconstruction, generated, simulated, tracking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from motionlex.controllers.evaluation_flags import EvaluateStackFlags
from motionlex.controllers.evaluation_report import evaluate_stack
from motionlex.scripts.common import run_cli


@dataclass(frozen=True, kw_only=True)
class Flags(EvaluateStackFlags):
    """Evaluate a bundle (or, with --stage tracking, a run of train_lowlevel) stage by stage."""

    target: tyro.conf.Positional[str | None] = None
    """Folder of a bundle or run; the built-in bundle when left out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``motionlex evaluate-stack``."""
    return run_cli(Flags, lambda flags: evaluate_stack(flags.target, flags), argv, "motionlex evaluate-stack")
