"""Pack an autoencoder, a latent policy and a low-level policy into one bundle."""

from __future__ import annotations

from collections.abc import Sequence

from motionlex.controllers.packing import PackFlags, pack_bundle
from motionlex.scripts.common import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``motionlex pack-bundle``."""
    return run_cli(PackFlags, pack_bundle, argv, "motionlex pack-bundle")
