"""Train the latent policy: text, history and centre-of-mass path to codes."""

from __future__ import annotations

from collections.abc import Sequence

from motionlex.controllers.latent_run import HighLevelFlags, train_high_level
from motionlex.scripts.common import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``motionlex train-highlevel``."""
    return run_cli(HighLevelFlags, train_high_level, argv, "motionlex train-highlevel")
