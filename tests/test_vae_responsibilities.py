"""Responsibilities, their divergence and the entropy bounds of RRVQ, appendix D."""

import math

import pytest
import torch
from torch.distributions import Categorical, MultivariateNormal, kl_divergence

from motionlex.motion_vae.hierarchy import free_bits
from motionlex.motion_vae.responsibilities import categorical_kl, code_bits, lowest_entropy, responsibility_logits


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy(logits):
    return Categorical(logits=logits).entropy()


def test_responsibilities_by_hand():
    """Two codes at 0 and 2 with variances 1 and 4, embedding at 1: densities e^(-1/2) and e^(-1/8) / 2."""
    logits = responsibility_logits(
        torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [math.log(4.0)]])
    )
    weights = [math.exp(-0.5), math.exp(-0.125) / 2.0]
    wanted = torch.tensor([[w / sum(weights) for w in weights]])
    torch.testing.assert_close(logits.softmax(dim=-1), wanted)


def test_responsibilities_are_the_posterior_of_a_gaussian_mixture():
    means, log_variances, embeddings = normal(7, 5), normal(7, 5, seed=1), normal(3, 4, 5, seed=2)
    mixture = MultivariateNormal(means, torch.diag_embed(log_variances.exp()))
    log_density = mixture.log_prob(embeddings.unsqueeze(-2))
    found = responsibility_logits(embeddings, means, log_variances)
    torch.testing.assert_close(found.log_softmax(-1), log_density.log_softmax(-1))
    # Not only up to a constant per embedding: only the factor (2 pi)^(-d/2) is left out.
    torch.testing.assert_close(found - 2.5 * math.log(2 * math.pi), log_density)


@pytest.mark.parametrize("log_variances", [None, torch.zeros(7, 5, dtype=torch.float64)])
def test_unit_variances_give_the_softmax_of_squared_distances(log_variances):
    """Equation 2 of the paper: rVQ-VAE."""
    means, embeddings = normal(7, 5), normal(3, 4, 5, seed=2)
    distances = torch.cdist(embeddings, means.expand(3, 7, 5))
    found = responsibility_logits(embeddings, means, log_variances)
    torch.testing.assert_close(found.softmax(-1), (-0.5 * distances.square()).softmax(-1))


def test_wide_codes_win_far_away_and_narrow_ones_nearby():
    """Section 3.2.1: a code with a large variance is preferred by embeddings far from all means."""
    means, log_variances = torch.zeros(2, 3), torch.tensor([[0.0], [4.0]]).expand(2, 3)
    logits = responsibility_logits(torch.tensor([[0.1] * 3, [9.0] * 3]), means, log_variances)
    assert logits.argmax(dim=-1).tolist() == [0, 1]


def test_float32_keeps_its_digits_far_from_the_origin():
    """Expanding the square would otherwise lose the differences of distances: 100^2 * 2^-24 is 6e-4 nats per value."""
    means, log_variances = normal(7, 16) + 100.0, 0.3 * normal(7, 16, seed=1)
    embeddings = normal(50, 16, seed=2) + 100.0
    exact = responsibility_logits(embeddings, means, log_variances)
    found = responsibility_logits(embeddings.float(), means.float(), log_variances.float())
    # What is left is the rounding of the inputs: 100 * 2^-24 per coordinate, times slopes of about 3.
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3)


def test_half_precision_bodies_get_float32_logits():
    embeddings, means = normal(2, 3, 5).bfloat16(), normal(7, 5).float()
    exact = responsibility_logits(embeddings.float(), means, means)
    with torch.autocast("cpu", torch.bfloat16):
        found = responsibility_logits(embeddings, means, means)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact)


def test_divergence_of_categoricals():
    q, p = 2.0 * normal(3, 4, 6), normal(3, 4, 6, seed=1)
    wanted = kl_divergence(Categorical(logits=q), Categorical(logits=p)).sum(dim=1)
    torch.testing.assert_close(categorical_kl(q, p), wanted)
    uniform = kl_divergence(Categorical(logits=q), Categorical(logits=torch.zeros_like(q))).sum(dim=1)
    torch.testing.assert_close(categorical_kl(q, None), uniform)


def test_divergence_is_that_of_the_joint_distribution():
    """Two independent tokens of three codes: all nine sequences."""
    q, p = 2.0 * normal(1, 2, 3), normal(1, 2, 3, seed=1)
    tokens = [logits.log_softmax(-1)[0] for logits in (q, p)]
    joint = [log_p[0].unsqueeze(1) + log_p[1].unsqueeze(0) for log_p in tokens]
    wanted = (joint[0].exp() * (joint[0] - joint[1])).sum()
    torch.testing.assert_close(categorical_kl(q, p)[0], wanted)


def test_divergence_survives_sure_categoricals():
    sure = torch.tensor([[[200.0, 0.0, -200.0]]], requires_grad=True)
    divergence = categorical_kl(sure, None)
    torch.testing.assert_close(divergence, torch.tensor([math.log(3.0)]))
    divergence.sum().backward()
    assert torch.isfinite(sure.grad).all()


def test_free_bits_by_hand():
    """Layer means 2 and 0.1 with floors 0.5: the second counts as 0.5 and has no gradient."""
    first, second = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([0.05, 0.15], requires_grad=True)
    total = free_bits([first, second], [0.5, 0.5])
    assert total.item() == pytest.approx(2.5)
    total.backward()
    assert first.grad.tolist() == [0.5, 0.5] and second.grad.tolist() == [0.0, 0.0]


def test_bits_of_the_papers_hierarchies():
    """Appendix F: 2,275 bits of CelebA; the L = 5 model of CIFAR-10 has 341 tokens of 8 bits."""
    assert code_bits((256, 64, 16, 4, 1), (128, 64, 32, 16, 8)) == 2275
    assert code_bits((256, 64, 16, 4, 1), [256] * 5) == 341 * 8


# --- appendix D ------------------------------------------------------------------------------------------------------


def worst_case(vocabulary, distance, separation, width=32):
    """Theorem 1: one code at ``distance`` from the embedding, all others ``separation`` further on the same line."""
    direction = torch.nn.functional.normalize(normal(width), dim=0)
    distances = torch.full((vocabulary, 1), distance + separation, dtype=torch.float64)
    distances[0] = distance
    return entropy(responsibility_logits(torch.zeros(1, width, dtype=torch.float64), distances * direction))[0]


def worst_case_softmax(vocabulary, gap, offset=-3.0):
    """Theorem 2: one logit is larger than all others by ``gap``."""
    logits = torch.full((vocabulary,), offset, dtype=torch.float64)
    logits[0] += gap
    return entropy(logits)


@pytest.mark.parametrize("vocabulary", [2, 256])
@pytest.mark.parametrize("separation", [0.5, 1.0])
def test_theorem_1_to_first_order(vocabulary, separation):
    r"""The remainder is second order in (K - 1) e^-g, with the coefficient of the next term of the expansion.

    With n = K - 1 and e = exp(-g), exactly H = ln(1 + n e) + g n e / (1 + n e) = n e (1 + g) - n^2 e^2 (g + 1/2) + ...,
    so (first order - H) / (n^2 e^2 (g + 1/2)) tends to one, and a wrong first order would let it diverge. The
    thousandth is rounding: for two codes the difference is the eleventh digit of squared distances of 650.
    """
    for gap in (9.0, 11.0, 13.0):
        distance = (gap - separation**2 / 2.0) / separation
        exact, first = worst_case(vocabulary, distance, separation).item(), lowest_entropy(vocabulary, gap)
        small = (vocabulary - 1) * math.exp(-gap)
        assert (first - exact) / (small**2 * (gap + 0.5)) == pytest.approx(1.0, abs=2.0 * small + 1e-3)


@pytest.mark.parametrize("vocabulary", [2, 256])
def test_theorem_2_to_first_order(vocabulary):
    errors = []
    for gap in (9.0, 11.0, 13.0):
        exact, first = worst_case_softmax(vocabulary, gap).item(), lowest_entropy(vocabulary, gap)
        small = (vocabulary - 1) * math.exp(-gap)
        assert (first - exact) / (small**2 * (gap + 0.5)) == pytest.approx(1.0, abs=2.0 * small + 1e-3)
        errors.append((first - exact) / exact)
    # Section D.3 reports proportional errors of about 1e-6 beyond 10: two codes reach that between 13 and 14.
    assert errors[0] > errors[1] > errors[2] and (vocabulary > 2 or errors[-1] < 3e-6)


def test_no_distribution_of_the_same_range_is_less_uncertain():
    """The arrangement of theorem 2 is the worst one: logits within the same range never have a lower entropy."""
    gap, vocabulary = 6.0, 5
    logits = gap * torch.rand(20_000, vocabulary, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = gap * logits.gt(gap / 2).double()  # corners of the same cube, where a minimum must lie
    lowest = worst_case_softmax(vocabulary, gap).item()
    assert entropy(logits).min() >= lowest
    mixed = edges[(edges.amax(dim=1) > 0.0)]
    assert Categorical(logits=mixed).entropy().min().item() == pytest.approx(lowest, rel=1e-9)


def test_corollary_close_codes_stay_more_uncertain_than_logits():
    """At an output of size 20, codes less than one apart leave more entropy than logits; codes two apart leave less."""
    for separation, more in ((0.25, True), (0.9, True), (2.0, False)):
        assert (worst_case(256, 20.0, separation) > worst_case_softmax(256, 20.0)).item() == more


def test_random_codebooks_stay_far_from_the_worst_case():
    """Figure D.6: codes uniform on a sphere of radius 0.5 lie at most one apart, and never come near the bound."""
    generator = torch.Generator().manual_seed(0)
    for distance in (5.0, 10.0, 20.0):
        codes = torch.randn(100, 256, 32, generator=generator, dtype=torch.float64)
        codes = 0.5 * torch.nn.functional.normalize(codes, dim=-1)
        embedding = torch.zeros(1, 32, dtype=torch.float64)
        embedding[0, 0] = distance
        entropies = torch.stack([entropy(responsibility_logits(embedding, book))[0] for book in codes])
        closest = distance - 0.5
        assert entropies.min() > worst_case(256, closest, 1.0) and entropies.mean() > 1.0
