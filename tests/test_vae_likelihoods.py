"""Distributions over data: totals, known values, reference libraries, extremes and precision."""

import math

import pytest
import torch
from scipy import stats

from motionlex.motion_vae.likelihoods import (
    FAMILIES,
    DiscretisedLogistic,
    LikelihoodConfig,
    LikelihoodHead,
    bits_per_dimension,
)

LEVELS = torch.arange(256, dtype=torch.float64) / 255.0
MEANS = (-3.0, -0.1, 0.0, 0.3, 100.5 / 255.0, 0.5, 200.0 / 255.0, 1.0, 1.2, 4.0)
LOG_SCALES = (-40.0, -12.0, -7.0, -5.0, -2.0, 0.0, 3.0, 12.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def head(family, features=3, **settings):
    return LikelihoodHead(LikelihoodConfig(family=family, **settings), features)


def logistic(mean, log_scale, dtype=torch.float64):
    return DiscretisedLogistic(torch.tensor(mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype))


# --- discretised logistic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@pytest.mark.parametrize("mean", MEANS)
def test_discretised_logistic_sums_to_one(mean, log_scale):
    total = logistic(mean, log_scale).log_prob(LEVELS).exp().sum().item()
    # 256 terms, each rounded relative to its own size; bins of a hundredth of a billionth of a scale lose more.
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("log_scale", [-7.0, -5.0, -2.0, 0.0])
@pytest.mark.parametrize("mean", [-0.1, 0.3, 0.5, 1.2])
def test_discretised_logistic_is_the_difference_of_two_distribution_functions(mean, log_scale):
    """Against scipy's logistic, from whichever side keeps its digits."""
    reference = stats.logistic(loc=mean, scale=math.exp(log_scale))
    found = logistic(mean, log_scale).log_prob(LEVELS)
    for level in (0, 1, 77, 128, 254, 255):
        low, high = (level - 0.5) / 255.0, (level + 0.5) / 255.0
        low, high = -math.inf if level == 0 else low, math.inf if level == 255 else high
        above = low > mean
        # sf and cdf are exact in their own tail; there the smaller of the two terms is far below the larger one.
        larger, smaller = (
            (reference.logsf(low), reference.logsf(high)) if above else (reference.logcdf(high), reference.logcdf(low))
        )
        wanted = larger + math.log(-math.expm1(smaller - larger)) if smaller > -math.inf else larger
        assert found[level].item() == pytest.approx(wanted, rel=1e-9, abs=1e-9), level


@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_discretised_logistic_in_float32_keeps_the_digits_and_a_finite_gradient(log_scale):
    mean = torch.tensor(MEANS).unsqueeze(1).requires_grad_()
    scale = torch.tensor(log_scale).requires_grad_()
    found = DiscretisedLogistic(mean.expand(-1, 256), scale).log_prob(LEVELS.float())
    exact = DiscretisedLogistic(mean.double(), scale.double()).log_prob(LEVELS)
    # A pixel's distance to the mean is rounded to 1e-7 and divided by the scale.
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4 + 1e-6 * math.exp(-log_scale))
    found.mean().backward()
    assert torch.isfinite(mean.grad).all() and torch.isfinite(scale.grad)


def test_gradient_of_the_discretised_logistic_is_that_of_finite_differences():
    mean = torch.tensor([0.1, 0.5, 0.97], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    value = torch.tensor([0.0, 130.0, 255.0], dtype=torch.float64) / 255.0
    assert torch.autograd.gradcheck(lambda m, s: DiscretisedLogistic(m, s).log_prob(value), (mean, scale))


def test_bits_per_dimension_in_known_cases():
    """A sure pixel costs nothing, a fair coin one bit, a uniform byte eight, and no model of uniform bytes fewer."""
    sure = logistic(77.0 / 255.0, -12.0).log_prob(LEVELS[77])
    assert bits_per_dimension(sure, 1).item() == pytest.approx(0.0, abs=1e-12)
    coin = head("bernoulli")(torch.zeros(1, 4, 3, dtype=torch.float64)).log_prob(torch.ones(1, 4, 3))
    assert bits_per_dimension(coin, 12).item() == pytest.approx(1.0)
    uniform = torch.full((5,), -10 * math.log(256.0), dtype=torch.float64)
    torch.testing.assert_close(bits_per_dimension(uniform, 10), torch.full((5,), 8.0, dtype=torch.float64))
    costs = [bits_per_dimension(logistic(0.5, s).log_prob(LEVELS), 1).mean().item() for s in LOG_SCALES]
    near = bits_per_dimension(logistic(0.5, math.log(0.25)).log_prob(LEVELS), 1).mean().item()
    assert min(costs) >= 8.0 and 8.0 < near < 8.4  # cross-entropy with the uniform distribution (Gibbs)


# --- heads -----------------------------------------------------------------------------------------------------------


def test_gaussian_of_the_paper_has_its_constant():
    """32 x 121 features at variance 0.25: no reconstruction is better than -874.26 nats."""
    x = torch.randn(2, 32, 121, generator=seeded(), dtype=torch.float64)
    distribution = head("gaussian", 121)(x)
    torch.testing.assert_close(
        distribution.log_prob(x), torch.full((2,), -874.26, dtype=torch.float64), atol=0.01, rtol=0
    )
    # Half a unit off everywhere is one standard deviation: half a nat per value.
    off = distribution.log_prob(x + 0.5) - distribution.log_prob(x)
    torch.testing.assert_close(off, torch.full((2,), -0.5 * 32 * 121, dtype=torch.float64))


def test_learned_gaussian_has_one_bounded_variance_per_feature():
    model = head("learned_gaussian", variance=0.2, smallest_variance=0.05, largest_variance=0.5)
    raw, x = (torch.randn(2, 4, 3, generator=seeded(n)) for n in (0, 1))
    reference = torch.distributions.Normal(raw, math.sqrt(0.2)).log_prob(x).sum(dim=(1, 2))
    torch.testing.assert_close(model(raw).log_prob(x), reference)
    with torch.no_grad():
        model.log_variance.copy_(torch.tensor([0.001, 0.3, 7.0]).log())
    bounded = torch.tensor([0.05, 0.3, 0.5]).sqrt()
    reference = torch.distributions.Normal(raw, bounded).log_prob(x).sum(dim=(1, 2))
    torch.testing.assert_close(model(raw).log_prob(x), reference)
    model(raw).log_prob(x).sum().backward()
    assert model.log_variance.grad[1] != 0.0


def test_learned_variance_starts_within_its_bounds():
    model = head("learned_gaussian", variance=3.0)
    torch.testing.assert_close(model.log_variance.detach().exp(), torch.ones(3))


def test_predicted_gaussian_has_a_bounded_variance_per_value():
    model = head("predicted_gaussian")
    assert model.channels == 6
    mean = torch.randn(2, 4, 3, generator=seeded())
    variance = torch.tensor([1e-5, 0.04, 50.0]).expand(2, 4, 3)
    raw = torch.cat([mean, variance.log()], dim=-1).requires_grad_()
    x = torch.randn(2, 4, 3, generator=seeded(1))
    reference = torch.distributions.Normal(mean, variance.clamp(0.01, 1.0).sqrt()).log_prob(x).sum(dim=(1, 2))
    found = model(raw)
    torch.testing.assert_close(found.log_prob(x), reference)
    torch.testing.assert_close(found.mean, mean)
    found.log_prob(x).sum().backward()
    assert (raw.grad[..., [0, 1, 2, 4]] != 0.0).all()


def test_bernoulli_is_binary_cross_entropy():
    raw, x = torch.randn(2, 4, 3, generator=seeded()), torch.rand(2, 4, 3, generator=seeded(1)).round()
    probability = 1.0 / (1.0 + torch.exp(-raw))
    by_hand = (x * probability.log() + (1 - x) * (1 - probability).log()).sum(dim=(1, 2))
    distribution = head("bernoulli")(raw)
    torch.testing.assert_close(distribution.log_prob(x), by_hand)
    torch.testing.assert_close(distribution.mean, probability)


def test_one_learned_scale_for_the_discretised_logistic():
    model = head("discretised_logistic")
    assert sum(p.numel() for p in model.parameters()) == 1
    raw = torch.rand(2, 4, 3, generator=seeded())
    x = (torch.rand(2, 4, 3, generator=seeded(1)) * 255).round() / 255
    one_by_one = sum(
        DiscretisedLogistic(raw[:, i, j], model.log_scale).log_prob(x[:, i, j]) for i in range(4) for j in range(3)
    )
    torch.testing.assert_close(model(raw).log_prob(x), one_by_one)
    model(raw).log_prob(x).sum().backward()
    assert model.log_scale.grad != 0.0


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_reconstructions_of_one_example_are_scored_at_once(self, family):
        """(batch, sample, item, channel) against (batch, 1, item, feature) is a loop over samples."""
        model = head(family)
        raw = torch.rand(2, 5, 4, model.channels, generator=seeded())
        x = torch.rand(2, 4, 3, generator=seeded(1)).round()
        together = model(raw).log_prob(x.unsqueeze(1))
        assert together.shape == (2, 5) and model(raw).mean.shape == (2, 5, 4, 3)
        for sample in range(5):
            torch.testing.assert_close(together[:, sample], model(raw[:, sample]).log_prob(x))

    def test_half_precision_outputs_are_scored_in_float32(self, family):
        model = head(family)
        raw = torch.rand(2, 4, model.channels, generator=seeded()).bfloat16()
        x = torch.rand(2, 4, 3, generator=seeded(1)).round()
        exact = model(raw.float()).log_prob(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(raw)
            assert found.mean.dtype == torch.float32
            torch.testing.assert_close(found.log_prob(x), exact)

    def test_double_precision_stays(self, family):
        model = head(family).double()
        raw = torch.rand(2, 4, model.channels, generator=seeded(), dtype=torch.float64)
        assert model(raw).log_prob(torch.zeros(2, 4, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variance": 0.0}, "variance must be positive and finite, got 0"),
        ({"variance": math.nan}, "variance must be positive and finite, got nan"),
        ({"variance": math.inf}, "variance must be positive and finite, got inf"),
        ({"smallest_variance": 0.0}, "wanted 0 < smallest_variance < largest_variance, got 0.0 and 1.0"),
        ({"smallest_variance": 2.0}, "wanted 0 < smallest_variance < largest_variance, got 2.0 and 1.0"),
    ],
)
def test_bad_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodConfig(**settings)
