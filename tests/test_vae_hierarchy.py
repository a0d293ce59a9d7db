"""Hierarchies: grids and networks of the ladder, and RRVQ against the enumeration of a small model."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal

from motionlex.data.errors import UserError
from motionlex.motion_vae.contract import Codes
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.likelihoods import LikelihoodConfig
from motionlex.motion_vae.methods.rrvq import RRVQ, RRVQConfig
from motionlex.motion_vae.networks.ladder import LadderConfig, ResidualBlock, layer_grids, resampling
from motionlex.motion_vae.registry import build_model, get_preset
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

TINY = LadderConfig(width=4, blocks=1, ladder_blocks=1)
SHAPE = TrajectoryDomain(frames=2, features=2)
ABLATIONS = list(itertools.product(("responsibilities", "direct"), ("learned", "unit"), ("fixed", "learned")))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(spread=0.7, **settings):
    """Two layers of 2 and 1 tokens with 3 codes each (27 sequences), float64, every weight drawn anew."""
    values = {"grid_tokens": (2, 1), "vocabulary": 3, "embedding_width": 2, "ladder": TINY, **settings}
    model = build_model("rrvq", RRVQConfig(**values), SHAPE, seed=0).double()
    generator = seeded(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def segment():
    return torch.randn(1, 2, 2, generator=seeded(3), dtype=torch.float64)


SEQUENCES = torch.tensor(list(itertools.product(range(3), repeat=3)))


def categorical(model, layer, numbers, direct=False):
    """A layer's distribution by the density of each mixture component, or by logits."""
    if direct:
        return Categorical(logits=numbers)
    variances = torch.ones_like(model.means[layer]) if model.log_variances is None else model.log_variances[layer].exp()
    mixture = MultivariateNormal(model.means[layer], torch.diag_embed(variances))
    return Categorical(logits=mixture.log_prob(numbers.unsqueeze(-2)))


@torch.no_grad()
def enumerated(model, x):
    """Log q(z|x), log p(z) and log p(x|z) of all 27 sequences, walking down the ladder by hand for one at a time."""
    ladder, rows = model.ladder, []
    direct = model.config.prior == "direct"
    fine, coarse = ladder.bottom_up(x)
    for top, first, second in SEQUENCES.tolist():
        q = ladder.qladder[1](coarse)
        p = Categorical(logits=torch.zeros(1, 1, 3, dtype=torch.float64))
        added = 0.0
        if model.config.top_prior == "learned":
            added = ladder.top.unsqueeze(0)
            q = q + ladder.qstrap[1](added)
            p = categorical(model, 1, ladder.pstrap[1](added).transpose(1, 2), direct)
        q = categorical(model, 1, q.transpose(1, 2))
        log_q, log_p = (d.log_prob(torch.tensor([[top]])).sum() for d in (q, p))
        state = ladder.dec[1](added + ladder.pladder[1](model.means[1][top].view(1, 2, 1)))
        q = categorical(model, 0, (ladder.qladder[0](fine) + ladder.qstrap[0](state)).transpose(1, 2))
        p = categorical(model, 0, ladder.pstrap[0](state).transpose(1, 2), direct)
        below = torch.tensor([[first, second]])
        log_q, log_p = log_q + q.log_prob(below).sum(), log_p + p.log_prob(below).sum()
        state = ladder.dec[0](ladder.dec_resize[0](state) + ladder.pladder[0](model.means[0][below[0]].T.unsqueeze(0)))
        mean = ladder.dec_last(state).transpose(1, 2)
        rows.append(torch.stack([log_q, log_p, Independent(Normal(mean, 0.5), 2).log_prob(x)[0]]))
    return torch.stack(rows).T


def position(indices):
    """Row of each sequence in ``SEQUENCES``."""
    return (indices * torch.tensor([9, 3, 1])).sum(dim=-1)


@pytest.mark.parametrize(("prior", "variances", "top_prior"), ABLATIONS)
class TestEnumeration:
    def test_encoding_reports_its_probabilities(self, prior, variances, top_prior):
        model = tiny(prior=prior, variances=variances, top_prior=top_prior)
        log_q, log_p, _ = enumerated(model, segment())
        # Both tables are distributions, and far from uniform, or nothing below would be a test.
        assert log_q.exp().sum().item() == pytest.approx(1.0) and log_p.exp().sum().item() == pytest.approx(1.0)
        assert log_q.exp().max() > 0.1
        codes = model.encode(segment().expand(64, 2, 2), seeded())
        rows = position(codes.indices)
        torch.testing.assert_close(codes.log_prob, log_q[rows])
        torch.testing.assert_close(codes.log_prior, log_p[rows])

    def test_draws_follow_q_and_p(self, prior, variances, top_prior):
        model = tiny(prior=prior, variances=variances, top_prior=top_prior)
        tables = enumerated(model, segment())[:2].exp()
        drawn = (model.encode(segment().expand(4000, 2, 2), seeded()), model.sample_prior(4000, seeded()))
        for codes, wanted in zip(drawn, tables):
            counts = torch.bincount(position(codes.indices), minlength=27)
            common = wanted * 4000 >= 5.0  # chi-square wants five expected draws; the rare ones are one class
            found = [*counts[common].tolist(), counts[~common].sum().item()]
            expected = [*(4000 * wanted[common]).tolist(), 4000 * wanted[~common].sum().item()]
            if expected[-1] == 0.0:
                found, expected = found[:-1], expected[:-1]
            assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-4

    def test_divergence_obeys_the_chain_rule(self, prior, variances, top_prior):
        """Averaged over q, the closed forms along paths are the KL of the joint distributions."""
        model = tiny(prior=prior, variances=variances, top_prior=top_prior)
        log_q, log_p, _ = enumerated(model, segment())
        codes = Codes(indices=SEQUENCES, embeddings=model.embed(SEQUENCES))
        along = model.kl_to_prior(segment().expand(27, 2, 2), codes)
        wanted = (log_q.exp() * (log_q - log_p)).sum()
        torch.testing.assert_close((log_q.exp() * along).sum(), wanted)
        assert along.std() > 1e-3, "the divergence below must depend on the code above"

    def test_integers_decode_to_the_likelihood_of_their_sequence(self, prior, variances, top_prior):
        model = tiny(prior=prior, variances=variances, top_prior=top_prior)
        log_x = enumerated(model, segment())[2]
        found = model.decode_embeddings(model.embed(SEQUENCES)).log_prob(segment())
        torch.testing.assert_close(found, log_x)

    def test_gradients_reach_every_parameter(self, prior, variances, top_prior):
        model = tiny(prior=prior, variances=variances, top_prior=top_prior)
        model.loss(segment().expand(4, 2, 2), seeded(), progress=0.5).total.backward()
        still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0.0]
        assert not still


def test_bounds_of_the_evidence():
    """Draws and closed-form KL give the ELBO, importance weights the evidence, both by the sum over all sequences."""
    model = tiny(spread=0.3)
    log_q, log_p, log_x = enumerated(model, segment())
    evidence = torch.logsumexp(log_p + log_x, dim=0)
    elbo = (log_q.exp() * (log_p + log_x - log_q)).sum()
    draws = 20_000
    codes = model.encode(segment().expand(draws, 2, 2), seeded())
    likelihood = model.decode(codes).log_prob(segment())
    weights = codes.log_prior + likelihood - codes.log_prob
    closed = likelihood - model.kl_to_prior(segment().expand(draws, 2, 2), codes)
    for estimate in (weights, closed):
        assert abs(estimate.mean() - elbo) < 4.0 * estimate.std() / math.sqrt(draws)
    # Importance weights average to the evidence; sequences that q hardly draws are left out on both sides.
    common = log_q > math.log(0.01)
    ratio = (weights - evidence).exp() * common[position(codes.indices)]
    wanted = (log_p + log_x - evidence)[common].exp().sum()
    assert wanted > 0.1 and abs(ratio.mean() - wanted) < 4.0 * ratio.std() / math.sqrt(draws)
    assert elbo < evidence


def test_objective_is_the_elbo_once_codes_are_nearly_hard():
    """At a temperature of 0.001 the relaxed draw is a code, so the loss averages to the negative beta-ELBO."""
    model = tiny(temperature_end=1e-3, beta_start=0.5, beta_end=0.3)
    log_q, log_p, log_x = enumerated(model, segment())
    draws = 20_000
    terms = model.loss(segment().expand(draws, 2, 2), seeded(), progress=1.0)
    q = log_q.exp()
    mean, kl = (q * log_x).sum(), (q * (log_q - log_p)).sum()
    error = ((q * (log_x - mean).square()).sum() / draws).sqrt()
    assert abs(-terms.terms["negative_log_p_nats"] - mean) < 4.0 * error + 1e-3  # some draws lie between two codes
    assert terms.metrics["kl_nats"].item() == pytest.approx(kl.item(), rel=0.02)
    assert terms.terms["weighted_kl_nats"].item() == pytest.approx(0.3 * terms.metrics["kl_nats"].item())
    layers = [terms.metrics[f"kl_layer_{n}_nats"].item() for n in (1, 2)]
    assert sum(layers) == pytest.approx(terms.metrics["kl_nats"].item())
    # The topmost layer's is exact, and named last: it depends on no draw.
    marginal = torch.stack([q[9 * k : 9 * k + 9].sum() for k in range(3)])
    assert layers[1] == pytest.approx((math.log(3.0) - Categorical(marginal).entropy()).item())


def test_temperature_and_beta_are_annealed_by_constant_factors():
    model = tiny(temperature_start=1.0, temperature_end=0.25, beta_start=4.0, beta_end=0.01)
    terms = model.loss(segment(), seeded(), progress=0.5)
    assert terms.metrics["temperature"].item() == pytest.approx(0.5)
    assert terms.metrics["beta"].item() == pytest.approx(0.2)
    assert model.final_beta == 0.01


@pytest.mark.parametrize(("straight_through", "hard"), [(False, False), (True, True)])
def test_straight_through_hands_down_codes(straight_through, hard):
    model = tiny(straight_through=straight_through)
    numbers = torch.randn(8, 2, 2, generator=seeded(), dtype=torch.float64)
    latents, _ = model.relaxed(0, numbers, None, seeded(), progress=0.0)
    distance = (latents.unsqueeze(-2) - model.means[0]).norm(dim=-1).amin(dim=-1)
    assert bool((distance < 1e-9).all()) == hard


def test_free_bits_protect_layers_that_carry_little():
    """With more free bits than there are bits the KL has no gradient left, and costs its floor."""
    model = tiny(free_nats=10.0)
    terms = model.loss(segment().expand(4, 2, 2), seeded(), progress=0.0)
    assert terms.terms["weighted_kl_nats"].item() == pytest.approx(10.0 * 3)
    terms.total.backward()
    assert all(not parameter.grad.any() for parameter in model.ladder.pstrap.parameters())  # only the KL sees p
    assert any(parameter.grad.any() for parameter in model.ladder.qstrap.parameters())


def test_one_layer_of_unit_variance_is_rvq():
    """Equation 2 with a uniform prior: softmax of half squared distances to a single codebook."""
    model = tiny(grid_tokens=(4,), variances="unit", vocabulary=5)
    x = torch.randn(3, 2, 2, generator=seeded(), dtype=torch.float64)
    embeddings = model.ladder.qladder[0](model.ladder.bottom_up(x)[0]).transpose(1, 2)
    distances = torch.cdist(embeddings, model.codebook.expand(3, 5, 2)).square()
    q = Categorical(logits=-0.5 * distances)
    codes = model.encode(x, seeded())
    torch.testing.assert_close(codes.log_prob, q.log_prob(codes.indices).sum(dim=1))
    torch.testing.assert_close(codes.log_prior, torch.full((3,), -4 * math.log(5.0), dtype=torch.float64))
    kl = (math.log(5.0) - q.entropy()).sum(dim=1)
    torch.testing.assert_close(model.kl_to_prior(x, codes), kl)
    assert model.loss(x, seeded(), progress=0.0).metrics["kl_nats"].item() == pytest.approx(kl.mean().item())
    assert not model.ladder.pstrap and model.log_variances is None
    torch.testing.assert_close(model.embed(codes.indices), model.codebook[codes.indices])


def test_tokens_are_ordered_from_the_coarsest_layer_down():
    config = RRVQConfig(grid_tokens=(8, 4, 2), vocabulary=6, embedding_width=3, ladder=TINY)
    model = build_model("rrvq", config, TrajectoryDomain(frames=4, features=5), seed=0)
    indices = torch.randint(6, (2, 7, 14), generator=seeded())
    embedded = model.embed(indices)
    for start, stop, layer in ((0, 2, 2), (2, 6, 1), (6, 14, 0)):
        torch.testing.assert_close(embedded[..., start:stop, :], model.means[layer][indices[..., start:stop]])
    assert model.codebook is None and model.tokens == 14
    sampled = model.decode_embeddings(embedded)
    assert sampled.mean.shape == (2, 7, 4, 5)
    torch.testing.assert_close(sampled.mean[1, 3], model.decode_embeddings(embedded[1, 3:4]).mean[0])


def test_variances_stay_bounded():
    model = tiny()
    with torch.no_grad():
        model.log_variances[0].fill_(50.0)
        model.log_variances[1].fill_(-50.0)
    model.after_update()
    assert model.log_variances[0].exp().max().item() == pytest.approx(1e4)
    assert model.log_variances[1].exp().min().item() == pytest.approx(1e-4)


# --- ladder ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "tokens", "wanted"),
    [
        ((32,), (64, 32, 16, 8, 4), ((64,), (32,), (16,), (8,), (4,))),
        ((32, 32), (256, 64, 16, 4, 1), ((16, 16), (8, 8), (4, 4), (2, 2), (1, 1))),
        ((28, 28), (196, 49, 1), ((14, 14), (7, 7), (1, 1))),
        ((8, 16), (512, 32, 32, 2), ((16, 32), (4, 8), (4, 8), (1, 2))),
    ],
)
def test_grids(items, tokens, wanted):
    assert layer_grids(items, tokens) == wanted


@pytest.mark.parametrize(
    ("items", "tokens", "message"),
    [
        ((32,), (64, 30), r"layer 2 of 2 wants 30 tokens, .* 32 items; possible: 1, 2, 4, 8, 16, 32, 64"),
        ((32, 32), (32,), r"wants 32 tokens, .* 32 x 32 items; possible: 1, 4, 16, 64, 256, 1024, 4096"),
        ((4,), (8, 4, 3), "layer 3 of 3 wants 3 tokens"),
        ((6,), (3, 2), r"sides \(2,\) of layer 2 do not divide those of the finer layer, \(3,\)"),
    ],
)
def test_grids_that_cannot_be_reached(items, tokens, message):
    with pytest.raises(UserError, match=message):
        layer_grids(items, tokens)
    if len(items) == 1:
        with pytest.raises(ValueError, match=message):
            RRVQ(RRVQConfig(grid_tokens=tokens), TrajectoryDomain(frames=items[0]))


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 7])
def test_resampling_meets_the_sizes_and_reaches_every_item(factor, dimensions):
    coarse = tuple(3 + n for n in range(dimensions))
    fine = tuple(factor * side for side in coarse)
    for before, after in ((fine, coarse), (coarse, fine)):
        x = torch.randn(2, 3, *before, generator=seeded(), requires_grad=True)
        y = resampling(3, 5, before, after)(x)
        assert y.shape == (2, 5, *after)
        y.sum().backward()
        assert (x.grad != 0.0).all()
        block = ResidualBlock(3, before, after)
        assert block(x).shape == (2, 3, *after)


def test_identity_path_pools_and_repeats():
    """With a silent branch a block halves by averages of two and doubles by repetition."""
    x = torch.tensor([[[1.0, 3.0, 5.0, 9.0]]])
    for before, after, wanted in (((4,), (2,), [2.0, 7.0]), ((4,), (8,), [1.0, 1.0, 3.0, 3.0, 5.0, 5.0, 9.0, 9.0])):
        block = ResidualBlock(1, before, after)
        with torch.no_grad():
            block.second.parametrizations.weight.original0.zero_()
            block.second.bias.zero_()
        assert block(x)[0, 0].tolist() == wanted


def test_every_weight_of_a_convolution_is_normalised_per_output():
    """A unit's gain alone sets the norm of its kernel, for transposed kernels too."""
    for before, after, axes in (((4,), (2,), (1, 2)), ((2,), (4,), (0, 2))):
        layer = resampling(3, 5, before, after)
        with torch.no_grad():
            layer.parametrizations.weight.original0.copy_(
                torch.arange(1.0, 6.0).view_as(layer.parametrizations.weight.original0)
            )
        torch.testing.assert_close(layer.weight.norm(dim=axes), torch.arange(1.0, 6.0))


def test_five_layers_on_images():
    """The L = 5 grids of the paper on 32 x 32 pixels, with its likelihood."""
    domain = ImageDomain(likelihood_config=LikelihoodConfig(family="discretised_logistic"))
    config = RRVQConfig(grid_tokens=(256, 64, 16, 4, 1), vocabulary=6, embedding_width=3, ladder=TINY)
    model = build_model("rrvq", config, domain, seed=0)
    x = torch.rand(2, 1024, 3, generator=seeded()).mul(255).round() / 255
    codes = model.encode(x, seeded())
    assert codes.indices.shape == (2, 341)
    torch.testing.assert_close(model.decode_embeddings(model.embed(codes.indices)).mean, model.decode(codes).mean)
    assert torch.isfinite(model.loss(x, seeded(), progress=0.0).total)


def test_coarse_codes_reach_all_frames_and_fine_ones_their_neighbourhood():
    config = RRVQConfig(grid_tokens=(64, 32, 16, 8, 4), vocabulary=4, embedding_width=3, ladder=replace(TINY, width=8))
    model = build_model("rrvq", config, TrajectoryDomain(features=5), seed=0)
    embeddings = model.embed(torch.zeros(1, 124, dtype=torch.long)).detach().requires_grad_()
    first = model.decode_embeddings(embeddings).mean[0, 0].sum()
    (gradient,) = torch.autograd.grad(first, embeddings)
    reached = gradient[0].abs().sum(dim=-1) > 0.0
    coarse, *_, fine = reached.split([4, 8, 16, 32, 64])
    assert coarse[:2].all() and fine[:4].any() and not fine[16:].any()


# --- configuration ---------------------------------------------------------------------------------------------------


def test_paper_preset():
    preset = get_preset("rrvq", "paper")
    assert preset.method.bits == 992 and preset.method.embedding_width == 128 and preset.method.vocabulary == 256
    optimisation = preset.optimisation
    assert (optimisation.optimiser, optimisation.learning_rate, optimisation.batch) == ("adamax", 8e-4, 64)
    assert (optimisation.plateau_factor, optimisation.plateau_floor) == (0.8, 5e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 1}, "vocabulary must be at least 2"),
        ({"embedding_width": 0}, "embedding_width must be at least 1"),
        ({"temperature_end": 0.0}, "temperature_end must be positive"),
        ({"beta_end": 0.0}, "beta_end must be positive"),
        ({"free_nats": -1.0}, "free_nats must be >= 0"),
        ({"grid_tokens": ()}, "at least one layer"),
        ({"grid_tokens": (4, 0)}, "whole numbers above 0"),
        ({"grid_tokens": (4, 8)}, "must not grow from one layer to the next"),
    ],
)
def test_bad_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RRVQConfig(**settings)


@pytest.mark.parametrize("settings", [{"width": 0}, {"blocks": 0}, {"ladder_blocks": -1}])
def test_bad_sizes_are_refused(settings):
    with pytest.raises(ValueError, match="wanted width >= 1, blocks >= 1 and ladder_blocks >= 0"):
        LadderConfig(**settings)
