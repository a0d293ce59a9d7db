"""Policy-search weights, effective sample size and the encoder gradient, against enumeration in float64."""

import itertools
import math

import pytest
import torch
from scipy.optimize import brentq

from motionlex.motion_vae.estimators import (
    effective_sample_size,
    exponential_schedule,
    gumbel_softmax,
    nearest_code,
    policy_search_weights,
    straight_through,
)
from motionlex.motion_vae.policy_search import (
    LOG_ETA_RANGE,
    approximate_kl,
    clipped_surrogate,
    eta_for_ess,
    leave_one_out_advantage,
    score_function_loss,
    standardised,
)

ETA, BETA = 0.7, 0.3


def tiny_problem(codes=3, tokens=2, seed=0):
    """All code sequences of an autoregressive table q, with returns; q by the chain rule, no network."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(codes, generator=generator, dtype=torch.float64, requires_grad=True)
    second = torch.randn(codes, codes, generator=generator, dtype=torch.float64, requires_grad=True)
    sequences = torch.tensor(list(itertools.product(range(codes), repeat=tokens)))
    returns = torch.randn(len(sequences), generator=generator, dtype=torch.float64) * 2.0
    log_q = first.log_softmax(0)[sequences[:, 0]] + second.log_softmax(1)[sequences[:, 0], sequences[:, 1]]
    return (first, second), returns, log_q


def optimal_policy(returns, log_q):
    """q* of equation 5 by brute force: exp((R + eta log q) / (eta + beta)), normalised over all sequences."""
    exponents = [(r + ETA * q) / (ETA + BETA) for r, q in zip(returns.tolist(), log_q.tolist())]
    unnormalised = torch.tensor([math.exp(e) for e in exponents], dtype=torch.float64)
    return unnormalised / unnormalised.sum()


def flat_gradient(value, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)])


def test_weights_of_all_latents_are_the_importance_ratio_of_the_optimum():
    _, returns, log_q = tiny_problem()
    weights = policy_search_weights(returns[None], log_q.detach()[None], eta=ETA, beta=BETA)[0]
    ratio = optimal_policy(returns, log_q) / log_q.detach().exp()
    torch.testing.assert_close(weights, ratio / ratio.sum(), rtol=1e-12, atol=0)


def test_weights_by_hand():
    # (R - beta log q) / (eta + beta) = (ln 4, 0): the weights are 4/5 and 1/5.
    returns = torch.tensor([[math.log(4.0), 0.0]], dtype=torch.float64)
    log_q = torch.full((1, 2), math.log(0.5), dtype=torch.float64)
    weights = policy_search_weights(returns, log_q, eta=0.5, beta=0.5)
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0.2]], dtype=torch.float64), rtol=1e-14, atol=0)
    torch.testing.assert_close(effective_sample_size(weights), torch.tensor([1.0 / 0.68], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_stable_for_huge_returns(dtype):
    offsets = torch.tensor([0.0, 1.0, 2.0], dtype=dtype)
    log_q = torch.tensor([[-440.0, -441.0, -442.0]], dtype=dtype)
    shifted = policy_search_weights((1e5 + offsets)[None], log_q, eta=1.0, beta=0.01)
    plain = policy_search_weights(offsets[None], log_q, eta=1.0, beta=0.01)
    assert shifted.dtype == dtype
    # 1e5 + n is exact in both precisions, so nothing may be lost.
    torch.testing.assert_close(shifted, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(shifted.sum(1), torch.ones(1, dtype=dtype), rtol=1e-6, atol=0)
    extreme = policy_search_weights(torch.tensor([[-1e5, 1e5]], dtype=dtype), log_q[:, :2], eta=1e-6, beta=1e-6)
    assert torch.isfinite(extreme).all() and extreme.sum() == 1


def test_equal_samples_share_their_weight():
    weights = policy_search_weights(torch.full((1, 2), 87_000.3), torch.full((1, 2), -400.1), eta=1e-4, beta=0.01)
    assert weights.tolist() == [[0.5, 0.5]]


def test_half_precision_is_promoted():
    returns, log_q = torch.zeros(1, 2, dtype=torch.bfloat16), torch.zeros(1, 2, dtype=torch.bfloat16)
    assert policy_search_weights(returns, log_q, eta=1.0, beta=1.0).dtype == torch.float32


def test_weights_are_differentiable_in_eta():
    _, returns, log_q = tiny_problem()
    eta = torch.tensor(ETA, dtype=torch.float64, requires_grad=True)

    def ess(value):
        weights = policy_search_weights(returns[None], log_q.detach()[None], eta=value, beta=BETA)
        return effective_sample_size(weights).sum()

    assert torch.autograd.gradcheck(ess, (eta,))
    assert torch.autograd.grad(ess(eta), eta)[0] > 0, "a higher temperature must spread the weights"


@pytest.mark.parametrize(("eta", "beta"), [(-1.0, 1.0), (1.0, -0.1), (0.0, 0.0), (float("nan"), 1.0)])
def test_bad_temperatures_are_refused(eta, beta):
    with pytest.raises(ValueError, match="must be"):
        policy_search_weights(torch.zeros(1, 2), torch.zeros(1, 2), eta=eta, beta=beta)


def test_effective_sample_size_spans_one_to_all():
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])
    assert effective_sample_size(weights).tolist() == [1.0, 4.0, 2.0]


def exact_encoder_gradient(parameters, returns, log_q, samples, centre=0.0):
    """E over all K-tuples of latents, weighted by their probability, of -sum_k (w_k - centre) grad log q(z_k).

    The self-normalised weight of a latent depends on the whole tuple, so nothing shorter than this sum is exact. The
    tuples are collapsed into the total weight that each latent receives; the gradient is then linear in grad log q.
    """
    share = torch.zeros_like(returns)
    probability = log_q.detach().exp()
    for tuple_ in itertools.product(range(len(returns)), repeat=samples):
        index = torch.tensor(tuple_)
        ratio = (optimal_policy(returns, log_q) / probability)[index]
        weight = probability[index].prod() * (ratio / ratio.sum() - centre)
        share.index_add_(0, index, weight)
    return -flat_gradient((share * log_q).sum(), parameters)


@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_expected_encoder_gradient_is_the_sum_over_all_tuples(centre):
    """Sampled pairs through the estimator average to the enumerated expectation (and centring does not move it)."""
    parameters, returns, log_q = tiny_problem()
    exact = exact_encoder_gradient(parameters, returns, log_q, samples=2)
    torch.testing.assert_close(
        exact_encoder_gradient(parameters, returns, log_q, samples=2, centre=0.5), exact, rtol=0, atol=1e-12
    )
    pairs = torch.tensor(list(itertools.product(range(len(returns)), repeat=2)))
    weights = policy_search_weights(returns[pairs], log_q.detach()[pairs], eta=ETA, beta=BETA)
    probability = log_q.detach().exp()[pairs].prod(dim=1)
    loss = -(probability * ((weights - centre) * log_q[pairs]).sum(dim=1)).sum()
    torch.testing.assert_close(flat_gradient(loss, parameters), exact, rtol=0, atol=1e-12)


def test_bias_against_the_optimum_falls_as_one_over_samples():
    """-E_q*[grad log q] is what infinitely many samples give; the bias of K samples is c/K + O(1/K^2).

    Tuples are enumerated as multisets with multinomial probabilities, which makes K = 16 affordable on 4 latents.
    """
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
    log_q = logits.log_softmax(0)
    returns = torch.randn(4, generator=generator, dtype=torch.float64)
    target = -flat_gradient((optimal_policy(returns, log_q) * log_q).sum(), (logits,))

    def bias(samples):
        share = torch.zeros(4, dtype=torch.float64)
        for multiset in itertools.combinations_with_replacement(range(4), samples):
            index = torch.tensor(multiset)
            count = torch.bincount(index, minlength=4).double()
            log_coefficient = math.lgamma(samples + 1) - torch.lgamma(count + 1).sum()
            probability = torch.exp(log_coefficient + (count * log_q.detach()).sum())
            weights = policy_search_weights(returns[index][None], log_q.detach()[index][None], eta=ETA, beta=BETA)
            share.index_add_(0, index, probability * weights[0])
        return (-flat_gradient((share * log_q).sum(), (logits,)) - target).norm().item()

    biases = {samples: bias(samples) for samples in (4, 8, 16)}
    assert biases[16] > 1e-5, "the bias is real at finite K"
    # c/K + d/K^2: the ratio tends to 2 from one side; at these K the second term is below 20 %.
    assert biases[4] / biases[8] == pytest.approx(2.0, rel=0.2)
    assert biases[8] / biases[16] == pytest.approx(2.0, rel=0.1)


def ess_of(eta, returns, log_q, beta):
    """Effective sample size from its definition, in Python floats."""
    exponents = [(r - beta * q) / (eta + beta) for r, q in zip(returns, log_q)]
    raw = [math.exp(e - max(exponents)) for e in exponents]
    return sum(raw) ** 2 / sum(r * r for r in raw)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
@pytest.mark.parametrize("target", [1.2, 4.0, 7.5])
def test_bisection_hits_the_target_where_another_root_finder_does(scale, target):
    generator = torch.Generator().manual_seed(0)
    returns = scale * torch.randn(20, 8, generator=generator, dtype=torch.float64) - 9e3
    log_q = torch.randn(20, 8, generator=generator, dtype=torch.float64) - 400.0
    beta = 0.01
    etas = eta_for_ess(returns, log_q, beta=beta, target=target)
    for eta, r, q in zip(etas.tolist(), returns.tolist(), log_q.tolist()):
        bracket = [ess_of(math.exp(end), r, q, beta) - target for end in LOG_ETA_RANGE]
        if bracket[0] > 0.0:  # beta alone spreads the weights more than wanted
            assert math.log(eta) == pytest.approx(LOG_ETA_RANGE[0], abs=1e-6)
            continue
        assert ess_of(eta, r, q, beta) == pytest.approx(target, abs=1e-4)
        reference = brentq(lambda e, r=r, q=q: ess_of(math.exp(e), r, q, beta) - target, *LOG_ETA_RANGE, xtol=1e-12)
        # 32 halvings of 28 leave 6e-9 of log eta.
        assert math.log(eta) == pytest.approx(reference, abs=2e-8)


def test_effective_sample_size_rises_with_eta():
    """What bisection rests on, over 12 orders of magnitude; the returned eta therefore rises with the target."""
    generator = torch.Generator().manual_seed(1)
    returns, log_q = torch.randn(2, 6, generator=generator, dtype=torch.float64) * 20.0
    sizes = [ess_of(10.0 ** (e / 4), returns.tolist(), log_q.tolist(), 0.1) for e in range(-24, 25)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(sizes)) and sizes[0] < 1.01 and sizes[-1] > 5.99
    etas = [eta_for_ess(returns[None], log_q[None], beta=0.1, target=t).item() for t in (1.5, 2.0, 3.0, 5.0, 5.9)]
    assert all(b > a for a, b in itertools.pairwise(etas))


def test_targets_out_of_reach_give_the_end_of_the_range():
    equal, log_q = torch.zeros(1, 4), torch.full((1, 4), -3.0)
    lowest, highest = (math.exp(end) for end in LOG_ETA_RANGE)
    assert eta_for_ess(equal, log_q, beta=0.1, target=2.0).item() == pytest.approx(lowest, rel=1e-4)
    apart = torch.tensor([[0.0, 1e9, 2e9, 3e9]])
    assert eta_for_ess(apart, log_q, beta=0.1, target=3.9).item() == pytest.approx(highest, rel=1e-4)
    two_best = torch.tensor([[5.0, 5.0, 0.0, -9.0]], dtype=torch.float64)  # ESS >= 2 whatever eta is
    found = eta_for_ess(two_best, log_q.double(), beta=1e-3, target=1.5)
    assert found.item() == pytest.approx(lowest, rel=1e-4)
    for target in (1.0, 4.0, float("nan")):
        with pytest.raises(ValueError, match="target must be between 1 and the number of samples = 4"):
            eta_for_ess(equal, log_q, beta=0.1, target=target)


def test_weights_take_one_eta_per_example():
    _, returns, log_q = tiny_problem()
    rows, log_rows = returns.expand(2, -1), log_q.detach().expand(2, -1)
    both = policy_search_weights(rows, log_rows, eta=torch.tensor([[0.2], [5.0]], dtype=torch.float64), beta=BETA)
    for row, eta in zip(both, (0.2, 5.0)):
        torch.testing.assert_close(row, policy_search_weights(rows[:1], log_rows[:1], eta=eta, beta=BETA)[0])


def test_leave_one_out_advantage_by_hand():
    # 6 against the mean of 3 and 0; 3 against that of 6 and 0; 0 against that of 6 and 3.
    found = leave_one_out_advantage(torch.tensor([[6.0, 3.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[4.5, 0.0, -4.5]]))
    huge = leave_one_out_advantage(torch.tensor([[87_001.0, 87_000.0]]))  # exact in float32, and so is the answer
    assert huge.tolist() == [[1.0, -1.0]]
    with pytest.raises(ValueError, match="at least 2 samples per x, got 1"):
        leave_one_out_advantage(torch.zeros(3, 1))


def test_score_function_loss_is_the_mean_with_fixed_advantages():
    log_q = torch.tensor([[0.3, -0.7]], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([[2.0, -6.0]], dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(score_function_loss(log_q, advantage), (log_q, advantage), allow_unused=True)
    assert gradients[0].tolist() == [[-1.0, 3.0]] and gradients[1] is None


def test_standardised_advantages_have_unit_variance():
    advantage = torch.tensor([[3.0, -3.0], [4.0, -4.0]])
    found = standardised(advantage)
    assert found.square().mean().item() == pytest.approx(1.0)
    assert (found[1, 0] / found[0, 0]).item() == pytest.approx(4.0 / 3.0)
    assert standardised(torch.zeros(2, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_clipped_surrogate_by_hand():
    """Ratios 1/2, 1, 3/2 with good and bad samples, clip 0.2: values, and no gradient where the move went too far."""
    log_ratio = torch.tensor([[0.5, 1.0, 1.5, 0.5, 1.0, 1.5]], dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor([[2.0, 2.0, 2.0, -2.0, -2.0, -2.0]], dtype=torch.float64)
    found = clipped_surrogate(log_ratio, advantage, clip=0.2)
    # good: min(1, 1.6), 2, min(3, 2.4); bad: min(-1, -1.6), -2, min(-3, -2.4)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0, 2.4, -1.6, -2.0, -3.0]], dtype=torch.float64))
    gradient = torch.autograd.grad(found.sum(), log_ratio)[0]  # d(r A)/d(log r) = r A where it counts
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 2.0, 0.0, 0.0, -2.0, -3.0]], dtype=torch.float64))
    far = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = clipped_surrogate(far, torch.tensor([[-1.0, -1.0]]), clip=0.2)
    assert torch.isfinite(value).all() and torch.isfinite(torch.autograd.grad(value.sum(), far)[0]).all()


def test_approximate_kl_is_unbiased():
    """Its exact mean over all latents of the old policy is KL(old || new); it vanishes for equal policies."""
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    old, new = logits.log_softmax(-1)
    each = torch.stack([approximate_kl(value.view(1, 1)) for value in new - old])
    assert (each >= 0.0).all()
    reference = torch.nn.functional.kl_div(new, old, log_target=True, reduction="sum")
    assert (old.exp() @ each).item() == pytest.approx(reference.item(), rel=1e-12)
    assert approximate_kl(torch.zeros(2, 3)) == 0.0


def test_hot_centred_weights_are_the_leave_one_out_policy_gradient():
    """w_k - 1/K -> (a_k - mean a) / (K (eta + beta)), a = R - beta log q, with an error of second order in 1/eta."""
    _, returns, log_q = tiny_problem()
    returns, log_q = returns[None], log_q.detach()[None]
    limit = leave_one_out_advantage(returns - BETA * log_q) * (returns.shape[1] - 1) / returns.shape[1] ** 2
    errors = []
    for eta in (1e2, 1e3):
        centred = policy_search_weights(returns, log_q, eta=eta, beta=BETA) - 1.0 / returns.shape[1]
        errors.append((centred * (eta + BETA) - limit).norm().item())
    assert errors[1] < 1e-2 * limit.norm() and errors[0] / errors[1] == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize(("eta", "gain"), [(0.7, 2.0), (10.0, 100.0)])
def test_centring_removes_most_of_the_variance_at_high_temperature(eta, gain):
    """Exact variances over all 4-tuples of six latents: hot weights are nearly 1/K, and so is all of their noise."""
    generator = torch.Generator().manual_seed(0)
    log_q = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0)
    returns = 2.0 * torch.randn(6, generator=generator, dtype=torch.float64)
    scores = torch.eye(6, dtype=torch.float64) - log_q.exp()  # grad log q of a softmax in its logits
    tuples = torch.tensor(list(itertools.product(range(6), repeat=4)))
    probability = log_q.exp()[tuples].prod(dim=1)
    weights = policy_search_weights(returns[tuples], log_q[tuples], eta=eta, beta=BETA)
    means, variances = [], []
    for centre in (0.0, 0.25):
        gradients = ((weights - centre).unsqueeze(-1) * scores[tuples]).sum(dim=1)
        means.append(probability @ gradients)
        variances.append((probability @ (gradients - means[-1]).square()).sum().item())
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=1e-12)
    assert variances[0] > gain * variances[1]


def test_straight_through_hands_the_gradient_over():
    continuous = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    quantised = continuous.detach().round().requires_grad_()
    output = straight_through(continuous, quantised)
    assert torch.equal(output, quantised)
    (output * 3.0).sum().backward()
    assert torch.equal(continuous.grad, torch.full_like(continuous, 3.0)) and quantised.grad is None


def test_nearest_code_agrees_with_all_distances():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    codebook = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    distances = (vectors.unsqueeze(2) - codebook).norm(dim=-1)
    assert torch.equal(nearest_code(vectors, codebook), distances.argmin(dim=-1))


def test_beta_schedule_multiplies_by_a_constant():
    values = [exponential_schedule(2.0, 0.01, step / 4) for step in range(5)]
    assert values[0] == 2.0 and values[-1] == pytest.approx(0.01, rel=1e-12)
    assert [b / a for a, b in itertools.pairwise(values)] == pytest.approx([(0.01 / 2.0) ** 0.25] * 4, rel=1e-12)
    assert exponential_schedule(2.0, 0.01, 1.7) == pytest.approx(0.01), "after the horizon it stays"


def test_a_hard_draw_has_the_values_of_one_hots_and_the_gradient_of_the_relaxed_ones():
    """Also under function transforms, and where what it gave is changed in place afterwards."""
    generator = torch.Generator().manual_seed(0)
    logits, noise, weights = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(3))

    def weighed(x, hard):
        return (gumbel_softmax(x, noise, temperature=0.7, hard=hard) * weights).sum()

    expected = (logits + noise).argmax(dim=-1)
    values = gumbel_softmax(logits.clone().requires_grad_(), noise, temperature=0.7)
    assert torch.equal(values, torch.nn.functional.one_hot(expected, 5).double())
    torch.testing.assert_close(torch.func.grad(weighed)(logits, True), torch.func.grad(weighed)(logits, False))
    each = torch.func.vmap(lambda x, g: gumbel_softmax(x, g, temperature=0.7))(logits, noise)
    assert torch.equal(each, values)
    x = logits.clone().requires_grad_()
    gumbel_softmax(x, noise, temperature=0.7).mul_(weights).sum().backward()
    torch.testing.assert_close(x.grad, torch.func.grad(weighed)(logits, False))
