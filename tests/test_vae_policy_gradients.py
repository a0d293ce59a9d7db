"""Score-function and policy-search objectives of whole models against enumerated latents, in float64.

A segment of one frame has two tokens, with three codes each: nine sequences, so every expectation is a finite sum. The
networks give log p(x|z) and log q(z|x) of all sequences; what is tested is everything that an objective does with them.
"""

import dataclasses
import itertools
import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import chisquare

from motionlex.data.errors import UserError
from motionlex.motion_vae.likelihoods import LikelihoodConfig
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

CODES, TOKENS, FEATURES, BETA = 3, 2, 2, 0.3
SIZES = (f"vocabulary={CODES}", "width=4", "heads=2", "layers=1", "generator_layers=1", "mlp_ratio=1")
FIXED_BETA = (f"beta_start={BETA}", f"beta_end={BETA}")
ALL = torch.tensor(list(itertools.product(range(CODES), repeat=TOKENS)))
FACTORISATIONS = ("autoregressive", "factorised")


def tiny(method, *settings, likelihood="gaussian"):
    """A model in float64 whose q is far from uniform and whose returns differ by a few nats."""
    config = override(get_preset(method, "paper"), (*SIZES, *FIXED_BETA, *settings)).method
    domain = TrajectoryDomain(frames=1, features=FEATURES)
    # Motion refuses the tutorial's Bernoulli likelihood; here it only decodes a handful of bits.
    object.__setattr__(domain, "likelihood_config", LikelihoodConfig(family=likelihood))
    model = build_model(method, config, domain, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.ndim and "likelihood" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.5)
        factorised = model.config.factorisation == "factorised"
        last = model.recognition.output if factorised else model.recognition.decoder.output
        for parameter in last.parameters():
            parameter.mul_(0.4)  # no sequence becomes so rare that draws would never show it
    return model


def segment():
    return torch.randn(1, 1, FEATURES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def enumerated(model, x):
    """Log q and log p of all sequences, with gradient."""
    log_q = model.recognition.log_prob(ALL[None], model.recognition.memory(x))[0]
    return log_q, model.generative(ALL[None]).log_prob(x.unsqueeze(1))[0]


def flat_gradient(value, module):
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found)])


def exact_negative_elbo(model, x):
    """-(sum_z q(z) log p(x|z) - beta KL(q || uniform)) by the definition of both."""
    log_q, log_p = enumerated(model, x)
    q = log_q.exp()
    return -(q * log_p).sum() + BETA * (q * (log_q + TOKENS * math.log(CODES))).sum()


def multisets(log_q, samples):
    """All K-tuples up to order, as rows of indices, with their multinomial probabilities."""
    rows, probabilities = [], []
    for row in itertools.combinations_with_replacement(range(len(log_q)), samples):
        counts = [row.count(i) for i in set(row)]
        orders = math.factorial(samples) / math.prod(math.factorial(c) for c in counts)
        rows.append(row)
        probabilities.append(orders * math.exp(sum(log_q[i].item() for i in row)))
    return torch.tensor(rows), torch.tensor(probabilities, dtype=torch.float64)


class Draws:
    """Stands in for ``recognition.sample``: hands out a chosen tuple of sequences."""

    def __init__(self, model, monkeypatch):
        self.indices = None
        monkeypatch.setattr(model.recognition, "sample", self)

    def __call__(self, memory, samples, generator):
        assert not memory.requires_grad, "samples are drawn without gradient"
        assert self.indices.shape[1] == samples
        return self.indices, torch.full(self.indices.shape[:2], float("nan"), dtype=torch.float64)


def gradients_of_all_tuples(model, x, monkeypatch, *, module=None):
    """Gradient of the model's own loss for every tuple of draws, and the tuples' probabilities."""
    log_q, _ = enumerated(model, x)
    rows, probability = multisets(log_q.detach(), model.config.samples)
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    draws, gradients = Draws(model, monkeypatch), []
    for row in rows:
        draws.indices = ALL[row][None]
        total = model.loss(x, torch.Generator(), progress=0.5).total
        gradients.append(flat_gradient(total, module or model.recognition))
    return torch.stack(gradients), probability


def mean_and_variance(gradients, probability):
    mean = probability @ gradients
    return mean, (probability @ (gradients - mean).square()).sum().item()


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
