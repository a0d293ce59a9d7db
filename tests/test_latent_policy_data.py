"""Training examples: which starts, whose codes, what history; and training that resumes exactly."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from motionlex.controllers.condition_encoder import LatentPolicyConfig
from motionlex.controllers.conditions import WINDOW, path_features, to_local
from motionlex.controllers.latent_data import NO_CORRUPTION, Captions, Corruption, DistillationSet, lay_out
from motionlex.controllers.latent_policy import LatentPolicy
from motionlex.controllers.latent_training import LatentTrainer, OptimiserConfig, evaluate_policy, learning_rate
from motionlex.data import quaternion
from motionlex.data.errors import UserError
from motionlex.data.features import to_heading
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot


@pytest.fixture(scope="module")
def examples(toy_clips, tiny_autoencoder):
    timeline = lay_out(toy_clips, ForwardKinematics(get_robot("h1")))
    return DistillationSet(
        timeline, tiny_autoencoder, samples=2, max_segments=1000, generator=torch.Generator().manual_seed(0)
    )


def two_captions():
    rows = torch.nn.functional.normalize(torch.randn(2, 3, 1, 384, generator=torch.Generator().manual_seed(1)), dim=-1)
    return Captions(embeddings=(rows[0], rows[1]))


def test_starts_are_all_frames_whose_window_has_one_label(examples):
    """Clips of 200 frames: 169 starts fit; in the second, those whose 24 frames cross frame 90 drop out."""
    expected = np.concatenate([np.arange(169), 200 + np.arange(0, 67), 200 + np.arange(90, 169)])
    np.testing.assert_array_equal(examples.starts, expected)
    assert examples.timeline.labels == ("stand", "wave")
    assert examples.codes.shape == (338, 2, 64)


def test_starts_just_after_a_change_of_label_are_favoured(examples):
    starts, label = examples.starts, examples.timeline.label[examples.starts]
    wave = label == 1
    ratio = examples.weights[wave].max() / examples.weights[wave].min()
    assert ratio == pytest.approx(3.0)
    assert (examples.weights[wave] == examples.weights[wave].max()).sum() == (starts[wave] < 290 + 48).sum()
    assert examples.weights.sum() == pytest.approx(1.0)


def test_clean_history_is_the_data_in_the_heading_of_the_start(examples, toy_clips):
    start = np.array([200 + 120])
    got = examples.history(start, np.array([False]))[0]
    world = examples.timeline.features[start[0] - 31 : start[0] + 1]
    expected = examples.statistics.standardise(to_heading(world[None], reference_frame=31)[0][0])
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_history_never_reaches_into_another_clip(examples):
    start = np.array([205])
    got = examples.history(start, np.array([True]))[0]
    first_of_clip = examples.timeline.features[200]
    world = np.concatenate([np.repeat(first_of_clip[None], 26, axis=0), examples.timeline.features[200:206]])
    expected = examples.statistics.standardise(to_heading(world[None], reference_frame=31)[0][0])
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_reconstructed_history_joins_the_halves_of_the_two_segments_before(examples, tiny_autoencoder):
    start = 150
    got = examples.history(np.array([start]), np.array([True]))[0]
    decoded = tiny_autoencoder.decode_features(examples.codes[[start - 32, start - 16], 0].long())
    # The toy root never turns, so that decoded heading frames and the world agree.
    joined = np.concatenate([decoded[0, 1:16], decoded[1, :17]])
    expected = examples.statistics.standardise(to_heading(joined[None], reference_frame=31)[0][0])
    np.testing.assert_allclose(got, expected, atol=2e-4)


def test_conditions_of_a_straight_walk_have_a_straight_path(examples):
    start = np.array([200 + 120])
    rng = np.random.default_rng(0)
    quiet = Corruption(path_dropout=0.0, yaw_dropout=0.0, path_noise=0.0, text_dropout_on_path=0.0, history_noise=0.0)
    conditions = examples.conditions(start, torch.zeros(1, 1, 384), quiet, rng)
    path, past = conditions.path[0].double().numpy(), conditions.com_past[0].double().numpy()
    # 0.5 m/s at 50 Hz; the swinging arms move the centre of mass by less than a centimetre
    np.testing.assert_allclose(path[:, 0], 0.01 * np.arange(1, 33), atol=0.02)
    np.testing.assert_allclose(past[:, 0], 0.01 * np.arange(-31, 1), atol=0.02)
    np.testing.assert_array_equal(past[-1], 0)
    np.testing.assert_array_equal(path[:, 3], 1)
    assert conditions.has_path.all() and conditions.has_text.all()


def test_shares_of_withheld_conditions(examples):
    conditions, codes = examples.batch(2000, two_captions(), Corruption(), np.random.default_rng(0))
    # four standard errors of a binomial share of 2000
    text, path = conditions.has_text.float(), conditions.has_path
    assert abs(float(text[~path].mean()) - 0.9) < 4 * 0.3 / 31
    assert abs(float(text[path].mean()) - 0.7) < 4 * 0.46 / 31
    assert abs(float(conditions.has_path.float().mean()) - 0.5) < 4 * 0.5 / 44
    assert codes.shape == (2000, 64) and codes.dtype == torch.long
    clean, _ = examples.batch(50, two_captions(), NO_CORRUPTION, np.random.default_rng(0))
    assert clean.has_text.all() and not clean.has_path.any()


def test_on_a_path_walks_exchange_their_captions_and_nothing_else_does(examples):
    """The first draw of a batch is that of its starts: a copy of the generator tells what their labels are."""
    labels = ("stand", "walk_fast", "walk_slow")
    rows = torch.eye(384)[:3].reshape(3, 1, 1, 384)
    said, wanted, path = [], [], []

    class Spy(Captions):
        def draw(self, drawn, rng):
            said.append(drawn)
            return super().draw(drawn, rng)

    captions = Spy(embeddings=tuple(rows))
    corruption = replace(NO_CORRUPTION, path_dropout=0.5, walk_exchange=0.6)
    renamed = copy.copy(examples)
    renamed.timeline = replace(examples.timeline, labels=labels, label=np.where(examples.timeline.label == 0, 0, 1))
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = rng.bit_generator.state
        shadow = np.random.default_rng()
        shadow.bit_generator.state = state
        starts = shadow.choice(renamed.starts, size=200, p=renamed.weights)
        conditions, _ = renamed.batch(200, captions, corruption, rng)
        wanted.append(renamed.timeline.label[starts])
        path.append(conditions.has_path.numpy())
    said, wanted, path = (np.concatenate(column) for column in (said, wanted, path))
    assert (said[wanted == 0] == 0).all() and (said[~path] == wanted[~path]).all()
    other = said[path & (wanted == 1)] == 2
    assert other.mean() == pytest.approx(0.6 / 2, abs=4 * 0.46 / np.sqrt(len(other)))


def test_unlabelled_clips_are_refused(toy_clips, tiny_autoencoder):
    timeline = lay_out([replace(toy_clips[0], labels=())], ForwardKinematics(get_robot("h1")))
    with pytest.raises(UserError, match="labels"):
        DistillationSet(timeline, tiny_autoencoder, samples=1, max_segments=10, generator=torch.Generator())


def test_a_resumed_run_is_the_same_run_bit_for_bit(examples, tiny_autoencoder):
    def new_trainer():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            policy = LatentPolicy(
                LatentPolicyConfig(vocabulary=8, features=examples.statistics.size, width=16, layers=1, heads=2)
            )
        return LatentTrainer(
            policy,
            examples,
            two_captions(),
            schedule_steps=8,
            seed=3,
            optimiser=OptimiserConfig(batch=4, warmup_steps=2),
            corruption=Corruption(),
        )

    whole = new_trainer()
    losses = [whole.advance() for _ in range(8)]
    first = new_trainer()
    for _ in range(5):
        first.advance()
    import io

    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    buffer.seek(0)
    second = new_trainer()
    second.restore(torch.load(buffer, weights_only=True))
    assert [second.advance() for _ in range(3)] == losses[5:]
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, second.policy.state_dict()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name


def test_measures_withhold_what_their_names_say(examples, monkeypatch):
    """Logits that are worth 1 nat where there is text and 2 where there is a path: losses by hand."""
    policy = LatentPolicy(
        LatentPolicyConfig(vocabulary=8, features=examples.statistics.size, width=16, layers=1, heads=2)
    )

    def logits(conditions, codes):
        worth = conditions.has_text.float() + 2.0 * conditions.has_path.float()
        return torch.nn.functional.one_hot(codes, 8) * worth[:, None, None]

    monkeypatch.setattr(policy, "logits", logits)
    found = evaluate_policy(policy, examples, two_captions(), seed=0, segments=128)

    def loss(worth):
        return np.log(np.exp(worth) + 7.0) - worth

    assert found["nats_per_token"] == pytest.approx(loss(1.0), rel=1e-5)
    assert found["nats_per_token_shuffled_text"] == pytest.approx(loss(1.0), rel=1e-5)
    assert found["nats_per_token_without_text"] == pytest.approx(loss(0.0), rel=1e-5)
    assert found["nats_per_token_with_path"] == pytest.approx(loss(3.0), rel=1e-5)
    assert found["nats_per_token_path_alone"] == pytest.approx(loss(2.0), rel=1e-5)
    assert found["code_accuracy"] == 1.0


def test_learning_rate_rises_falls_and_rests():
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=10, final_share=0.1)
    assert learning_rate(0, 100, config) == pytest.approx(0.1)
    assert learning_rate(50, 100, config) == pytest.approx(0.55)
    assert learning_rate(100, 100, config) == learning_rate(500, 100, config) == pytest.approx(0.1)


def test_local_frame_by_hand():
    points = np.array([[1.0, 2.0], [1.0, 3.0]])
    local = to_local(points, np.array([1.0, 2.0]), np.array(np.pi / 2))
    np.testing.assert_allclose(local, [[0, 0], [1, 0]], atol=1e-12)
    assert quaternion.wrap_angle(np.array([3 * np.pi / 2]))[0] == pytest.approx(-np.pi / 2)
    path = path_features(
        np.ones((WINDOW, 2)), np.full(WINDOW, 3.0), np.array(False), np.array([1.0, 0.0]), np.array(0.0)
    )
    np.testing.assert_allclose(path[0], [0, 1, 0, 0])
