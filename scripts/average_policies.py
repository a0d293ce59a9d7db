"""Average low-level policies that descend from one another into one."""

from __future__ import annotations

from collections.abc import Sequence

from motionlex.controllers.averaging import AverageFlags, average_policies
from motionlex.scripts.common import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``motionlex average-policies``."""
    return run_cli(AverageFlags, average_policies, argv, "motionlex average-policies")
