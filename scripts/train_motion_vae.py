"""Train a discrete autoencoder of motion segments (DAPS, VQ-VAE)."""

import sys
from collections.abc import Sequence

from motionlex.motion_vae.training import TrainFlags, train
from motionlex.scripts.common import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_cli(TrainFlags, train, argv, "train_motion_vae")


if __name__ == "__main__":
    sys.exit(main())
