"""Train the low-level policy that follows motions or codes (PPO); several processes share the robots."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from motionlex.scripts.common import JsonValue, run_cli, start_logging

if TYPE_CHECKING:
    from motionlex.controllers.low_level_flags import LowLevelFlags

Result = Mapping[str, JsonValue]
INTERRUPTED = 130
"""Exit code of a process that was interrupted, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; of the ranks that torchrun starts only the first prints a result."""
    # Physics threads and torch's threads take turns: torch's must sleep, not spin, while they wait. Read when torch
    # loads, hence before the import. Measured on two busy cores: 300 -> several thousand steps/s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from motionlex.controllers.low_level import train_low_level
    from motionlex.controllers.low_level_flags import LowLevelFlags
    from motionlex.motion_vae.distributed import launched_rank, launched_ranks

    if launched_ranks() == 1:
        return run_cli(LowLevelFlags, train_on_cores, argv, "train_lowlevel")
    if (rank := launched_rank()) == 0:
        return run_cli(LowLevelFlags, train_low_level, argv, "train_lowlevel")
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        return run_cli(LowLevelFlags, train_low_level, argv, f"train_lowlevel (rank {rank})")


def train_on_cores(flags: LowLevelFlags) -> Result:
    """Train in this process, or in several on this machine that torch's launcher starts and watches.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM to this process or to one of them; they have saved the training.
        UserError: On a mistake of the user, found by whichever process; or if a process died.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from motionlex.controllers.low_level import default_processes, train_low_level
    from motionlex.data.errors import UserError

    processes = default_processes(flags)
    if processes == 1:
        return train_low_level(flags)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what went wrong is said below
    try:
        results = elastic_launch(config, _train_as_rank)(flags)
    except SignalException as error:  # passed on to the processes, which have ended: at once, or 30 s later by force
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == INTERRUPTED:
            raise KeyboardInterrupt from error
        message = failure.message["message"] if isinstance(failure.message, Mapping) else failure.message
        said = (str(message).strip().splitlines() or [""])[-1]
        raise UserError(
            f"process {rank} of {processes} ended with exit code {failure.exitcode} ({said}); the others were stopped. "
            "The run continues from its last checkpoint with --resume"
        ) from error
    result, mistake = results[0]
    if mistake is not None:
        raise UserError(mistake)
    return result


def _train_as_rank(flags: LowLevelFlags) -> tuple[Result, str | None]:
    """Train as one of several processes; a user's mistake comes back as its text.

    An interrupt has an exit code: a launcher that has passed the signal on reads no more answers, and one that has not
    would wait for the answer of a process that ended without one.
    """
    from motionlex.controllers.low_level import train_low_level
    from motionlex.data.errors import UserError

    if os.environ["RANK"] == "0":
        start_logging()
    try:
        return train_low_level(flags), None
    except UserError as error:
        return {}, str(error)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
