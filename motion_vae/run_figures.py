"""The figures of one run: import this module only where they are wanted, since matplotlib is slow to import."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from motionlex.data.segments import SegmentSource
from motionlex.motion_vae import figures
from motionlex.motion_vae.checkpoint import TrainedAutoencoder
from motionlex.motion_vae.measurement import Measured
from motionlex.motion_vae.trajectories.poses import segment_poses
from motionlex.motion_vae.trajectories.strips import Renderer, one_of_each, reconstruction_strip


def draw_run(
    folder: Path,
    run: Path,
    measured: Measured,
    trained: TrainedAutoencoder,
    source: SegmentSource,
    *,
    segments: int,
    renderer: Callable[[], Renderer] | None,
) -> list[Path]:
    """Write training_curves.png, code_usage.png and reconstruction_<number>.png.

    Those without material (no logs of training, no codes, no renderer) are left out.

    Args:
        folder: Where to.
        run: The run, whose logs are read.
        measured: Counts of codes, originals and reconstructions.
        trained: Gives the statistics.
        source: Names the clips.
        segments: Strips of the robot, one per category of clips first.
        renderer: Makes what paints a pose.

    Returns:
        The files.
    """
    drawn: list[Path] = []
    if curves := figures.read_curves(run / "tensorboard"):
        drawn.append(figures.save(figures.training_curves(curves), folder / "training_curves.png"))
    if measured.counts is not None:
        drawn.append(figures.save(figures.code_usage(measured.counts.numpy()), folder / "code_usage.png"))
    if renderer is None:
        return drawn
    render, hz = renderer(), trained.statistics.hz
    truth, decoded = measured.poses(None)
    names = [source.clips[clip].category for clip in np.concatenate(measured.clips)[: len(truth)]]
    for number, index in enumerate(one_of_each(names, segments)):
        poses = [segment_poses(values[index : index + 1], trained.statistics)[0] for values in (truth, decoded)]
        strip = reconstruction_strip(poses[0], poses[1], render, hz=hz, title=names[index])
        drawn.append(figures.save_picture(strip, folder / f"reconstruction_{number}.png"))
    return drawn
