"""Measure a trained autoencoder on held-out clips: PSNR, beta-ELBO, code usage, joint and key-point errors."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from motionlex.motion_vae.evaluation import EvaluateFlags, evaluate_run
from motionlex.scripts.common import run_cli


@dataclass(frozen=True, kw_only=True)
class Flags(EvaluateFlags):
    """Measure a run of train_motion_vae on held-out clips."""

    run: tyro.conf.Positional[Path]
    """Run folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_cli(Flags, lambda flags: evaluate_run(flags.run, flags), argv, "motionlex evaluate-motion-vae")


if __name__ == "__main__":
    sys.exit(main())
