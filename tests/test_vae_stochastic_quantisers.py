"""Stochastic quantisers against densities, quadrature and sums by hand."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from motionlex.motion_vae.estimators import gumbel_noise, nearest_code
from motionlex.motion_vae.losses import categorical_kl_to_uniform, probabilities_kl_to_uniform, reconstruction_loss
from motionlex.motion_vae.methods.gm_vq import GMVQConfig, assignment_variance
from motionlex.motion_vae.methods.gumbel_vqvae import GumbelVQVAEConfig
from motionlex.motion_vae.methods.sq_vae import SQVAEConfig, dequantisation_cost, optimal_variance_nll
from motionlex.motion_vae.quantisation import k_means, mixed_codes, weighted_distance_logits
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

SHAPE = TrajectoryDomain(frames=4, features=5)
WIDTH = 8
TINY = ("width=8", "heads=2", "layers=1", "generator_layers=1", "mlp_ratio=2")


def tiny(method, *settings, seed=0, vocabulary=6):
    sizes = (*TINY, f"vocabulary={vocabulary}")
    return build_model(method, override(get_preset(method, "small"), (*sizes, *settings)).method, SHAPE, seed=seed)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def normal(*size, seed=0, dtype=torch.float64):
    return torch.randn(*size, generator=generator(seed), dtype=dtype)


def segments(batch=6, seed=0):
    return normal(batch, SHAPE.frames, SHAPE.features, seed=seed, dtype=torch.float32)


class TestMixtureLogits:
    def test_by_hand(self):
        z, w, mu = normal(2, 3, 4), normal(2, 3, 4, seed=1).exp(), normal(5, 4, seed=2)
        logits = weighted_distance_logits(z, w, mu)
        for b, t, c in np.ndindex(2, 3, 5):
            total = -0.5 * sum(w[b, t, i].item() * (z[b, t, i].item() - mu[c, i].item()) ** 2 for i in range(4))
            assert logits[b, t, c].item() == pytest.approx(total, rel=1e-12)

    def test_indices_do_not_suffer_from_half_precision(self):
        """Codes 0.1 apart around 100: bf16 keeps 8 bits there, i.e. steps of 0.5, and would merge them."""
        codebook = 100.0 + 0.1 * torch.arange(6.0).unsqueeze(-1)
        vectors = (codebook + 0.01)[[3, 0, 5, 2]].unsqueeze(0)
        with torch.autocast("cpu", torch.bfloat16):
            assert nearest_code(vectors, codebook)[0].tolist() == [3, 0, 5, 2]
            logits = weighted_distance_logits(vectors - 100.0, torch.full_like(vectors, 1e4), codebook - 100.0)
            assert logits.dtype == torch.float32 and logits[0].argmax(dim=-1).tolist() == [3, 0, 5, 2]
            one_hot = torch.nn.functional.one_hot(torch.tensor([[3, 0]]), 6).float()
            assert torch.equal(mixed_codes(one_hot, codebook)[0], codebook[[3, 0]])
            clusters = k_means(vectors[0], 4, generator())
        torch.testing.assert_close(clusters.sort(dim=0).values, vectors[0].sort(dim=0).values)

    def test_probabilities_kl_by_hand(self):
        p = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64, requires_grad=True)
        kl = probabilities_kl_to_uniform(p)
        assert kl.item() == pytest.approx(0.5 * math.log(0.5 * 4) + 2 * 0.25 * math.log(0.25 * 4), abs=1e-12)
        kl.backward()
        assert torch.isfinite(p.grad).all()


class TestGMVQ:
    def test_every_term_by_hand(self):
        """Draws repeated with the same generator; sums in plain Python."""
        model, x = tiny("gm_vq", "gamma=0.3", "beta=2.0", "mixture_variance=0.7", "kmeans_start=false"), segments(3)
        terms = model.loss(x, generator(), progress=0.25)
        z, w = (part.detach().double() for part in model.latents(x))
        mu = model.codebook.detach().double()
        logits = weighted_distance_logits(z, w, mu)
        same = weighted_distance_logits(*model.latents(x), model.codebook)
        drawn = (same + gumbel_noise(same, generator())).argmax(dim=-1)
        variances, posterior = [], np.zeros(6)
        for b, t in np.ndindex(3, SHAPE.tokens):
            gap = sum((z[b, t, i].item() - mu[drawn[b, t], i].item()) ** 2 for i in range(WIDTH))
            variances.append(gap / WIDTH / (2 * 0.7))
            odds = [math.exp(value) for value in (logits[b, t] - logits[b, t].max()).tolist()]
            posterior += np.array(odds) / sum(odds) / (3 * SHAPE.tokens)
        kl = sum(q * math.log(q * 6) for q in posterior)
        assert terms.terms["latent"].item() == pytest.approx(0.3 * np.mean(variances), rel=1e-4)
        assert terms.terms["aggregated_kl"].item() == pytest.approx(0.3 * 2.0 * kl, rel=1e-4)
        assert terms.metrics["posterior_perplexity"].item() == pytest.approx(6 * math.exp(-kl), rel=1e-4)
        assert terms.metrics["temperature"].item() == pytest.approx(2.0 * (0.1 / 2.0) ** 0.25)
        torch.testing.assert_close(
            assignment_variance(z, mu[drawn], mixture_variance=0.7).flatten(), torch.tensor(variances).double()
        )

    def test_noise_of_training_has_that_variance_and_evaluation_none(self):
        model, x = tiny("gm_vq", "kmeans_start=false"), segments(2)
        seen = []
        model.decode_embeddings, decode = (lambda e: seen.append(e) or decode(e)), model.decode_embeddings
        for seed in range(200):
            with torch.no_grad():
                variance = model.loss(x, generator(seed), progress=0.0).metrics["noise_variance"]
            seen[-1] = (torch.cdist(seen[-1], model.codebook).min(dim=-1).values.square() / WIDTH).mean() / variance
        # 200 x 16 x 8 normal draws: 1 +- 0.01; the nearest code is not always the drawn one, which lowers it.
        assert 0.5 < torch.stack(seen).mean() < 1.02
        codes = model.encode(x, generator())
        torch.testing.assert_close(codes.embeddings, model.codebook[codes.indices])

    def test_gradient_reaches_latents_weights_and_codes(self):
        model, x = tiny("gm_vq", "gamma=0.0", "kmeans_start=false"), segments()
        model.loss(x, generator(), progress=0.0).total.backward()
        for part in model.output.weight.grad.chunk(2):  # z_hat through sigma_c and the logits, r_hat through the logits
            assert part.abs().max() > 0.0
        assert model.codebook.grad.abs().max() > 0.0


class TestSQVAE:
    def test_posterior_is_that_of_the_mixture(self):
        """Bayes' rule with densities of torch.distributions, equal prior weights."""
        model = tiny("sq_vae", "variance_start=1.7").double()
        z = normal(2, 3, WIDTH)
        density = Normal(model.codebook.detach(), math.sqrt(1.7)).log_prob(z.unsqueeze(-2)).sum(dim=-1).exp()
        posterior = density / density.sum(dim=-1, keepdim=True)
        torch.testing.assert_close(torch.softmax(model.logits(z), dim=-1).detach(), posterior, rtol=1e-6, atol=1e-9)

    def test_latent_terms_sum_to_the_divergence_of_z_from_the_mixture(self):
        """P(c|z) is the exact posterior, so KL(q(z, c) || p(z, c)) = KL(q(z) || p(z)): one dimension by quadrature."""
        codes, mean, variance = torch.tensor([-2.0, 0.3, 1.0, 4.0]).double(), 0.6, torch.tensor(0.8).double()
        grid = torch.linspace(-12.0, 12.0, 4801, dtype=torch.float64)
        q = Normal(mean, variance.sqrt()).log_prob(grid)
        p = torch.logsumexp(Normal(codes, variance.sqrt()).log_prob(grid.unsqueeze(-1)), dim=-1) - math.log(4)
        exact = torch.trapezoid(q.exp() * (q - p), grid)
        z = grid.view(-1, 1, 1)
        logits = weighted_distance_logits(z, (1.0 / variance).expand_as(z), codes.unsqueeze(-1))
        cost = torch.stack(
            [dequantisation_cost(z, torch.full_like(z, mean), torch.full_like(z, c), variance) for c in codes.tolist()],
            dim=-1,
        )
        expected = (torch.softmax(logits[:, 0], dim=-1) * cost).sum(dim=-1) + categorical_kl_to_uniform(logits)
        assert torch.trapezoid(q.exp() * expected, grid).item() == pytest.approx(exact.item(), rel=1e-8)

    def test_loss_is_the_sum_of_these_parts(self):
        model, x = tiny("sq_vae", "variance_start=20", "kmeans_start=false", "straight_through=true"), segments()
        terms = model.loss(x, generator(), progress=1.0)
        z = model.encoder(x)
        logits = model.logits(z)
        entropy = Categorical(logits=logits).entropy().sum(dim=-1).mean()
        assert terms.terms["discrete_kl_nats"].item() == pytest.approx(8 * math.log(6) - entropy.item(), rel=1e-4)
        drawn = (logits + gumbel_noise(logits, generator())).argmax(dim=-1)
        gap = (z - model.codebook[drawn]).square().sum(dim=(1, 2)).mean() / (2 * 20.0)
        assert terms.terms["continuous_kl_nats"].item() == pytest.approx(gap.item(), rel=1e-4)

    def test_reconstruction_term_is_the_smallest_likelihood_of_any_variance(self):
        x, mean = normal(3, 4, 5), normal(3, 4, 5, seed=1)
        error = (x - mean).square().mean()
        grid = torch.linspace(0.2, 3.0, 2801, dtype=torch.float64) * error
        nll = torch.stack([-Normal(mean, v.sqrt()).log_prob(x).sum(dim=(1, 2)).mean() for v in grid])
        assert optimal_variance_nll(error, 20).item() == pytest.approx(nll.min().item(), rel=1e-9)


def test_gumbel_vqvae_terms_by_hand():
    model, x = tiny("gumbel_vqvae", "kl_weight=0.3", "kl_ramp=0.5"), segments()
    logits = model.logits(x).detach()
    uniform = Categorical(probs=torch.full((6,), 1 / 6))
    kl = kl_divergence(Categorical(logits=logits), uniform).mean().item()
    for progress, ramp in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        terms = model.loss(x, generator(), progress=progress)
        assert terms.terms["kl"].item() == pytest.approx(ramp * 0.3 * kl, rel=1e-4, abs=1e-9)
        assert terms.metrics["temperature"].item() == pytest.approx(0.0625**progress)
    assert torch.equal(model.encode(x, generator()).indices, logits.argmax(dim=-1))


@pytest.mark.parametrize("method", ["vqvae", "fsq", "gumbel_vqvae", "gm_vq"])
def test_likelihood_form_trains_a_learned_variance(method):
    settings = (*TINY, "reconstruction=likelihood", "family=learned_gaussian")
    preset = override(get_preset(method, "small"), settings)
    domain = TrajectoryDomain(frames=4, features=5, likelihood_config=preset.likelihood)
    model = build_model(method, preset.method, domain, seed=0)
    model.loss(segments(), generator(), progress=0.0).total.backward()
    variances = [p.grad for name, p in model.named_parameters() if name.endswith("log_variance")]
    assert len(variances) == 1 and variances[0].abs().max() > 0.0


def test_both_forms_agree_at_variance_one_half():
    x, mean = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    p = Independent(Normal(mean, math.sqrt(0.5)), 2)
    gap = reconstruction_loss(p, x, "likelihood") - reconstruction_loss(p, x, "squared_error")
    assert gap.item() == pytest.approx(0.5 * math.log(math.pi), rel=1e-12)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (SQVAEConfig, {"temperature_end": 0.0}, "temperature_end"),
        (SQVAEConfig, {"variance_start": 0.0}, "variance_start"),
        (SQVAEConfig, {"vocabulary": 1}, "vocabulary"),
        (GumbelVQVAEConfig, {"temperature_start": 0.0}, "temperature_start"),
        (GumbelVQVAEConfig, {"kl_weight": -1.0}, "kl_weight"),
        (GMVQConfig, {"temperature_end": float("nan")}, "temperature_end"),
        (GMVQConfig, {"gamma": -0.1}, "gamma"),
        (GMVQConfig, {"beta": -1.0}, "beta"),
        (GMVQConfig, {"mixture_variance": 0.0}, "mixture_variance"),
    ],
)
def test_bad_values_are_refused_at_configuration_time(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)
