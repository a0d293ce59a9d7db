"""Train the low-level policy that follows motions or codes (PPO)."""

import os
import sys
from collections.abc import Sequence

from motionlex.scripts.common import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    # Physics threads and torch's threads take turns: torch's must sleep, not spin, while they wait. Read when torch
    # loads, hence before the import. Measured on two busy cores: 300 -> several thousand steps/s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from motionlex.controllers.low_level import LowLevelFlags, train_low_level

    return run_cli(LowLevelFlags, train_low_level, argv, "train_lowlevel")


if __name__ == "__main__":
    sys.exit(main())
