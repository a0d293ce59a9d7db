"""Simulate the H1 under text commands."""

from __future__ import annotations

from collections.abc import Sequence

from motionlex.controllers.simulation import SimulateFlags, simulate
from motionlex.scripts.common import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``motionlex simulate``."""
    return run_cli(SimulateFlags, simulate, argv, "motionlex simulate")
