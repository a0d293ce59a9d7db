"""Similar moments: brute force, limits, and what an example of the latent policy is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from motionlex.controllers.latent_data import NO_CORRUPTION, Captions, DistillationSet, lay_out
from motionlex.controllers.similar_moments import draw_similar, nearest_by_label, usual_change
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot


def brute_force(features, label, frame, labels, limit, apart):
    found = np.full((len(features), labels), -1)
    for row, x in enumerate(features):
        for other in range(labels):
            best = limit
            for candidate, y in enumerate(features):
                distance = float(np.sqrt(np.mean((x - y) ** 2)))
                if label[candidate] == other and abs(frame[candidate] - frame[row]) >= apart and distance <= best:
                    best, found[row, other] = distance, candidate
    return found


@pytest.mark.parametrize(("limit", "apart"), [(0.9, 1), (0.9, 7), (0.4, 3), (100.0, 30)])
def test_the_most_similar_moment_of_every_label_is_found(limit, apart):
    rng = np.random.default_rng(0)
    features, label = rng.standard_normal((60, 5)), rng.integers(0, 3, 60)
    frame = 2 * np.arange(60)
    found = nearest_by_label(features, label, frame, 4, limit=limit, apart=apart)
    np.testing.assert_array_equal(found, brute_force(features, label, frame, 4, limit, apart))
    assert (found[:, 3] == -1).all()  # nothing carries the fourth label


def test_usual_change_of_straight_lines():
    """Rows move by 1, 2, 3, 4, 5 in both features: their median is 3."""
    speed = np.arange(1.0, 6.0)[:, None] * np.ones((1, 2))
    assert usual_change(np.zeros((5, 2)), speed) == pytest.approx(3.0)


def test_draws_are_even_over_the_labels_that_have_one():
    found = np.array([[4, -1, 7, 9], [-1, -1, -1, -1]])
    drawn = draw_similar(found, np.repeat([0, 1], 3000), np.random.default_rng(1))
    counts = np.array([np.sum(drawn[:3000] == moment) for moment in (4, 7, 9)])
    assert counts.sum() == 3000 and (np.abs(counts - 1000) < 130).all()  # 5 standard deviations
    assert (drawn[3000:] == 1).all()


@pytest.fixture(scope="module")
def examples(toy_clips, tiny_autoencoder):
    timeline = lay_out(toy_clips, ForwardKinematics(get_robot("h1")))
    return DistillationSet(
        timeline, tiny_autoencoder, samples=1, max_segments=10_000, generator=torch.Generator().manual_seed(0)
    )


def test_an_exchanged_example_has_the_past_of_one_moment_and_the_future_of_another(examples):
    captions = Captions(embeddings=tuple(torch.ones(1, 1, 384) for _ in examples.timeline.labels))
    exchanged = replace(NO_CORRUPTION, history_exchange=1.0, path_dropout=0.0)
    rows = np.arange(len(examples.starts))
    examples._similar = np.full((len(rows), 2), -1)
    examples._similar[:, 1] = (rows + 37) % len(rows)  # whatever they look like
    mixed, codes = examples.batch(64, captions, exchanged, np.random.default_rng(5))
    chosen = np.random.default_rng(5).choice(len(rows), size=64, p=examples.weights)
    past, future = examples.starts[(chosen + 37) % len(rows)], examples.starts[chosen]
    own = np.random.default_rng(0)
    np.testing.assert_allclose(mixed.history, examples.history(past, np.zeros(64, dtype=bool)), atol=1e-6)
    before = examples.conditions(past, mixed.text, replace(NO_CORRUPTION, path_dropout=0.0), own)
    after = examples.conditions(future, mixed.text, replace(NO_CORRUPTION, path_dropout=0.0), own)
    np.testing.assert_array_equal(mixed.com_past, before.com_past)
    np.testing.assert_array_equal(mixed.path[..., :2], after.path[..., :2])
    np.testing.assert_array_equal(codes, examples.codes[examples._row[future], 0])
