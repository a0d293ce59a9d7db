"""Score-function and policy-search objectives of whole models against enumerated latents, in float64.

A segment of one frame has two tokens, with three codes each: nine sequences, so every expectation is a finite sum. The
networks give log p(x|z) and log q(z|x) of all sequences; what is tested is everything that an objective does with them.
"""

import dataclasses
import math

import pytest
import torch
from enumerated_models import (
    ALL,
    BETA,
    CODES,
    FACTORISATIONS,
    FEATURES,
    TOKENS,
    Draws,
    enumerated,
    flat_gradient,
    gradients_of_all_tuples,
    mean_and_variance,
    multisets,
    segment,
    tiny,
)
from scipy.stats import chisquare

from motionlex.data.errors import UserError
from motionlex.motion_vae.registry import get_preset, override


def exact_negative_elbo(model, x):
    """-(sum_z q(z) log p(x|z) - beta KL(q || uniform)) by the definition of both."""
    log_q, log_p = enumerated(model, x)
    q = log_q.exp()
    return -(q * log_p).sum() + BETA * (q * (log_q + TOKENS * math.log(CODES))).sum()


REINFORCE = {
    "constant": ("samples=1", "baseline=constant", "constant_nats=-3.0"),
    "tutorial": ("samples=1", "baseline=constant", "constant_nats=-125.0"),
    "moving_average": ("samples=1", "baseline=moving_average"),
    "leave_one_out": ("samples=2", "baseline=leave_one_out"),
}


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
@pytest.mark.parametrize("baseline", REINFORCE)
def test_reinforce_is_unbiased_with_every_baseline(factorisation, baseline, monkeypatch):
    """Summed over all draws with their probabilities, the gradient is that of the ELBO; 1e-10 is for rounding."""
    model = tiny("reinforce", f"factorisation={factorisation}", *REINFORCE[baseline])
    if baseline == "moving_average":
        model.moving_return.fill_(-4.0)
        model.moving_weight.fill_(0.8)
    x = segment()
    for module in (model.recognition, model.generative):
        exact = flat_gradient(exact_negative_elbo(model, x), module)
        gradients, probability = gradients_of_all_tuples(model, x, monkeypatch, module=module)
        assert exact.norm() > 0.1
        torch.testing.assert_close(probability @ gradients, exact, rtol=0, atol=1e-10 * max(1.0, exact.norm().item()))


def test_variance_of_reinforce_falls_with_better_baselines(monkeypatch):
    """Exact variances: the best constant (closed form) < mean return < a constant far away; and with two samples, the
    mean return (an oracle) < leave-one-out < no baseline at all."""
    x = segment()
    model = tiny("reinforce", "baseline=constant", "samples=1")
    log_q, log_p = enumerated(model, x)
    q = log_q.detach().exp()
    scores = torch.stack([flat_gradient(value, model.recognition) for value in log_q])
    # The exact gradient of the KL is a constant, so the best b minimises E[(R - b)^2 |g|^2].
    squares = q * scores.square().sum(dim=1)
    best = (squares @ log_p.detach() / squares.sum()).item()
    mean = (q @ log_p.detach()).item()

    def variance(*settings):
        candidate = tiny("reinforce", *settings)
        return mean_and_variance(*gradients_of_all_tuples(candidate, x, monkeypatch))[1]

    single = [variance(f"constant_nats={value}", "baseline=constant", "samples=1") for value in (best, mean, -125.0)]
    assert single[0] < single[1] < single[2]
    assert single[2] > 1e3 * single[1], "nothing is as bad as a constant of another data set"
    oracle = variance(f"constant_nats={mean}", "baseline=constant", "samples=2")
    left_out = variance("baseline=leave_one_out", "samples=2")
    nothing = variance("constant_nats=0", "baseline=constant", "samples=2")
    assert oracle < left_out < nothing
    assert oracle == pytest.approx(single[1] / 2, rel=1e-9), "independent samples halve the variance"


def test_tutorial_objective_by_hand(monkeypatch):
    """Equations 84 to 86 for one draw, written with the tutorial's binary cross-entropy and entropy."""
    model = tiny("reinforce", "baseline=constant", "samples=1", "beta_start=1", "beta_end=1", likelihood="bernoulli")
    x = (segment() > 0.0).double()
    draw = ALL[5]
    Draws(model, monkeypatch).indices = draw[None, None]
    logits = model.recognition.marginals(model.recognition.memory(x))[0]
    entropy = torch.distributions.Categorical(logits=logits).entropy().sum()
    log_f = logits.log_softmax(-1)[torch.arange(TOKENS), draw].sum()
    probability = model.generative(draw[None]).mean
    cross_entropy = torch.nn.functional.binary_cross_entropy(probability, x, reduction="sum")
    encoder = flat_gradient(entropy, model.recognition) - (cross_entropy.detach() - 125.0) * flat_gradient(
        log_f, model.recognition
    )
    decoder = -flat_gradient(cross_entropy, model.generative)
    found = model.loss(x, torch.Generator(), progress=0.0)
    torch.testing.assert_close(-flat_gradient(found.total, model.recognition), encoder, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(-flat_gradient(found.total, model.generative), decoder, rtol=1e-9, atol=1e-9)
    elbo = entropy - TOKENS * math.log(CODES) - cross_entropy
    assert found.metrics["elbo_nats"].item() == pytest.approx(elbo.item(), rel=1e-12)


def test_moving_average_of_returns_has_no_start_up_bias(monkeypatch):
    """With decay 1/2 the returns r1, r2, r3 weigh 1/4, 1/2 and 1 (over 7/4); the present batch is never in it."""
    model = tiny("reinforce", "baseline=moving_average", "samples=1", "baseline_decay=0.5")
    x, draws = segment(), Draws(model, monkeypatch)
    log_q, log_p = enumerated(model, x)
    baselines, returns = [], []
    for row in (0, 3, 7, 8):
        draws.indices = ALL[row][None, None]
        score = model.loss(x, torch.Generator(), progress=0.5).terms["score"].item()
        baselines.append(log_p[row].item() + score / log_q[row].item())  # score = -(R - b) log q
        returns.append(log_p[row].item())
        with torch.no_grad():  # an evaluation in between is no step
            model.loss(x, torch.Generator(), progress=0.5)
        model.after_update()
    r1, r2, r3, _ = returns
    expected = [r1, r1, (r1 / 2 + r2) / 1.5, (r1 / 4 + r2 / 2 + r3) / 1.75]
    assert baselines == pytest.approx(expected, rel=1e-9)


def test_one_hot_codebook_is_the_identity_and_stays():
    model = tiny("reinforce", "one_hot=true", "vocabulary=4", "samples=1", "baseline=constant")
    assert not model.codebook.requires_grad
    assert all(model.codebook is not p for group in model.parameter_groups() for p in group.parameters)
    torch.testing.assert_close(model.embed(ALL), torch.nn.functional.one_hot(ALL, 4).double())


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_first_epoch_of_ppo_is_the_unbiased_policy_gradient(factorisation, monkeypatch):
    """All ratios are 1: tuple by tuple -(R - mean of the others) grad log q; on average the gradient of the ELBO."""
    model = tiny("ppo", f"factorisation={factorisation}", "samples=2", "standardise=false")
    x = segment()
    gradients, probability = gradients_of_all_tuples(model, x, monkeypatch)
    exact = flat_gradient(exact_negative_elbo(model, x), model.recognition)
    torch.testing.assert_close(probability @ gradients, exact, rtol=0, atol=1e-10 * max(1.0, exact.norm().item()))
    log_q, log_p = enumerated(model, x)
    rows, _ = multisets(log_q.detach(), 2)
    scores = torch.stack([flat_gradient(value, model.recognition) for value in log_q])
    reward = (log_p - BETA * log_q).detach()
    for row, gradient in zip(rows[::7], gradients[::7]):
        first, second = row.tolist()
        gap = reward[first] - reward[second]
        torch.testing.assert_close(gradient, -0.5 * gap * (scores[first] - scores[second]), rtol=0, atol=1e-9)


def test_later_epochs_of_ppo_clip_against_the_policy_that_sampled(monkeypatch):
    """The second objective by hand: ratios of the weights after and before the first update, advantages as before."""
    model = tiny("ppo", "samples=4", "standardise=true", "epochs=3", "clip=0.1")
    x = torch.randn(2, 1, FEATURES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = torch.tensor([[0, 4, 8, 2], [1, 5, 6, 3]])
    Draws(model, monkeypatch).indices = ALL[rows]
    before = [tuple(v.detach()[row] for v in enumerated(model, one[None])) for one, row in zip(x, rows)]
    decoder = [p.detach().clone() for p in model.generative.parameters()]
    optimiser = torch.optim.SGD(model.recognition.parameters(), lr=0.1)
    objectives = []
    for epoch, terms in enumerate(model.objectives(x, torch.Generator(), progress=0.5)):
        objectives.append(terms)
        optimiser.zero_grad()
        model.generative.zero_grad()
        terms.total.backward()
        trained = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.generative.parameters()]
        assert any(trained) if epoch == 0 else not any(trained), "the decoder learns in the first epoch only"
        if epoch == 1:
            break
        optimiser.step()
    after = [enumerated(model, one[None])[0].detach()[row] for one, row in zip(x, rows)]
    rewards = [(log_p - BETA * log_q).tolist() for log_q, log_p in before]
    advantages = [[r - (sum(row) - r) / 3 for r in row] for row in rewards]
    scale = math.sqrt(sum(a * a for row in advantages for a in row) / 8)
    values, clipped = [], 0
    for row, new, (old, _) in zip(advantages, after, before):
        for a, ratio in zip(row, (new - old).exp().tolist()):
            values.append(min(ratio * a / scale, min(max(ratio, 0.9), 1.1) * a / scale))
            clipped += not 0.9 <= ratio <= 1.1
    assert 0 < clipped < 8
    assert objectives[1].terms["encoder"].item() == pytest.approx(-sum(values) / 8, rel=1e-9)
    assert objectives[1].metrics["clip_fraction"].item() == pytest.approx(clipped / 8)
    assert objectives[0].metrics["clip_fraction"] == 0.0 and objectives[0].metrics["approximate_kl_nats"] == 0.0
    assert objectives[1].metrics["approximate_kl_nats"] > 0.0
    assert all(torch.equal(old, new) for old, new in zip(decoder, model.generative.parameters()))


def test_ppo_yields_one_objective_per_epoch_from_one_set_of_samples(monkeypatch):
    model = tiny("ppo", "samples=4", "epochs=3")
    drawn, sample = [], model.recognition.sample
    monkeypatch.setattr(model.recognition, "sample", lambda *a: drawn.append(sample(*a)) or drawn[-1])
    assert len(list(model.objectives(segment(), torch.Generator().manual_seed(0), progress=0.0))) == 3
    assert len(drawn) == 1


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_kl_along_paths_averages_to_the_kl_of_sequences(factorisation):
    """E over paths of the path KL = sum_z q(z) ln(q(z) V^T); for a factorised q every single path gives it."""
    model = tiny("daps", f"factorisation={factorisation}")
    x = segment()
    log_q, _ = enumerated(model, x)
    q = log_q.detach().exp()
    exact = (q * (q * CODES**TOKENS).log()).sum()
    codes = model.encode(x, torch.Generator().manual_seed(0))
    paths = torch.cat([model.kl_to_prior(x, dataclasses.replace(codes, indices=z[None])) for z in ALL]).detach()
    torch.testing.assert_close(q @ paths, exact, rtol=1e-12, atol=0)
    spread = (paths.max() - paths.min()).item()
    assert spread < 1e-12 if factorisation == "factorised" else spread > 1e-2
    if factorisation == "factorised":
        marginals = torch.distributions.Categorical(logits=model.recognition.marginals(model.recognition.memory(x)))
        closed = TOKENS * math.log(CODES) - marginals.entropy().sum()
        torch.testing.assert_close(paths, closed.detach().expand(len(ALL)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("factorisation", FACTORISATIONS)
def test_samples_follow_q_and_carry_its_log_probability(factorisation):
    """Chi-square of 20,000 draws over all nine sequences (p > 0.001), and log q of every draw, code 0 included."""
    model = tiny("daps", f"factorisation={factorisation}")
    x = segment()
    memory = model.recognition.memory(x).detach()
    indices, collected = model.recognition.sample(memory, 20_000, torch.Generator().manual_seed(0))
    log_q, _ = enumerated(model, x)
    place = (indices[0] * torch.tensor([CODES, 1])).sum(dim=1)
    counts = torch.bincount(place, minlength=len(ALL))
    assert (indices == 0).all(dim=2).any() and counts.min() > 5, "every sequence occurs, also the one of zeros"
    assert chisquare(counts.numpy(), 20_000 * log_q.detach().exp().numpy()).pvalue > 1e-3
    torch.testing.assert_close(collected[0], log_q.detach()[place], rtol=0, atol=1e-10)
    forced = model.recognition.log_prob(indices[:, :50], memory).detach()
    torch.testing.assert_close(collected[:, :50], forced, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["daps", "reinforce", "ppo"])
def test_both_factorisations_share_everything_else(method):
    shapes = []
    for factorisation in FACTORISATIONS:
        model = tiny(method, f"factorisation={factorisation}")
        own = "recognition.decoder." if factorisation == "autoregressive" else "recognition.output."
        found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        assert any(name.startswith(own) for name in found)
        shapes.append({name: shape for name, shape in found.items() if not name.startswith(own)})
    assert shapes[0] == shapes[1]
    assert any(name.startswith("recognition.encoder.") for name in shapes[0])


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("reinforce", "samples=1", "samples must be at least 2 for baseline=leave_one_out, got 1"),
        ("reinforce", "baseline=mean", "baseline"),
        ("reinforce", "baseline_decay=1.0", r"baseline_decay must be in \(0, 1\), got 1.0"),
        ("reinforce", "constant_nats=nan", "constant_nats: expected a value like -125.0, got 'nan'"),
        ("reinforce", "one_hot=true", "one_hot needs width = vocabulary, got width=128 and vocabulary=1024"),
        ("reinforce", "aligned_memory=true", "aligned_memory needs factorisation=autoregressive"),
        ("ppo", "samples=1", r"samples must be at least 2 \(their mean is the baseline\), got 1"),
        ("ppo", "epochs=0", "epochs must be at least 1, got 0"),
        ("ppo", "clip=1.0", r"clip must be in \(0, 1\), got 1.0"),
        ("ppo", "beta_end=0", "beta_end must be positive, got 0"),
        ("daps", "temperature_control=bisect", "temperature_control"),
        ("daps", "samples=1", "samples must be at least 2, got 1"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(method, setting, message):
    with pytest.raises(UserError, match=message):
        override(get_preset(method, "paper"), (setting,))
