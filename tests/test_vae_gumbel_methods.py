"""Methods gumbel and gr_mck, with and without dependence between codes: bounds by enumeration, schedules, presets."""

import itertools
import math

import pytest
import torch
from gumbel_doubles import ERRORS, seeded, standard_error

from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.estimators import conditional_gumbels, gumbel_rao
from motionlex.motion_vae.losses import categorical_kl_to_uniform
from motionlex.motion_vae.methods.gr_mck import GumbelRaoConfig
from motionlex.motion_vae.methods.gumbel import GumbelConfig
from motionlex.motion_vae.registry import build_model, get_preset
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

SHAPE = TrajectoryDomain(frames=2, features=3)
NETWORKS = NetworkConfig(width=8, heads=2, layers=1, mlp_ratio=2, generator_layers=1)
METHODS = ("gumbel", "gumbel_na", "gr_mck", "gr_mck_na")


def tiny_model(method, *, dtype=torch.float64, **settings):
    config = get_preset(method, "small").method
    model = build_model(
        method, type(config)(factorisation=config.factorisation, vocabulary=3, networks=NETWORKS, **settings), SHAPE,
        seed=0,
    )  # fmt: skip
    return model.to(dtype)


def segment(batch=1, dtype=torch.float64):
    return torch.randn(1, SHAPE.frames, SHAPE.features, generator=seeded(4), dtype=dtype).expand(batch, -1, -1)


def enumerated(model, x):
    """All sequences of codes with their log q and log p, for one x."""
    sequences = torch.tensor(list(itertools.product(range(model.vocabulary), repeat=model.tokens)))
    memory = model.recognition.memory(x)
    log_q = model.recognition.log_prob(sequences.unsqueeze(0), memory)[0]
    log_p = model.decode_embeddings(model.embed(sequences)).log_prob(x)
    return sequences, log_q, log_p


@pytest.mark.parametrize("method", METHODS)
def test_mean_loss_is_the_enumerated_negative_beta_elbo(method):
    model = tiny_model(method, beta_start=1.7, beta_end=1.7)
    rows, x = 4000, segment()
    with torch.no_grad():
        for parameter in model.recognition.parameters():
            parameter.mul_(1.5)  # far enough from the uniform distribution for the KL to matter
        _, log_q, log_p = enumerated(model, x)
        q = log_q.exp()
        kl = q @ (log_q + model.tokens * math.log(model.vocabulary))
        one_hot, logits = model.relaxed_sample(model.recognition.memory(segment(rows)), seeded(), temperature=1.0)
        found = -model.decode_embeddings(one_hot @ model.codebook).log_prob(x) + 1.7 * categorical_kl_to_uniform(logits)
        assert kl > 0.1
        assert abs(found.mean() - (1.7 * kl - q @ log_p)) < ERRORS * standard_error(found)
        terms = model.loss(segment(rows), seeded(), progress=0.3)
    torch.testing.assert_close(terms.total, found.mean())  # the same generator gives the same draws


@pytest.mark.parametrize("method", METHODS)
def test_expected_kl_along_paths_is_the_enumerated_kl(method):
    model, x = tiny_model(method), segment()
    sequences, log_q, _ = enumerated(model, x)
    memory = model.recognition.memory(x)
    along = categorical_kl_to_uniform(model.recognition.logits(sequences.unsqueeze(0), memory))[0]
    exact = log_q.exp() @ (log_q + model.tokens * math.log(model.vocabulary))
    torch.testing.assert_close(log_q.exp() @ along, exact, rtol=1e-12, atol=1e-14)
    if method.endswith("_na"):  # factorised: every path gives the whole KL
        torch.testing.assert_close(along, exact.expand_as(along), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_reconstruction_alone_trains_both_networks(method):
    model = tiny_model(method, beta_start=1e-12, beta_end=1e-12)
    model.loss(segment(8), seeded(), progress=0.0).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-8, name


@pytest.mark.parametrize("method", METHODS)
def test_kl_alone_trains_recognition_to_be_uniform(method):
    model = tiny_model(method, beta_start=1e6, beta_end=1e6)
    optimiser = torch.optim.Adam(model.recognition.parameters(), lr=3e-2)
    divergence = []
    for step in range(15):
        terms = model.loss(segment(4), seeded(step), progress=0.0)
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        divergence.append(terms.metrics["kl_nats"].item())
    assert divergence[-1] < 0.2 * divergence[0]


def test_only_the_gradient_of_the_encoder_tells_the_two_methods_apart():
    """Same weights, same draws: the loss and the generator's gradient agree bit for bit, the encoder's does not."""
    found = []
    for method in ("gumbel_na", "gr_mck_na"):
        model = tiny_model(method)
        terms = model.loss(segment(6), seeded(), progress=0.5)
        terms.total.backward()
        found.append((terms.total, dict(model.named_parameters())))
    assert torch.equal(found[0][0], found[1][0])
    for name, parameter in found[0][1].items():
        same = torch.equal(parameter.grad, found[1][1][name].grad)
        assert same == name.startswith("generative."), name


def test_beta_and_temperature_fall_by_a_constant_factor():
    model = tiny_model("gumbel", beta_start=4.0, beta_end=0.04, temperature_start=1.0, temperature_end=0.25)
    for progress, beta, temperature in ((0.0, 4.0, 1.0), (0.5, 0.4, 0.5), (1.0, 0.04, 0.25), (2.0, 0.04, 0.25)):
        metrics = model.loss(segment(2), seeded(), progress=progress).metrics
        assert metrics["beta"].item() == pytest.approx(beta)
        assert metrics["temperature"].item() == pytest.approx(temperature)
    assert model.final_beta == 0.04


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_body_keeps_codes_hard_and_losses_in_single(method):
    model = tiny_model(method, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        memory = model.recognition.memory(segment(6, torch.float32))
        one_hot, logits = model.relaxed_sample(memory, seeded(), temperature=1.0)
        terms = model.loss(segment(6, torch.float32), seeded(), progress=0.5)
    assert logits.dtype == one_hot.dtype == terms.total.dtype == torch.float32
    assert set(one_hot.unique().tolist()) == {0.0, 1.0} and (one_hot.sum(-1) == 1.0).all()
    terms.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("config", [GumbelConfig, GumbelRaoConfig])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature_start", 0.0),
        ("temperature_end", -1.0),
        ("temperature_start", math.nan),
        ("beta_start", 0.0),
        ("beta_end", -0.01),
        ("vocabulary", 1),
    ],
)
def test_bad_values_are_named(config, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        config(**{name: value})


def test_bad_combinations_are_named():
    with pytest.raises(ValueError, match=r"^rao_samples must be at least 1, got 0"):
        GumbelRaoConfig(rao_samples=0)
    with pytest.raises(ValueError, match=r"^aligned_memory needs"):
        GumbelConfig(factorisation="factorised", aligned_memory=True)
    logits, index = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"^samples must be"):
        conditional_gumbels(logits, index, seeded(), samples=0)
    with pytest.raises(ValueError, match=r"^temperature must be"):
        gumbel_rao(logits, index, seeded(), temperature=0.0, samples=1)


@pytest.mark.parametrize(
    ("method", "beta", "temperature", "rates", "layers", "samples"),
    [
        ("gumbel", 2.0, (1.0, 1.0), (1e-4, 1e-5), 2, None),
        ("gumbel_na", 3.0, (1.0, 0.75), (3e-4, None), 6, None),
        ("gr_mck", 2.0, (1.0, 1.0), (1e-4, 1e-5), 2, 10),
        ("gr_mck_na", 1.0, (1.0, 1.0), (3e-4, None), 6, 10),
    ],
)
def test_paper_presets_are_the_rows_of_table_6(method, beta, temperature, rates, layers, samples):
    preset = get_preset(method, "paper")
    config, optimisation = preset.method, preset.optimisation
    assert (config.beta_start, config.beta_end, config.vocabulary) == (beta, 0.01, 1024)
    assert (config.temperature_start, config.temperature_end) == temperature
    assert (optimisation.learning_rate, optimisation.learning_rate_end) == rates
    assert (optimisation.batch, optimisation.steps, optimisation.hz) == (256, 250_000, 100.0)
    assert config.networks == NetworkConfig(width=128, layers=layers)
    assert not config.aligned_memory
    assert getattr(config, "rao_samples", None) == samples and not getattr(config, "as_published", False)
    assert OptimisationConfig().weight_decay == optimisation.weight_decay
