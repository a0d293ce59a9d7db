"""Moments of other motions that look the same: where one motion could go on as another.

In motion that a program or an actor makes, what happened nearly decides what comes next, and a policy that is fitted to
it listens to nothing else. Exchanging the past of an example for that of a similar moment elsewhere leaves words and
path as the only explanation of the future.

Source: transitions between similar frames, motion graphs (Kovar et al. 2002) and motion matching (Buttner and Clavet
2015). Departure: they cut motions together at run time, here it makes training examples.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_ROWS = 1024


def usual_change(
    features: Float[np.ndarray, "frame feature"], later: Float[np.ndarray, "frame feature"], share: float = 0.5
) -> float:
    """Return the root mean square change of features from one set of moments to a later one that a share stays below.

    Args:
        features: Standardised features of moments.
        later: Those of the same motions a little later.
        share: Share of the moments, in (0, 1).
    """
    return float(np.quantile(np.sqrt(np.square(later - features).mean(axis=1)), share))


def nearest_by_label(
    features: Float[np.ndarray, "moment feature"],
    label: Int[np.ndarray, " moment"],
    frame: Int[np.ndarray, " moment"],
    labels: int,
    *,
    limit: float,
    apart: int,
) -> Int[np.ndarray, "moment label"]:
    """Find for every moment the most similar moment of every label.

    Args:
        features: Standardised features.
        label: Label index of each moment, in [0, labels).
        frame: Frame of each moment; those of one motion are consecutive.
        labels: How many labels there are.
        limit: Largest root mean square difference of the features.
        apart: Moments nearer than so many frames are no other moments.

    Returns:
        Index of the moment; -1 where none of that label is within the limit.
    """
    count, size = features.shape
    found = np.full((count, labels), -1, dtype=np.int64)
    x = features.astype(np.float32)
    squares = np.square(x).sum(axis=1)
    for other in range(labels):
        rows = np.flatnonzero(label == other)
        if not len(rows):
            continue
        for first in range(0, count, _ROWS):
            part = slice(first, min(first + _ROWS, count))
            distance = squares[part, None] + squares[rows] - 2.0 * x[part] @ x[rows].T
            distance[np.abs(frame[part, None] - frame[rows]) < apart] = np.inf
            best = distance.argmin(axis=1)
            near = distance[np.arange(len(best)), best] <= size * limit**2
            found[part, other] = np.where(near, rows[best], -1)
    return found


def draw_similar(
    found: Int[np.ndarray, "moment label"], moments: Int[np.ndarray, " batch"], rng: np.random.Generator
) -> Int[np.ndarray, " batch"]:
    """Draw a similar moment of a random label for each; a moment without one stays itself.

    Args:
        found: What :func:`nearest_by_label` returned.
        moments: Which moments.
        rng: Source of the draw.
    """
    rows = found[moments]
    score = np.where(rows >= 0, rng.random(rows.shape), -1.0)
    best = score.argmax(axis=1)
    drawn = rows[np.arange(len(rows)), best]
    return np.where(drawn >= 0, drawn, moments)
