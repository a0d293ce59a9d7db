"""Gaussian latents: closed forms against torch.distributions and draws, for one layer, a hierarchy and transformers."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from motionlex.motion_vae.contract import Codes
from motionlex.motion_vae.diagonal_gaussians import (
    LOG_VARIANCE_RANGE,
    gaussian_kl,
    gaussian_log_density,
    gaussian_parameters,
    gaussian_sample,
    standard_normal,
)
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.methods.gaussian import GaussianConfig
from motionlex.motion_vae.methods.spatial_vae import SpatialVAEConfig
from motionlex.motion_vae.networks.ladder import LadderConfig
from motionlex.motion_vae.registry import build_model, get_preset
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

SHAPE = TrajectoryDomain(frames=4, features=3)
NETWORKS = NetworkConfig(width=8, heads=2, layers=1, generator_layers=1, mlp_ratio=2)
LADDER = LadderConfig(width=4, blocks=1)
CONFIGS = {
    "gaussian": GaussianConfig(networks=NETWORKS, latent_width=1, beta_start=4.0, beta_end=0.01),
    "spatial_vae": SpatialVAEConfig(grid_tokens=(2,), ladder=LADDER, latent_width=2, beta_start=4.0, beta_end=0.01),
    "hierarchy": SpatialVAEConfig(grid_tokens=(2, 1), ladder=LADDER, latent_width=2, beta_start=4.0, beta_end=0.01),
    "learned_top": SpatialVAEConfig(
        grid_tokens=(2, 1), ladder=LADDER, latent_width=2, beta_start=4.0, beta_end=0.01, top_prior="learned"
    ),
}
DRAWS = 20_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def model_of(name):
    """A model with every weight drawn anew, in float64."""
    method = "gaussian" if name == "gaussian" else "spatial_vae"
    model = build_model(method, CONFIGS[name], SHAPE, seed=0).double()
    generator = seeded(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def torch_normal(parameters):
    mean, log_variance = parameters
    return Independent(Normal(mean, (0.5 * log_variance).exp()), 2)


# --- pure functions --------------------------------------------------------------------------------------------------


def test_closed_forms_against_torch():
    q, p = (normal(3, 4, 2), normal(3, 4, 2, seed=1)), (normal(3, 4, 2, seed=2), normal(3, 4, 2, seed=3))
    torch.testing.assert_close(gaussian_kl(q, p), kl_divergence(torch_normal(q), torch_normal(p)))
    unit = standard_normal(q)
    torch.testing.assert_close(gaussian_kl(q, unit), kl_divergence(torch_normal(q), torch_normal(unit)))
    value = normal(3, 4, 2, seed=4)
    torch.testing.assert_close(gaussian_log_density(value, q), torch_normal(q).log_prob(value))


def test_divergence_by_hand():
    """N(1, 4) from N(0, 1): (4 + 1 - 1 - ln 4) / 2."""
    q = (torch.ones(1, 1, 1), torch.full((1, 1, 1), math.log(4.0)))
    assert gaussian_kl(q, standard_normal(q)).item() == pytest.approx((4.0 - math.log(4.0)) / 2.0)


def test_draws_have_their_moments_and_gradients():
    """d mean / d mu = 1 and d E[z^2] / d ln s = s, by reparameterisation."""
    mean, log_variance = torch.tensor(0.7, requires_grad=True), torch.tensor(-0.5, requires_grad=True)
    q = (mean.expand(DRAWS, 1, 1), log_variance.expand(DRAWS, 1, 1))
    z = gaussian_sample(q, seeded())
    variance = math.exp(-0.5)
    assert abs(z.mean() - 0.7) < 4 * math.sqrt(variance / DRAWS)
    assert abs(z.var() - variance) < 4 * variance * math.sqrt(2 / DRAWS)
    slope = torch.autograd.grad(z.mean(), mean, retain_graph=True)[0]
    assert slope.item() == pytest.approx(1.0, rel=1e-4)
    slope = torch.autograd.grad(z.square().mean(), log_variance)[0]
    # The estimator is mean(2 z eps sd / 2) with a spread of about 1.5 per draw.
    assert abs(slope.item() - variance) < 4 * 1.5 / math.sqrt(DRAWS)


def test_parameters_are_bounded_and_float32():
    raw = torch.tensor([[[1.0, 2.0, -1e4, 1e4]]], dtype=torch.bfloat16)
    mean, log_variance = gaussian_parameters(raw)
    assert mean.dtype == log_variance.dtype == torch.float32 and mean[0, 0].tolist() == [1.0, 2.0]
    assert log_variance[0, 0].tolist() == list(LOG_VARIANCE_RANGE)
    assert torch.isfinite(gaussian_kl((mean, log_variance), standard_normal((mean, log_variance)))).all()


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
class TestModels:
    def test_divergence_is_the_mean_log_ratio_of_draws(self, name):
        model = model_of(name)
        x = normal(1, 4, 3, seed=7).expand(DRAWS, 4, 3)
        with torch.no_grad():
            codes = model.encode(x, seeded())
            ratio = codes.log_prob - codes.log_prior
            difference = ratio - model.kl_to_prior(x, codes)
        assert ratio.std() > 0.1
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(DRAWS)

    def test_densities_of_q_and_p_are_normalised(self, name):
        """E_q[p / q] = 1, from the densities that encode reports."""
        model = model_of(name)
        with torch.no_grad():
            codes = model.encode(normal(1, 4, 3, seed=7).expand(DRAWS, 4, 3), seeded())
        ratio = (codes.log_prior - codes.log_prob).exp()
        assert abs(ratio.mean() - 1.0) < 4 * ratio.std() / math.sqrt(DRAWS)

    def test_latents_have_no_codes(self, name):
        model = model_of(name)
        codes = model.encode(normal(2, 4, 3), seeded())
        assert codes.indices is None and not model.discrete and model.vocabulary == 0 and model.codebook is None
        with pytest.raises(TypeError, match="no codes to look up"):
            model.embed(torch.zeros(2, model.tokens, dtype=torch.long))

    def test_objective_is_the_weighted_bound(self, name):
        """Its terms, averaged over draws, are those of encode, decode and the closed form."""
        model = model_of(name)
        x = normal(1, 4, 3, seed=7).expand(DRAWS, 4, 3)
        with torch.no_grad():
            terms = model.loss(x, seeded(), progress=0.5)
            codes = model.encode(x, seeded(1))
            log_p, kl = model.decode(codes).log_prob(x), model.kl_to_prior(x, codes)
        error = 4 * log_p.std() * math.sqrt(2 / DRAWS)
        assert abs(-terms.terms["negative_log_p_nats"] - log_p.mean()) < error
        assert abs(terms.metrics["kl_nats"] - kl.mean()) < 4 * kl.std() * math.sqrt(2 / DRAWS) + 1e-9
        assert terms.metrics["beta"].item() == pytest.approx(0.2)  # half way between 4 and 0.01 on a logarithmic scale
        assert terms.terms["weighted_kl_nats"].item() == pytest.approx(0.2 * terms.metrics["kl_nats"].item())
        assert model.final_beta == 0.01

    def test_gradients_reach_every_parameter(self, name):
        model = model_of(name)
        model.loss(normal(4, 4, 3), seeded(), progress=0.5).total.backward()
        assert all(parameter.grad.abs().sum() > 0.0 for parameter in model.parameters())


def test_transformer_posterior_is_the_gaussian_of_its_densities():
    model = model_of("gaussian")
    x = normal(5, 4, 3)
    q = torch_normal(model.posterior(x))
    codes = model.encode(x, seeded())
    torch.testing.assert_close(codes.log_prob, q.log_prob(codes.embeddings))
    unit = Independent(Normal(torch.zeros_like(codes.embeddings), 1.0), 2)
    torch.testing.assert_close(codes.log_prior, unit.log_prob(codes.embeddings))
    torch.testing.assert_close(model.kl_to_prior(x, codes), kl_divergence(q, unit))


def test_hierarchy_conditions_each_layer_on_those_above():
    """By hand down two layers: the coarse latent comes first and moves q and p of the fine ones."""
    model = model_of("hierarchy")
    x, ladder = normal(5, 4, 3), model.ladder
    codes = model.encode(x, seeded())
    fine, coarse = ladder.bottom_up(x)
    top, below = codes.embeddings.split([1, 2], dim=1)
    q_top = torch_normal(gaussian_parameters(ladder.qladder[1](coarse).transpose(1, 2)))
    state = ladder.dec[1](ladder.pladder[1](top.transpose(1, 2)))
    q_below = torch_normal(gaussian_parameters((ladder.qladder[0](fine) + ladder.qstrap[0](state)).transpose(1, 2)))
    p_below = torch_normal(gaussian_parameters(ladder.pstrap[0](state).transpose(1, 2)))
    unit = torch_normal(standard_normal((top, top)))
    torch.testing.assert_close(codes.log_prob, q_top.log_prob(top) + q_below.log_prob(below))
    torch.testing.assert_close(codes.log_prior, unit.log_prob(top) + p_below.log_prob(below))
    wanted = kl_divergence(q_top, unit) + kl_divergence(q_below, p_below)
    torch.testing.assert_close(model.kl_to_prior(x, Codes(indices=None, embeddings=codes.embeddings)), wanted)


def test_samples_of_the_prior_have_its_density():
    """For one layer a standard normal; for two, the report equals what encode's prior says of the same latents."""
    model = model_of("spatial_vae")
    codes = model.sample_prior(5000, seeded())
    assert codes.log_prob is None and abs(codes.embeddings.mean()) < 4 / math.sqrt(codes.embeddings.numel())
    assert abs(codes.embeddings.var() - 1.0) < 4 * math.sqrt(2 / codes.embeddings.numel())
    entropy = 0.5 * 4 * (1.0 + math.log(2 * math.pi))  # of four standard normals; the spread of -ln p is sqrt(2)
    assert abs(-codes.log_prior.mean() - entropy) < 4 * math.sqrt(2 / 5000)
    hierarchy = model_of("hierarchy")
    codes = hierarchy.sample_prior(50, seeded())
    top, below = codes.embeddings.split([1, 2], dim=1)
    state = hierarchy.ladder.dec[1](hierarchy.ladder.pladder[1](top.transpose(1, 2)))
    p_below = torch_normal(gaussian_parameters(hierarchy.ladder.pstrap[0](state).transpose(1, 2)))
    unit = torch_normal(standard_normal((top, top)))
    torch.testing.assert_close(codes.log_prior, unit.log_prob(top) + p_below.log_prob(below))


def test_presets_of_the_paper():
    """Appendix B: a quarter as many tokens as items, 16 values each, 2 residual blocks of 32 channels."""
    preset = get_preset("spatial_vae", "paper").method
    assert preset.grid_tokens == (8,) and preset.latent_width == 16
    assert (preset.ladder.width, preset.ladder.blocks) == (32, 2)
    assert get_preset("gaussian", "paper").method.beta_end == 0.01


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (GaussianConfig, {"latent_width": 0}, "latent_width must be at least 1, got 0"),
        (GaussianConfig, {"beta_start": 0.0}, "beta_start must be positive, got 0"),
        (SpatialVAEConfig, {"latent_width": 0}, "latent_width must be at least 1, got 0"),
        (SpatialVAEConfig, {"grid_tokens": (4, 8)}, "must not grow"),
    ],
)
def test_bad_values_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)
