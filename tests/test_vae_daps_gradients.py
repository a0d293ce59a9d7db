"""Gradients of DAPS against expectations over all tuples of samples, and its temperature."""

import math

import pytest
import torch
from enumerated_models import (
    ALL,
    BETA,
    FACTORISATIONS,
    FEATURES,
    Draws,
    enumerated,
    flat_gradient,
    gradients_of_all_tuples,
    mean_and_variance,
    multisets,
    segment,
    tiny,
)
from scipy.optimize import brentq


def daps_share(log_q, log_p, eta, samples, centre=0.0):
    """Total weight of each sequence, expected over all K-tuples, from the definition of q* (equation 5)."""
    unnormalised = [math.exp((r + eta * q) / (eta + BETA)) for r, q in zip(log_p.tolist(), log_q.tolist())]
    ratio = [u / math.exp(q) for u, q in zip(unnormalised, log_q.tolist())]  # q*/q up to a factor
    rows, probability = multisets(log_q, samples)
    share = torch.zeros_like(log_q)
    for row, p in zip(rows.tolist(), probability.tolist()):
        total = sum(ratio[i] for i in row)
        for i in row:
            share[i] += p * (ratio[i] / total - centre)
    return share


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("centred", ["true", "false"])
def test_daps_gradient_is_its_expectation_over_all_tuples(factorisation, centred, monkeypatch):
    """The model's own loss, draw by draw, against the weights of equation 5 from scratch; 1e-10 is for rounding."""
    settings = (f"factorisation={factorisation}", "samples=2", "ess_target=0.7", f"centred_weights={centred}")
    model = tiny("daps", *settings, "eta_start=0.7")
    x = segment()
    log_q, log_p = enumerated(model, x)
    eta = model.log_eta.exp().item()
    share = daps_share(log_q.detach(), log_p.detach(), eta, samples=2)
    gradients, probability = gradients_of_all_tuples(model, x, monkeypatch)
    exact = -flat_gradient((share * log_q).sum(), model.recognition)
    assert exact.norm() > 0.1
    torch.testing.assert_close(probability @ gradients, exact, rtol=0, atol=1e-10 * max(1.0, exact.norm().item()))
    gradients, probability = gradients_of_all_tuples(model, x, monkeypatch, module=model.generative)
    decoder = -flat_gradient((log_q.detach().exp() * log_p).sum(), model.generative)
    torch.testing.assert_close(probability @ gradients, decoder, rtol=0, atol=1e-10 * max(1.0, decoder.norm().item()))


def test_centred_weights_have_less_variance_here(monkeypatch):
    """Exact variances at K = 3: subtracting 1/K removes the part of the noise that is common to all weights."""
    x = segment()
    results = {}
    for centred in ("true", "false"):
        model = tiny("daps", "samples=3", "ess_target=0.6", f"centred_weights={centred}", "eta_start=3.0")
        results[centred] = mean_and_variance(*gradients_of_all_tuples(model, x, monkeypatch))
    torch.testing.assert_close(results["true"][0], results["false"][0], rtol=0, atol=1e-10)
    assert results["true"][1] < 0.5 * results["false"][1]


@pytest.mark.parametrize("eta", [0.2, 2.0, 30.0])
def test_temperature_gradient_is_the_finite_difference_of_its_loss(eta, monkeypatch):
    """d L_eta / d log eta over a batch of two x with four fixed draws each, and the ESS by the definition."""
    model = tiny("daps", "samples=4", "ess_target=0.5", f"eta_start={eta}")
    x = torch.randn(2, 1, FEATURES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = torch.tensor([[0, 4, 8, 2], [1, 1, 6, 3]])
    Draws(model, monkeypatch).indices = ALL[rows]

    def terms():
        return model.loss(x, torch.Generator(), progress=0.5)

    ess = []
    for one, row in zip(x, rows):
        log_q, log_p = enumerated(model, one[None])
        value = model.log_eta.exp().item()
        raw = [math.exp((log_p[i].item() - BETA * log_q[i].item()) / (value + BETA)) for i in row]
        ess.append(sum(raw) ** 2 / sum(r * r for r in raw))
    assert terms().metrics["effective_sample_size"].item() == pytest.approx(sum(ess) / 2, rel=1e-10)
    assert terms().terms["temperature"].item() == pytest.approx((sum(ess) / 2 - 2.0) ** 2, rel=1e-9)
    found = torch.autograd.grad(terms().total, model.log_eta)[0].item()
    step, values = 1e-5, []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            model.log_eta += sign * step
        values.append(terms().terms["temperature"].item())
        with torch.no_grad():
            model.log_eta -= sign * step
    # Central differences: the error is O(step^2) = 1e-10 plus rounding 1e-16 / step.
    assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-9)


def test_bisection_gives_every_example_the_target_and_no_temperature_loss(monkeypatch):
    model = tiny("daps", "samples=4", "ess_target=0.5", "temperature_control=bisection")
    assert [group.name for group in model.parameter_groups()] == ["networks"]
    x = 2.0 * torch.randn(2, 1, FEATURES, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    rows = torch.tensor([[0, 4, 8, 2], [1, 5, 6, 3]])
    Draws(model, monkeypatch).indices = ALL[rows]
    terms = model.loss(x, torch.Generator(), progress=0.5)
    assert set(terms.terms) == {"encoder", "decoder"}
    assert terms.metrics["effective_sample_size"].item() == pytest.approx(2.0, abs=1e-4)
    expected, etas = 0.0, []
    for one, row in zip(x, rows):  # the encoder loss, with each eta found by another root finder
        log_q, log_p = (v.detach()[row].numpy() for v in enumerated(model, one[None]))

        def weights(eta, a=log_p - BETA * log_q):
            raw = [math.exp((v - a.max()) / (eta + BETA)) for v in a]
            return [r / sum(raw) for r in raw]

        eta = brentq(lambda e: 1.0 / sum(w * w for w in weights(e)) - 2.0, 1e-6, 1e6, xtol=1e-14)
        etas.append(eta)
        expected -= sum(w * q for w, q in zip(weights(eta), log_q)) / len(x)
    assert etas[0] != pytest.approx(etas[1], rel=0.1)
    assert terms.terms["encoder"].item() == pytest.approx(expected, rel=1e-6)
    assert terms.metrics["eta"].item() == pytest.approx(math.sqrt(etas[0] * etas[1]), rel=1e-6)
    model.after_update()


def test_decoder_loss_of_daps_trains_the_learned_variance(monkeypatch):
    """d(-log p)/d(ln s^2) = (1 - (x - m)^2 / s^2) / 2 per feature, averaged over the draws."""
    model = tiny("daps", "samples=2", "ess_target=0.7", likelihood="learned_gaussian")
    x, rows = segment(), torch.tensor([[2, 6]])
    Draws(model, monkeypatch).indices = ALL[rows]
    model.loss(x, torch.Generator(), progress=0.5).total.backward()
    head = model.generative.decoder.likelihood
    mean = model.generative(ALL[rows]).mean.detach()
    variance = head.log_variance.detach().exp()
    expected = (0.5 * (1.0 - (x.unsqueeze(1) - mean).square() / variance)).mean(dim=(0, 1)).sum(dim=0)
    torch.testing.assert_close(head.log_variance.grad, expected, rtol=1e-9, atol=1e-12)
