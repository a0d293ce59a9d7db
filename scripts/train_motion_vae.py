"""Train a discrete autoencoder of motion segments; under torchrun, one process per part of the batch."""

import contextlib
import os
import sys
from collections.abc import Sequence

from motionlex.motion_vae.distributed import launched_rank
from motionlex.motion_vae.training import TrainFlags, train
from motionlex.scripts.common import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; of several ranks only the first prints a result, and errors name their rank."""
    rank = launched_rank()
    if rank == 0:
        return run_cli(TrainFlags, train, argv, "train_motion_vae")
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        return run_cli(TrainFlags, train, argv, f"train_motion_vae (rank {rank})")


if __name__ == "__main__":
    sys.exit(main())
