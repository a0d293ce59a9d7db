"""Metrics of a run: bounds against enumeration, codes and errors by hand, figures by their pixels."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from motionlex.data.datasets import MotionData
from motionlex.data.errors import UserError
from motionlex.data.features import JOINTS, LINEAR_VELOCITY
from motionlex.data.kinematics import ForwardKinematics
from motionlex.data.robots import get_robot
from motionlex.data.segments import SegmentSource
from motionlex.motion_vae import metrics
from motionlex.motion_vae.bounds import iwae_bounds, log_importance_weights
from motionlex.motion_vae.checkpoint import TrainedAutoencoder
from motionlex.motion_vae.contract import Codes, DiscreteAutoencoder
from motionlex.motion_vae.evaluation import EvaluateFlags, evaluate_run
from motionlex.motion_vae.measurement import Measured, by_category, describe_size, measure, summarise
from motionlex.motion_vae.registry import available_methods, build_model, get_preset, override
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain
from motionlex.motion_vae.trajectories.poses import PoseErrors, pose_errors, segment_poses
from motionlex.motion_vae.trajectories.strips import HEADER_PIXELS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kinematics():
    return ForwardKinematics(get_robot("h1"))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enumerated():
    """A tiny model with one x, and ln q(z|x) and ln p(x, z) of all its 3^2 code sequences."""
    settings = ("width=8", "heads=2", "layers=1", "generator_layers=1", "mlp_ratio=2", "vocabulary=3")
    config = override(get_preset("daps", "small"), settings).method
    model = build_model("daps", config, TrajectoryDomain(frames=1, features=3), seed=0).double().eval()
    with torch.no_grad():
        x = torch.randn(1, 1, 3, generator=generator(), dtype=torch.float64)
        codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
        log_q = model.recognition.log_prob(codes[None], model.recognition.memory(x))[0]
        log_p = model.decode_embeddings(model.embed(codes)).log_prob(x) - 2 * math.log(3)
    return model, x, log_q, log_p


def expected_bound(log_q, log_p, samples):
    """E ln (1/K) sum_k w_k over all K-tuples of sequences."""
    total = 0.0
    for chosen in itertools.product(range(len(log_q)), repeat=samples):
        index = torch.tensor(chosen)
        weight = (log_p - log_q)[index].exp().mean().log()
        total += (log_q[index].sum().exp() * weight).item()
    return total


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_bound_has_the_enumerated_expectation(enumerated, samples):
    model, x, log_q, log_p = enumerated
    assert log_q.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    repeated = 20_000
    bounds = iwae_bounds(model, x.expand(repeated, -1, -1), samples, generator(1), batch=4096)
    error = bounds.std().item() / repeated**0.5
    # four standard errors: one false alarm in 16,000 draws of the seed
    assert bounds.mean().item() == pytest.approx(expected_bound(log_q, log_p, samples), abs=4 * error)


def test_bound_rises_from_the_elbo_to_the_evidence(enumerated):
    model, x, log_q, log_p = enumerated
    elbo = (log_q.exp() * (log_p - log_q)).sum().item()
    evidence = torch.logsumexp(log_p, dim=0).item()
    found = [expected_bound(log_q, log_p, samples) for samples in (1, 2, 3)]
    assert found[0] == pytest.approx(elbo, abs=1e-9)
    many = iwae_bounds(model, x.expand(200, -1, -1), 200, generator(1), batch=100).mean().item()
    assert found[0] < found[1] - 1e-3 < found[2] - 2e-3 < many < evidence + 1e-2
    assert many == pytest.approx(evidence, abs=0.05)  # the gap falls as 1/K


def test_samples_are_drawn_in_bounded_chunks(enumerated):
    model, x, _, _ = enumerated
    rows = []
    handle = model.recognition.encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    x = x.expand(4, -1, -1)
    weights = log_importance_weights(model, x, 7, generator(), largest_rows=12)
    handle.remove()
    assert rows == [12, 12, 4] and weights.shape == (4, 7)
    few = log_importance_weights(model, x, 2, generator(), largest_rows=1)
    assert few.shape == (4, 2)


def test_each_row_weighs_its_own_example(enumerated):
    """An x that no code explains has low weights in its own row and nowhere else."""
    model, x, _, _ = enumerated
    pair = torch.cat((x, x + 20.0))
    weights = log_importance_weights(model, pair, 5, generator())
    assert weights[1].max() < weights[0].min() - 100.0


def test_a_deterministic_encoder_has_no_bound():
    model = build_model("vqvae", get_preset("vqvae", "small").method, TrajectoryDomain(frames=2, features=3), seed=0)
    assert iwae_bounds(model, torch.zeros(2, 2, 3), 3, generator(), batch=2) is None


# --- statistics ------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_scipy():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=50)
    expected = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    assert metrics.normal_interval(torch.from_numpy(values)) == pytest.approx(expected, rel=1e-12)
    few = [30.1, 30.9, 29.7]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(few), scale=stats.sem(few))
    mean, half = metrics.student_interval(few)
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)
    # t of two degrees of freedom at 97.5 %, from printed tables
    assert metrics.student_interval([-1.0, 0.0, 1.0])[1] == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert metrics.student_interval([5.0]) == (5.0, None)


def test_counts_by_position():
    counts = metrics.position_counts(torch.tensor([[0, 2], [0, 1], [3, 1]]), 4)
    assert counts.tolist() == [[2, 0, 0, 1], [0, 2, 1, 0]]
    assert metrics.bits_per_segment(64, 1024) == 640.0


class Scripted(DiscreteAutoencoder):
    """Gives scripted codes and a scripted reconstruction; likelihood Normal(mean, 1)."""

    def __init__(self, scripts, shift, vocabulary=4):
        super().__init__()
        self.domain, self.scripts, self.shift = TrajectoryDomain(), list(scripts), shift
        self.vocabulary, self.tokens = vocabulary, len(scripts[0][0])
        self.unused = torch.nn.Linear(3, 2)

    def encode(self, x, generator):
        indices = torch.tensor(self.scripts.pop(0))
        self.mean = x + self.shift
        return Codes(indices=indices, embeddings=indices[..., None].float())

    def decode_embeddings(self, embeddings):
        return torch.distributions.Independent(torch.distributions.Normal(self.mean, 1.0), 2)

    def embed(self, indices):
        return indices[..., None].float()

    def loss(self, x, generator, *, progress):
        raise NotImplementedError

    def kl_to_prior(self, x, codes):
        return torch.arange(float(len(x)))

    def parameter_groups(self):
        return ()

    @property
    def final_beta(self):
        return 0.5


@pytest.fixture(scope="module")
def source(toy_clips, tiny_autoencoder, kinematics):
    clips = (replace(toy_clips[0], name="walk1_subject5"), replace(toy_clips[1], name="dance_arms_0"))
    return SegmentSource(clips, tiny_autoencoder.statistics, kinematics=kinematics)


def scripted(scripts, trained, shift=0.0):
    return TrainedAutoencoder(
        model=Scripted(scripts, shift), statistics=trained.statistics, config=trained.config, meta={}
    )


def run_measure(trained, source, batches=2, batch=2, keypoint_segments=3):
    return measure(
        trained, source, batches=batches, batch=batch, keypoint_segments=keypoint_segments, seed=0, device=CPU
    )


def test_codes_per_batch_and_in_all_by_hand(tiny_autoencoder, source):
    """The first batch uses code 0 alone, the second codes 1 and 2 evenly."""
    trained = scripted([[[0, 0], [0, 0]], [[1, 2], [1, 2]]], tiny_autoencoder, shift=0.1)
    result = summarise(run_measure(trained, source), trained.model)
    assert result["usage_per_batch"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert result["perplexity_per_batch"] == pytest.approx((1 + 2) / 2)
    assert result["usage"] == pytest.approx(3 / 4)
    assert result["perplexity"] == pytest.approx(math.exp(0.5 * math.log(2) + 2 * 0.25 * math.log(4)))
    assert result["perplexity_per_token"] == pytest.approx(2.0)  # each position sees two codes evenly
    # log N(0.1; 0, 1) per element, KL 0 and 1 per example
    log_likelihood = stats.norm.logpdf(0.1) * 32 * trained.statistics.size
    assert result["log_likelihood"] == pytest.approx(log_likelihood, rel=1e-5)
    assert result["kl_nats"] == 0.5 and result["beta"] == 0.5
    assert result["beta_elbo"] == pytest.approx(log_likelihood - 0.25, rel=1e-5)
    assert result["elbo_nats"] == pytest.approx(log_likelihood - 0.5, rel=1e-5)
    assert describe_size(trained.model) == {
        "tokens": 2, "vocabulary": 4, "bits_per_segment": 4.0, "parameters": 8, "parameters_by_part": {"unused": 8}
    }  # fmt: skip


def test_both_poolings_of_psnr_by_hand():
    """Errors 1e-2 and 1e-4 in one batch: -10 log10 of their mean, and the mean of 20 and 40 dB."""
    measured = Measured(
        batch_error=[(1e-2 + 1e-4) / 2], batch_error_of_mean=[0.1], log_likelihood=[0.0], kl=[0.0],
        segment_errors=[torch.tensor([1e-2, 1e-4], dtype=torch.float64)],
    )  # fmt: skip
    result = summarise(measured, Scripted([[[0]]], 0.0))
    assert result["psnr_db"] == pytest.approx(20 - 10 * math.log10(0.505))
    assert result["psnr_per_segment_db"] == pytest.approx(30.0)
    assert result["psnr_of_training_mean_db"] == pytest.approx(10.0)


# --- segments, categories and poses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("walk1_subject5", "walk"), ("fightAndSports1_subject1", "fightAndSports"), ("jumps1_subject2#1", "jumps"),
        ("walk_turn_left_2", "walk_turn_left"), ("medley_held_out_00", "medley_held_out"), ("dance:5-10", "dance"),
        ("2walk", "other"),
    ],
)  # fmt: skip
def test_category_of_a_name(toy_clips, name, category):
    assert replace(toy_clips[0], name=name).category == category


def test_drawn_segments_are_of_the_clips_that_are_told(source):
    segments, clips = source.sample_with_clips(40, generator())
    assert torch.equal(segments, source.sample(40, generator()))
    assert set(clips.tolist()) == {0, 1}
    for clip in (0, 1):
        everything = torch.stack([source.segment(clip, int(start)) for c, start in source.starts if c == clip])
        for segment in segments[clips == clip][:5]:
            assert (everything == segment).all(dim=(1, 2)).any()


def test_categories_partition_the_segments(tiny_autoencoder, source):
    trained = scripted([[[0, 1]] * 20] * 3, tiny_autoencoder, shift=0.05)
    measured = run_measure(trained, source, batches=3, batch=20, keypoint_segments=25)
    joint, keypoint = np.random.default_rng(0).random((2, 25))
    table = by_category(measured, PoseErrors(joint_rad=joint, keypoint_mm=keypoint), ["walk", "dance_arms"])
    assert list(table) == ["dance_arms", "walk"]
    assert sum(row["segments"] for row in table.values()) == 60
    assert sum(row["keypoint_segments"] for row in table.values()) == 25
    for name, errors in (("joint_error_rad", joint), ("keypoint_error_mm", keypoint)):
        total = sum(row[name] * row["keypoint_segments"] for row in table.values())
        assert total / 25 == pytest.approx(errors.mean())
    overall = summarise(measured, trained.model)["psnr_per_segment_db"]
    assert sum(r["psnr_per_segment_db"] * r["segments"] for r in table.values()) / 60 == pytest.approx(overall)


def test_a_category_without_poses_says_so(tiny_autoencoder, source):
    measured = run_measure(scripted([[[0, 1]] * 8], tiny_autoencoder), source, batches=1, batch=8)
    first = int(measured.clips[0][0])
    measured.clips = [np.array([first] + [1 - first] * 7)]
    errors = PoseErrors(joint_rad=np.array([0.1]), keypoint_mm=np.array([2.0]))
    table = by_category(measured, errors, ["a", "b"])
    other = table["ab"[1 - first]]
    assert (other["segments"], other["keypoint_segments"], other["joint_error_rad"]) == (7, 0, None)
    assert table["ab"[first]]["keypoint_error_mm"] == 2.0


def test_pose_errors_of_known_changes(source, kinematics):
    """0.19 rad on one of 19 hinges is 0.01 rad on average; 0.1 m/s too fast is 62 mm after 31 frames, 31 on average."""
    statistics = source.statistics
    truth = source.sample(3, generator()).numpy()
    features = statistics.destandardise(truth.astype(np.float64))
    bent, fast = features.copy(), features.copy()
    bent[1, :, JOINTS.start + 3] += 0.19
    fast[2, :, LINEAR_VELOCITY.start] += 0.1
    errors = pose_errors(truth, statistics.standardise(bent), statistics, kinematics)
    np.testing.assert_allclose(errors.joint_rad, [0.0, 0.01, 0.0], atol=1e-6)  # float32 features
    errors = pose_errors(truth, statistics.standardise(fast), statistics, kinematics)
    np.testing.assert_allclose(errors.keypoint_mm, [0.0, 0.0, 31.0], atol=1e-3)
    assert np.abs(errors.joint_rad).max() < 1e-6


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", available_methods())
def test_every_method_is_measured(method, tiny_autoencoder, source, kinematics):
    """The recipe's own model, untrained: all numbers are there and in their ranges, and nothing depends on the run."""
    statistics = tiny_autoencoder.statistics
    model = build_model(method, get_preset(method, "small").method, TrajectoryDomain(features=statistics.size), seed=0)
    trained = TrainedAutoencoder(
        model=model.eval().requires_grad_(False), statistics=statistics, config=tiny_autoencoder.config, meta={}
    )
    measured = run_measure(trained, source, batches=1, batch=2, keypoint_segments=2)
    result = {**summarise(measured, model), **describe_size(model)}
    assert result["psnr_db"] > 0.0 and math.isfinite(result["log_likelihood"]) and result["kl_nats"] >= 0.0
    truth, decoded = measured.poses(2)
    assert truth.shape == decoded.shape == (2, 32, statistics.size)
    assert segment_poses(decoded, statistics).shape == (2, 32, 26)
    if model.discrete:
        assert measured.counts.shape == (model.tokens, model.vocabulary) and measured.counts.sum() == 2 * model.tokens
        assert 0.0 < result["usage_per_batch"] <= result["usage"] <= 1.0
        assert result["bits_per_segment"] == pytest.approx(model.tokens * math.log2(model.vocabulary))
    else:
        assert result["usage"] is None and result["bits_per_segment"] is None
    bounds = iwae_bounds(model, source.sample(2, generator()), 2, generator(), batch=2)
    codes = model.encode(source.sample(2, generator()), generator())
    assert (bounds is None) == (codes.log_prob is None)


@pytest.fixture
def toy_data(monkeypatch, toy_clips):
    data = MotionData(name="toy", train=toy_clips, validation=toy_clips, hz=50.0)
    monkeypatch.setattr("motionlex.motion_vae.evaluation.load_dataset", lambda name, root, hz: data)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


SMALL = {"batches": 2, "batch": 4, "keypoint_segments": 5, "iwae_samples": 3, "iwae_segments": 6}


def test_a_run_is_evaluated_with_figures(toy_data, tiny_vae_run, tmp_path, monkeypatch, capsys):
    from motionlex.scripts.evaluate_motion_vae import main, pose_renderer

    monkeypatch.setenv("MUJOCO_GL", "disable")  # the painter that works everywhere
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main([str(tiny_vae_run), *flags, "--figures", "--figure-segments=2", f"--out={tmp_path}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "evaluation.json").read_text())
    assert result["segments"] == 8 and set(result["categories"]) == {"a", "b"}
    low, high = result["iwae_95_nats"]
    assert low < result["iwae_nats"] < high
    names = ("code_usage.png", "reconstruction_0.png", "reconstruction_1.png")  # the fixture has no logs of training
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(names)
    assert result["figures"] == [str(tmp_path / "figures" / name) for name in names]
    strip = pixels(tmp_path / "figures" / "reconstruction_0.png")
    assert strip.shape == (HEADER_PIXELS + 2 * 224, 8 * 160, 3)
    sky, body = np.array([214, 222, 232]), strip[HEADER_PIXELS:]
    for row, column in itertools.product(range(2), range(8)):
        cell = body[224 * row : 224 * (row + 1), 160 * column : 160 * (column + 1)]
        assert 0.1 < (np.abs(cell - sky).sum(axis=2) > 30).mean() < 0.9  # a robot in front of the sky
    assert pose_renderer()(np.array([0, 0, 1.0, 1, 0, 0, 0, *[0.0] * 19])).shape == (224, 160, 3)


def test_the_result_does_not_depend_on_what_else_is_measured(toy_data, tiny_vae_run, tmp_path):
    with_bound = evaluate_run(tiny_vae_run, EvaluateFlags(**SMALL, out=tmp_path))
    without = evaluate_run(tiny_vae_run, EvaluateFlags(**{**SMALL, "iwae_samples": 0}, out=tmp_path))
    assert without["iwae_nats"] is None
    assert {k: v for k, v in with_bound.items() if "iwae" not in k} == {
        k: v for k, v in without.items() if "iwae" not in k
    }


def test_a_bundle_gets_no_further_files(toy_data, tiny_bundle, tmp_path):
    before = sorted(tiny_bundle.rglob("*"))
    with pytest.raises(UserError, match=r"is part of the bundle .* give another --out"):
        evaluate_run(tiny_bundle / "vae", EvaluateFlags(**SMALL))
    evaluate_run(tiny_bundle / "vae", EvaluateFlags(**SMALL, out=tmp_path))
    assert sorted(tiny_bundle.rglob("*")) == before and (tmp_path / "evaluation.json").is_file()


def test_mistakes_are_found_before_anything_is_measured(toy_data, tiny_vae_run, tmp_path):
    (tmp_path / "file").write_text("")
    for changes, message in (
        ({"out": tmp_path / "file"}, "is no folder; give another --out"),
        ({"iwae_samples": -1}, "--iwae-samples must be at least 0"),
        ({"iwae_segments": 1}, "--iwae-segments must be at least 2"),
        ({"figure_segments": 0}, "--figure-segments must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_run(tiny_vae_run, EvaluateFlags(**{**SMALL, **changes}))
    config = json.loads((tiny_vae_run / "config.json").read_text())
    run = tmp_path / "image"
    run.mkdir()
    config["domain"] = {"kind": "image", "height": 4, "width": 4}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="not motion"):
        evaluate_run(run, EvaluateFlags(**SMALL))
