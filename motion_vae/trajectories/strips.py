"""Strips of pictures of the robot: what was, above what came back from the codes."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

Renderer = Callable[[Float[np.ndarray, " 26"]], UInt8[np.ndarray, "height width 3"]]
"""A pose (qpos) -> a picture that shows the surroundings of x = y = 0."""
HEADER_PIXELS = 16
"""Height of the line of text above the pictures."""


def reconstruction_strip(
    truth: Float[np.ndarray, "frame 26"],
    decoded: Float[np.ndarray, "frame 26"],
    render: Renderer,
    *,
    hz: float,
    title: str,
    pictures: int = 8,
) -> UInt8[np.ndarray, "height width 3"]:
    """Paint evenly spaced frames of a segment, the original above its reconstruction.

    In every column both are shifted by the original's place, so that it stays in the middle and a reconstruction that
    drifts away is seen to do so.

    Args:
        truth: Poses of the original.
        decoded: Poses of the reconstruction.
        render: Paints a pose.
        hz: Frames per second.
        title: What it is, for the header.
        pictures: Columns; never more than frames.

    Returns:
        A header of ``HEADER_PIXELS`` rows with title and times, then the two rows of pictures.
    """
    frames = np.linspace(0, len(truth) - 1, min(pictures, len(truth))).round().astype(int)
    rows = []
    for poses in (truth, decoded):
        centred = poses[frames].copy()
        centred[:, :2] -= truth[frames, :2]
        rows.append(np.concatenate([render(pose) for pose in centred], axis=1))
    body = np.concatenate(rows)
    header = Image.new("RGB", (body.shape[1], HEADER_PIXELS), "white")
    draw, width = ImageDraw.Draw(header), body.shape[1] // len(frames)
    for column, frame in enumerate(frames):
        text = f"{title}, original above reconstruction, 0.00 s" if column == 0 else f"{frame / hz:.2f} s"
        if column == 0 or column * width > draw.textlength(f"{title}, original above reconstruction, 0.00 s") + 8:
            draw.text((column * width + 4, 2), text, fill="black")
    return np.concatenate((np.asarray(header), body))


def one_of_each(names: Sequence[str], count: int) -> list[int]:
    """Choose indices so that different names come first: the first of each name, then the others in order.

    Args:
        names: Category of every candidate.
        count: How many to choose, if there are as many.
    """
    firsts = [names.index(name) for name in dict.fromkeys(names)]
    others = [index for index in range(len(names)) if index not in set(firsts)]
    return (firsts + others)[:count]
