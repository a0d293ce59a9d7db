"""Write the low-level policy of a run or a bundle as one ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from motionlex.controllers.export import ExportFlags, export_policy
from motionlex.scripts.common import run_cli


@dataclass(frozen=True, kw_only=True)
class Flags(ExportFlags):
    """Write the low-level policy of a run or a bundle as one ONNX file."""

    target: tyro.conf.Positional[str | None] = None
    """Folder of a run of train_lowlevel or of a bundle; the built-in bundle when left out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``motionlex export``."""
    return run_cli(Flags, lambda flags: export_policy(flags.target, flags), argv, "motionlex export")
