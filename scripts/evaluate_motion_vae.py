"""Measure a trained autoencoder on held-out clips (PSNR, bounds, code usage, pose errors) and draw figures."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float, UInt8

from motionlex.motion_vae.evaluation import EvaluateFlags, evaluate_run
from motionlex.motion_vae.trajectories.strips import Renderer
from motionlex.scripts.common import run_cli

PICTURE_PIXELS = (160, 224)
"""Width and height of one picture of a strip."""


@dataclass(frozen=True, kw_only=True)
class Flags(EvaluateFlags):
    """Measure a run of train_motion_vae on held-out clips."""

    run: tyro.conf.Positional[Path]
    """Run folder."""


def pose_renderer() -> Renderer:
    """Make what paints a pose of the robot, by OpenGL where it is found, else as projected capsules."""
    from motionlex.data.robots import get_robot  # physics and viewers are slow to import, and few need them
    from motionlex.envs.simulator import Simulator
    from motionlex.envs.viewer import make_painter

    simulator = Simulator(get_robot("h1"))
    painter = make_painter(simulator.model, width=PICTURE_PIXELS[0], height=PICTURE_PIXELS[1])

    def render(qpos: Float[np.ndarray, " 26"]) -> UInt8[np.ndarray, "height width 3"]:
        simulator.reset(qpos, np.zeros(simulator.model.nv))
        return painter.paint(simulator.data)

    return render


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_cli(
        Flags, lambda flags: evaluate_run(flags.run, flags, pose_renderer), argv, "motionlex evaluate-motion-vae"
    )


if __name__ == "__main__":
    sys.exit(main())
