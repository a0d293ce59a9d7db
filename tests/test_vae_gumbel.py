"""Gumbel-softmax and Gumbel-Rao: laws of the noise, means of the gradients, sampling through time."""

import math

import numpy as np
import pytest
import torch
from gumbel_doubles import ERRORS, seeded, standard_error
from scipy.stats import ks_2samp

from motionlex.motion_vae.estimators import conditional_gumbels, gumbel_noise, gumbel_rao, gumbel_softmax
from motionlex.motion_vae.losses import gathered_log_prob
from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder
from motionlex.motion_vae.networks.relaxed import relaxed_sequence
from motionlex.motion_vae.networks.transformer import TransformerConfig

EULER_GAMMA = 0.5772156649015329
LOGITS = torch.tensor([0.3, -1.2, 1.1, 0.0], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
TARGET = 0.4
TEMPERATURE = 0.7


def draw_index(rows, logits=LOGITS, seed=0):
    """Codes from softmax(l), without Gumbels."""
    return torch.multinomial(logits.softmax(-1), rows, replacement=True, generator=seeded(seed))


def nonlinear(one_hot, weights=WEIGHTS):
    """A function of the code whose gradient depends on the code, as that of a decoder does."""
    return (one_hot @ weights - TARGET).square()


def gradients(relaxed, logits):
    """Gradient for every row on its own."""
    return torch.autograd.grad(nonlinear(relaxed, WEIGHTS[: logits.shape[-1]]).sum(), logits)[0]


def straight_through_gradients(rows, logits=LOGITS, seed=1):
    logits = logits.repeat(rows, 1).requires_grad_()
    noise = gumbel_noise(logits.detach(), seeded(seed))
    return gradients(gumbel_softmax(logits, noise, temperature=TEMPERATURE), logits)


def rao_gradients(rows, logits=LOGITS, *, samples=5, as_published=False, seed=2):
    index = draw_index(rows, logits, seed)
    logits = logits.repeat(rows, 1).requires_grad_()
    relaxed = gumbel_rao(
        logits, index, seeded(seed + 1), temperature=TEMPERATURE, samples=samples, as_published=as_published
    )
    return gradients(relaxed, logits)


def assert_same_mean(one, other):
    error = (standard_error(one).square() + standard_error(other).square()).sqrt()
    assert ((one.mean(dim=0) - other.mean(dim=0)).abs() < ERRORS * error).all()


class TestConditionalGumbels:
    rows = 100_000

    def perturbed(self, index):
        return conditional_gumbels(LOGITS, torch.tensor(index), seeded(), samples=self.rows)

    @pytest.mark.parametrize("index", range(4))
    def test_the_largest_is_the_index_and_a_gumbel_of_the_total(self, index):
        perturbed = self.perturbed(index)
        assert (perturbed.argmax(dim=-1) == index).all()
        largest = perturbed[:, index]
        total = math.log(sum(math.exp(value) for value in LOGITS.tolist()))
        assert abs(largest.mean() - (total + EULER_GAMMA)) < ERRORS * standard_error(largest)
        squares = (largest - total - EULER_GAMMA).square()
        assert abs(squares.mean() - math.pi**2 / 6) < ERRORS * standard_error(squares)

    @pytest.mark.parametrize("index", [1, 2])
    def test_law_is_that_of_rejection_sampling(self, index):
        free = LOGITS + gumbel_noise(LOGITS.expand(10 * self.rows, 4), seeded(5))
        accepted = free[free.argmax(dim=-1) == index]
        conditional = self.perturbed(index)
        for code in range(4):  # Kolmogorov-Smirnov; seeded, so a level of 1e-3 is no lottery
            assert ks_2samp(accepted[:, code], conditional[:, code]).pvalue > 1e-3
        # Neighbours too, since their dependence through the maximum is what the softmax sees.
        gap, gap_conditional = accepted[:, 0] - accepted[:, 3], conditional[:, 0] - conditional[:, 3]
        assert ks_2samp(gap, gap_conditional).pvalue > 1e-3

    def test_averaged_over_indices_the_law_is_free(self):
        index = draw_index(self.rows)
        perturbed = conditional_gumbels(LOGITS.repeat(self.rows, 1), index, seeded(1), samples=2).flatten(0, 1)
        assert ((perturbed.mean(0) - LOGITS - EULER_GAMMA).abs() < ERRORS * standard_error(perturbed)).all()

    def test_huge_and_tiny_logits_stay_finite(self):
        logits = torch.tensor([[80.0, -80.0, 0.0], [0.0, -200.0, 1e4]])
        for index in range(3):
            drawn = conditional_gumbels(logits, torch.tensor([index, index]), seeded(), samples=50)
            assert torch.isfinite(drawn).all() and (drawn.amax(-1) == drawn[..., index]).all()


class TestNoise:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_moments(self, dtype):
        noise = gumbel_noise(torch.zeros(200_000, dtype=dtype), seeded()).double()
        assert torch.isfinite(noise).all()
        assert abs(noise.mean() - EULER_GAMMA) < ERRORS * standard_error(noise)
        squares = (noise - EULER_GAMMA).square()
        assert abs(squares.mean() - math.pi**2 / 6) < ERRORS * standard_error(squares)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_values_are_exactly_zero_and_one(dtype):
    logits = torch.randn(500, 7, generator=seeded(), dtype=dtype, requires_grad=True)
    noise = gumbel_noise(logits.detach(), seeded(1))
    index = (logits + noise).argmax(dim=-1)
    hard = gumbel_softmax(logits, noise, temperature=0.3)
    averaged = gumbel_rao(logits, index, seeded(2), temperature=0.3, samples=3)
    assert torch.equal(hard, torch.eye(7, dtype=dtype)[index]) and torch.equal(hard, averaged)


def quadrature(temperature, logits, *, published):
    """E[gradient for the first of two logits], by the integral over the logistic difference of the perturbed logits.

    With X = l_1 - l_2 + L the draw is code 1 if X > 0. Given the draw, |X| = ln(1 + R / p) with R a ratio of
    exponentials and p the probability of the draw, so that dX / dl_1 through the conditional noise is
    p (1 - exp(-|X|)) instead of 1.
    """
    difference = float(logits[0] - logits[1])
    x = np.linspace(-60.0, 60.0, 2_000_001)
    density = 0.25 / np.cosh((x - difference) / 2.0) ** 2
    first = x > 0.0
    weights = WEIGHTS[:2].numpy()
    slope = 2.0 * (np.where(first, weights[0], weights[1]) - TARGET) * (weights[0] - weights[1])
    jacobian = 0.25 / np.cosh(x / temperature / 2.0) ** 2 / temperature
    if published:
        probability = 1.0 / (1.0 + math.exp(-difference))
        jacobian = jacobian * np.where(first, probability, 1.0 - probability) * -np.expm1(-np.abs(x))
    return float(np.trapezoid(density * slope * jacobian, x))


class TestTwoCodes:
    """Every estimator against its own expectation, computed without sampling."""

    logits = LOGITS[:2]

    @pytest.mark.parametrize("samples", [1, 4])
    @pytest.mark.parametrize("published", [False, True])
    def test_gumbel_rao(self, published, samples):
        found = rao_gradients(200_000, self.logits, samples=samples, as_published=published)[:, 0]
        expected = quadrature(TEMPERATURE, self.logits, published=published)
        assert abs(found.mean() - expected) < ERRORS * standard_error(found)

    def test_straight_through(self):
        found = straight_through_gradients(200_000, self.logits)[:, 0]
        assert abs(found.mean() - quadrature(TEMPERATURE, self.logits, published=False)) < ERRORS * standard_error(
            found
        )

    def test_the_published_gradient_is_another_and_smaller(self):
        ours = quadrature(TEMPERATURE, self.logits, published=False)
        theirs = quadrature(TEMPERATURE, self.logits, published=True)
        assert theirs / ours == pytest.approx(0.2513, abs=1e-4)  # at temperature 0.7


class TestFourCodes:
    rows = 100_000

    def test_mean_is_that_of_straight_through_with_less_variance(self):
        straight = straight_through_gradients(self.rows)
        variance = {"straight": straight.var(dim=0).sum().item()}
        for samples in (1, 10):
            rao = rao_gradients(self.rows, samples=samples)
            assert_same_mean(rao, straight)
            variance[samples] = rao.var(dim=0).sum().item()
        # One conditional draw is only another way to draw the same noise; 2 % is five standard errors of a variance.
        assert variance[1] == pytest.approx(variance["straight"], rel=0.02)
        # Law of total variance: V_K = V_infinity + (V_1 - V_infinity) / K, so K = 10 keeps at least a tenth.
        assert 0.1 < variance[10] / variance[1] < 0.75

    def test_variance_falls_as_the_law_of_total_variance_says(self):
        variance = {k: rao_gradients(self.rows, samples=k).var(dim=0).sum().item() for k in (1, 2, 5)}
        limit = 2.0 * variance[2] - variance[1]
        assert limit > 0.0
        assert variance[5] == pytest.approx(limit + (variance[1] - limit) / 5.0, rel=0.03)

    def test_as_published_has_another_mean(self):
        straight = straight_through_gradients(self.rows)
        published = rao_gradients(self.rows, as_published=True)
        error = (standard_error(straight).square() + standard_error(published).square()).sqrt()
        distance = ((published.mean(0) - straight.mean(0)).abs() / error).max()
        ratio = published.mean(0).norm() / straight.mean(0).norm()
        assert distance > 50.0
        assert ratio < 0.6

    def test_straight_through_is_biased(self):
        """By enumeration, the exact gradient is p (f - E f); the relaxation's is neither as long nor parallel."""
        probability = LOGITS.softmax(-1)
        values = nonlinear(torch.eye(4, dtype=torch.float64))
        exact = probability * (values - probability @ values)
        found = straight_through_gradients(self.rows)
        distance = (found.mean(0) - exact).abs() / standard_error(found)
        assert distance.max() > 50.0
        relative = (found.mean(0) - exact).norm() / exact.norm()
        assert 0.05 < relative < 2.0


class TestTemperature:
    def relaxations(self, logits, temperature):
        noise = gumbel_noise(logits.detach(), seeded())
        index = (logits + noise).argmax(dim=-1)
        yield gumbel_softmax(logits, noise, temperature=temperature)
        yield gumbel_rao(logits, index, seeded(1), temperature=temperature, samples=4)

    def test_hot_gradients_are_those_of_the_flat_softmax(self):
        """As tau grows, tau dy/dl tends to (1 - 1 1^T / V) / V whatever the noise; the next term is O(1 / tau)."""
        upstream = torch.randn(30, 4, generator=seeded(3), dtype=torch.float64)
        expected = (upstream - upstream.mean(dim=-1, keepdim=True)) / 4.0
        logits = LOGITS.repeat(30, 1).requires_grad_()
        for relaxed in self.relaxations(logits, 1e6):
            gradient = torch.autograd.grad((relaxed * upstream).sum(), logits)[0]
            torch.testing.assert_close(1e6 * gradient, expected, atol=1e-4, rtol=0)

    def test_cold_gradients_vanish(self):
        """As tau falls, every draw but those within some tau of a tie is constant in the logits."""
        logits = LOGITS.repeat(30, 1).requires_grad_()
        for relaxed in self.relaxations(logits, 1e-7):
            assert gradients(relaxed, logits).abs().max() < 1e-12

    def test_soft_draws_become_hard(self):
        noise = gumbel_noise(LOGITS.expand(30, 4), seeded())
        soft = gumbel_softmax(LOGITS.expand(30, 4), noise, temperature=1e-4, hard=False)
        hard = gumbel_softmax(LOGITS.expand(30, 4), noise, temperature=1e-4)
        torch.testing.assert_close(soft, hard, atol=1e-12, rtol=0)


def tiny_decoder(*, aligned, dtype=torch.float64, vocabulary=3, tokens=4):
    config = TransformerConfig(width=8, heads=2, layers=2, mlp_ratio=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = AutoregressiveDecoder(config, vocabulary=vocabulary, tokens=tokens, aligned=aligned).to(dtype)
    return decoder


def tiny_memory(batch, dtype=torch.float64, tokens=4):
    return torch.randn(batch, tokens, 8, generator=seeded(), dtype=dtype)


def noises(noise):
    """A relaxation that takes its noise (token, batch, code) from a list."""
    remaining = iter(noise)
    return lambda logits: gumbel_softmax(logits, next(remaining), temperature=TEMPERATURE)


def unrolled(decoder, memory, noise, *, through_time=True):
    """The same draws without a cache: at every step all blocks see the whole past under their causal mask."""
    codebook, begin = decoder.embedding.weight[:-1], decoder.embedding.weight[-1]
    past, draws = [begin.expand(len(memory), -1)], []
    for step in range(decoder.tokens):
        x = torch.stack(past, dim=1) + decoder.positions[: step + 1]
        x = (x + memory[:, : step + 1] if decoder.aligned else x).unsqueeze(1)
        for block in decoder.blocks:
            x = block(x, memory)
        logits = decoder.output(decoder.norm(x))[:, 0, -1]
        soft = ((logits + noise[step]) / TEMPERATURE).softmax(dim=-1)
        hard = torch.nn.functional.one_hot(soft.argmax(dim=-1), decoder.vocabulary).to(soft.dtype)
        draws.append(hard + soft - soft.detach())
        past.append((draws[-1] if through_time else hard) @ codebook)
    return torch.stack(draws, dim=1)


@pytest.mark.parametrize("aligned", [False, True])
class TestAutoregressiveSampling:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_log_q_is_teacher_forced_log_q(self, aligned, dtype, tolerance):
        decoder, memory = tiny_decoder(aligned=aligned, dtype=dtype), tiny_memory(50, dtype)
        noise = gumbel_noise(torch.zeros(4, 50, 3, dtype=dtype), seeded(1))
        one_hot, logits = relaxed_sequence(decoder, memory, noises(noise))
        indices = one_hot.argmax(dim=-1)
        assert all((indices == code).any() for code in range(3))
        torch.testing.assert_close(indices, (logits + noise.transpose(0, 1)).argmax(dim=-1))
        sampled = gathered_log_prob(logits, indices)
        forced = decoder.log_prob(indices.unsqueeze(1), memory).squeeze(1)
        torch.testing.assert_close(sampled, forced, atol=tolerance, rtol=0)

    def test_gradient_is_that_of_the_unrolled_graph(self, aligned):
        decoder, memory = tiny_decoder(aligned=aligned), tiny_memory(5).requires_grad_()
        noise = gumbel_noise(torch.zeros(4, 5, 3, dtype=torch.float64), seeded(1))
        upstream = torch.randn(4, 3, generator=seeded(2), dtype=torch.float64)
        inputs = [memory, *decoder.parameters()]

        def gradient(draws):
            return torch.autograd.grad((draws * upstream).sum(dim=(1, 2)).square().sum(), inputs, retain_graph=True)

        found, _ = relaxed_sequence(decoder, memory, noises(noise))
        expected = unrolled(decoder, memory, noise)
        torch.testing.assert_close(found, expected)
        for one, other in zip(gradient(found), gradient(expected)):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        cut = gradient(unrolled(decoder, memory, noise, through_time=False))
        assert (cut[0] - gradient(expected)[0]).norm() > 0.01 * cut[0].norm()  # the test sees what it must see

    def test_soft_draws_have_the_derivative_of_finite_differences(self, aligned):
        decoder, memory = tiny_decoder(aligned=aligned, tokens=3), tiny_memory(1, tokens=3).requires_grad_()
        noise = gumbel_noise(torch.zeros(3, 1, 3, dtype=torch.float64), seeded(1))

        def soft(memory):
            remaining = iter(noise)
            return relaxed_sequence(
                decoder, memory, lambda logits: gumbel_softmax(logits, next(remaining), temperature=1.0, hard=False)
            )

        assert torch.autograd.gradcheck(soft, (memory,))
