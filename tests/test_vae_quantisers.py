"""Vector and scalar quantisation against a reference library, closed forms and sums by hand."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import vector_quantize_pytorch
from scipy.cluster.vq import kmeans2
from torch.distributions import Normal

from motionlex.data.errors import UserError
from motionlex.motion_vae.codebooks import KMeansStart, MovingCodebook, Replacement
from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.estimators import nearest_code
from motionlex.motion_vae.methods.fsq import FSQConfig
from motionlex.motion_vae.methods.vqvae import VQVAEConfig
from motionlex.motion_vae.optimisation import build_optimisers
from motionlex.motion_vae.quantisation import (
    bounded,
    digits_to_codes,
    digits_to_indices,
    indices_to_digits,
    k_means,
    levels_for_budget,
    synchronised_straight_through,
    weighted_distance_logits,
)
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

SHAPE = TrajectoryDomain(frames=4, features=5)
WIDTH = 8
TINY = ("width=8", "heads=2", "layers=1", "generator_layers=1", "mlp_ratio=2")


def tiny(method, *settings, seed=0, vocabulary=6):
    sizes = TINY if method == "fsq" else (*TINY, f"vocabulary={vocabulary}")
    if method == "vqvae":
        sizes = (
            *sizes,
            "codebook_update=ema",
            "kmeans_start=false",
            "replace_dead=never",
            "continuous=0",
            "ema_decay=0.99",
        )
    return build_model(method, override(get_preset(method, "small"), (*sizes, *settings)).method, SHAPE, seed=seed)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def normal(*size, seed=0, dtype=torch.float64):
    return torch.randn(*size, generator=generator(seed), dtype=dtype)


def segments(batch=6, seed=0):
    return normal(batch, SHAPE.frames, SHAPE.features, seed=seed, dtype=torch.float32)


class TestAgainstTheReferenceLibrary:
    @pytest.mark.parametrize("cosine", [False, True])
    def test_indices_codes_and_moving_average_of_vq(self, cosine):
        model = tiny("vqvae", "ema_decay=0.9", f"l2_normalise={str(cosine).lower()}")
        reference = vector_quantize_pytorch.VectorQuantize(
            dim=WIDTH, codebook_size=6, decay=0.9, use_cosine_sim=cosine, rotation_trick=False, commitment_weight=0.5
        )
        layer = reference._codebook
        with torch.no_grad():
            layer.embed.copy_(model.codebook)
            layer.embed_avg.copy_(model.table)
            layer.cluster_size.fill_(1.0)
        reference.train()
        for seed in range(3):
            x = segments(seed=seed)
            vectors = model.latents(x).detach()
            codes = model.encode(x, generator())
            quantised, indices, commitment = reference(vectors)
            assert torch.equal(indices, codes.indices)
            torch.testing.assert_close(quantised, codes.embeddings, rtol=1e-5, atol=1e-6)
            terms = model.loss(x, generator(), progress=0.0).terms
            assert terms["commitment"].item() == pytest.approx(commitment.item(), rel=1e-5)
            model.after_update()
            # Its Laplace smoothing (eps 1e-5) shifts counts of at least 0.7 by less than 1e-4 of themselves.
            torch.testing.assert_close(layer.cluster_size[0], model.moving.count, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(reference.codebook, model.codebook.detach(), rtol=2e-4, atol=1e-5)

    @pytest.mark.parametrize("levels", [(3, 4, 5, 8), (10, 10, 10), (8, 8, 4)])
    def test_digits_codes_and_gradient_of_fsq(self, levels):
        reference = vector_quantize_pytorch.FSQ(list(levels))
        z = normal(300, len(levels), dtype=torch.float32)
        # The library bounds a little outside of the outermost levels, the paper (and we) a little inside: 0.2 % of up
        # to 4.5, so that draws nearer than 0.02 to a rounding boundary may round differently.
        z = z[((bounded(z, levels) % 1.0 - 0.5).abs() > 0.02).all(dim=-1)].requires_grad_()
        assert len(z) > 200
        other = z.detach().clone().requires_grad_()
        codes, indices = reference(other.unsqueeze(0))
        digits = bounded(z, levels).round().long() + torch.tensor([n // 2 for n in levels])
        assert torch.equal(digits_to_indices(digits, levels), indices[0].long())
        torch.testing.assert_close(digits_to_codes(digits, levels), codes[0].detach())
        everything = torch.arange(math.prod(levels))
        assert torch.equal(digits_to_indices(indices_to_digits(everything, levels), levels), everything)
        torch.testing.assert_close(
            digits_to_codes(indices_to_digits(everything, levels), levels), reference.indices_to_codes(everything)
        )
        (bounded(z, levels) / torch.tensor([n // 2 for n in levels])).sum().backward()
        codes.sum().backward()
        torch.testing.assert_close(z.grad, other.grad, rtol=1e-2, atol=1e-3)


class TestFiniteScalarQuantisation:
    def test_zero_stays_zero_and_every_level_is_reached(self):
        levels = (3, 4, 5, 6, 7, 8, 10)
        torch.testing.assert_close(bounded(torch.zeros(1, 7, dtype=torch.float64), levels), torch.zeros(1, 7).double())
        sweep = torch.linspace(-9.0, 9.0, 20_001, dtype=torch.float64).unsqueeze(-1).expand(-1, len(levels))
        rounded = bounded(sweep, levels).round()
        for column, n in zip(rounded.unbind(dim=-1), levels):
            assert column.unique().tolist() == list(range(-(n // 2), (n + 1) // 2))

    @pytest.mark.parametrize("bits", range(2, 17))
    def test_budget_is_met_exactly_by_near_equal_levels(self, bits):
        levels = levels_for_budget(bits)
        assert math.prod(levels) == 2**bits and min(levels) >= 4 and max(levels) <= 2 * min(levels)

    def test_budgets_of_the_papers(self):
        assert levels_for_budget(8) == (8, 8, 4) and levels_for_budget(10) == (8, 8, 4, 4)
        assert levels_for_budget(10, 3) == (16, 8, 8) and levels_for_budget(10, 5) == (4,) * 5
        recommended = {8: (8, 6, 5), 10: (8, 5, 5, 5), 14: (8, 8, 8, 6, 5), 16: (8, 8, 8, 5, 5, 5)}  # Mentzer, table 1
        for bits, levels in recommended.items():
            assert math.prod(levels) <= 2**bits and len(levels_for_budget(bits)) == len(levels)
        assert FSQConfig().vocabulary == 1000 and FSQConfig(exact_budget=True).vocabulary == 1024
        assert FSQConfig(levels=(8, 6, 5), exact_budget=True).used_levels == (8, 8, 4)
        assert FSQConfig(levels=(8, 8, 8), exact_budget=True).used_levels == (8, 8, 8)
        assert get_preset("fsq", "small").method.vocabulary == 256
        for arguments in ((1,), (0,), (8, 5), (8, 0)):
            with pytest.raises(ValueError, match="bits"):
                levels_for_budget(*arguments)

    def test_loss_decodes_what_encoding_gives(self):
        """The straight-through codes of the loss and the embedded integers have the same reconstruction."""
        model, x = tiny("fsq"), segments()
        terms = model.loss(x, generator(), progress=0.0)
        error = (model.decode(model.encode(x, generator())).mean - x).square().mean()
        assert terms.metrics["mean_squared_error"].item() == pytest.approx(error.item(), rel=1e-5)


def test_synchronised_gradient_is_shared_between_encoder_and_codes():
    z, q = normal(2, 3).requires_grad_(), normal(2, 3, seed=1).requires_grad_()
    output = synchronised_straight_through(z, q, share=0.2)
    torch.testing.assert_close(output, q)
    (3.0 * output).sum().backward()
    torch.testing.assert_close(z.grad, torch.full_like(z, 3.0))
    torch.testing.assert_close(q.grad, torch.full_like(q, 0.6))


def straight_through_bias(spacing):
    """Relative bias of the straight-through gradient of E f(Q(z + noise)), f = cos, against its closed form."""
    z = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64).unsqueeze(-1)
    codes = spacing * torch.arange(-40, 41, dtype=torch.float64)
    noise = Normal(torch.zeros((), dtype=torch.float64), 0.5)
    lower, upper = codes - 0.5 * spacing - z, codes + 0.5 * spacing - z
    exact = (codes.cos() * (noise.log_prob(lower).exp() - noise.log_prob(upper).exp())).sum(dim=-1)
    draws = z + 0.5 * normal(1, 4000)
    flat = draws.reshape(1, -1, 1).requires_grad_()
    quantised = codes.unsqueeze(-1)[nearest_code(flat.detach(), codes.unsqueeze(-1))]
    synchronised_straight_through(flat, quantised, share=0.0).cos().sum().backward()
    estimate = flat.grad.view_as(draws).mean(dim=-1)
    return ((estimate - exact).norm() / exact.norm()).item()


def test_straight_through_bias_falls_with_the_distance_between_codes():
    """Exact gradient in closed form: the cell probabilities are Gaussian. 21 x 4000 draws: noise about 0.015."""
    fine, middle, coarse = (straight_through_bias(spacing) for spacing in (0.1, 1.5, 3.0))
    print(f"relative bias of straight-through at code spacing 0.1, 1.5, 3.0: {fine:.3f}, {middle:.3f}, {coarse:.3f}")
    assert fine < 0.03 and 0.05 < middle < coarse


class TestCodebook:
    def test_constant_assignments_move_a_code_to_the_mean_of_its_vectors(self):
        """After n equal batches N and m are 1 - decay^n of the batch's own; a code that lost its vectors stays."""
        vectors = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, -1.0]])
        moving, codebook = MovingCodebook(3, 2, decay=0.8), torch.full((3, 2), 7.0)
        for _ in range(5):
            moving.update(codebook, vectors, torch.tensor([0, 0, 2]), generator())
        torch.testing.assert_close(moving.count, (1.0 - 0.8**5) * torch.tensor([2.0, 0.0, 1.0]))
        torch.testing.assert_close(codebook, torch.tensor([[2.0, 1.0], [7.0, 7.0], [5.0, -1.0]]))

    @pytest.mark.parametrize("criterion", ["rare", "unused"])
    def test_a_dead_code_comes_alive(self, criterion):
        """Codes far from the data get no vector; replaced by vectors of the batch they do."""
        vectors = normal(64, 2, dtype=torch.float32)
        codebook = torch.cat([vectors[:2], torch.full((2, 2), 100.0)])
        replacement = Replacement(criterion=criterion, steps=5, every=5)
        moving = MovingCodebook(4, 2, decay=0.5, replacement=replacement)
        moving.reset(codebook)
        used = []
        for _ in range(12):
            indices = nearest_code(vectors.unsqueeze(0), codebook)[0]
            used.append(len(indices.unique()))
            moving.update(codebook, vectors, indices, generator())
        # rare: 0.5^n < 0.02 * 16 already at the first round; unused: five updates without a vector. Both: update 5.
        assert used == [2] * 5 + [4] * 7

    @pytest.mark.parametrize("option", ["affine=true", "affine=false"])
    def test_replaced_codes_of_a_trained_codebook_are_vectors_of_the_batch(self, option):
        model = tiny("vqvae", "codebook_update=gradient", "replace_dead=rare", "replace_every=1", option)
        with torch.no_grad():
            model.table[3:] = 50.0
            model.moving.count[3:] = 0.0
            if model.config.affine:
                model.affine.copy_(0.02 * normal(2, WIDTH, dtype=torch.float32))
        x = segments()
        model.loss(x, generator(), progress=0.0)
        model.after_update()
        distance = torch.cdist(model.codebook[3:], model.latents(x).flatten(0, 1)).min(dim=-1).values
        torch.testing.assert_close(distance, torch.zeros(3), atol=1e-3, rtol=0.0)  # float32 vectors of size 3

    def test_parts_of_a_batch_move_the_codes_as_the_whole_does(self):
        whole, parts, x = tiny("vqvae"), tiny("vqvae"), segments()
        whole.loss(x, generator(), progress=0.0)
        for part in x.chunk(3):
            parts.loss(part, generator(), progress=0.0)
        with torch.no_grad():
            parts.loss(x, generator(), progress=0.0)  # an evaluation leaves no trace
        whole.after_update()
        parts.after_update()
        torch.testing.assert_close(parts.codebook, whole.codebook)

    def test_k_means_finds_obvious_clusters(self):
        centres = 20.0 * normal(5, 3)
        vectors = (centres.unsqueeze(1) + 0.1 * normal(5, 40, 3, seed=1)).flatten(0, 1)
        found = k_means(vectors, 5, generator())
        means = vectors.view(5, 40, 3).mean(dim=1)
        torch.testing.assert_close(found[torch.cdist(means, found).argmin(dim=-1)], means)
        settled, _ = kmeans2(vectors.numpy(), found.numpy(), iter=5, minit="matrix")
        np.testing.assert_allclose(settled, found, atol=1e-12)

    def test_k_means_with_more_codes_than_vectors_repeats_them(self):
        vectors = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
        assert torch.cdist(k_means(vectors, 5, generator()), vectors).min(dim=-1).values.max() == 0.0

    @pytest.mark.parametrize("method", ["vqvae", "gm_vq", "sq_vae"])
    def test_k_means_start_happens_once_and_fits_the_first_batch(self, method):
        """With as many codes as vectors, every vector is a code."""
        x = segments(2)
        model = tiny(method, "kmeans_start=true", vocabulary=2 * SHAPE.tokens)
        assert isinstance(model.kmeans, KMeansStart) and not model.kmeans.done
        with torch.no_grad():
            model.loss(x, generator(), progress=0.0)
        assert not model.kmeans.done, "an evaluation must not start the codebook"
        model.loss(x, generator(), progress=0.0)
        assert model.kmeans.done
        vectors = {
            "vqvae": lambda: model.latents(x),
            "gm_vq": lambda: model.latents(x)[0],
            "sq_vae": lambda: model.encoder(x),
        }[method]()
        gap = torch.cdist(vectors.flatten(0, 1), model.codebook).min(dim=-1).values
        torch.testing.assert_close(gap, torch.zeros_like(gap), atol=5e-3, rtol=0.0)  # cdist in float32
        before = model.codebook.detach().clone()
        model.loss(segments(2, seed=3), generator(), progress=0.0)
        assert torch.equal(before, model.codebook)


class TestOptionsOfVQVAE:
    def test_l2_makes_codes_and_latents_unit_vectors(self):
        model, x = tiny("vqvae", "l2_normalise=true"), segments()
        for vectors in (model.codebook, model.latents(x), model.encode(x, generator()).embeddings):
            torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
        cosine = model.latents(x) @ model.codebook.T
        assert torch.equal(model.encode(x, generator()).indices, cosine.argmax(dim=-1))

    @pytest.mark.parametrize("affine", [True, False])
    def test_affine_map_moves_codes_that_are_not_used(self, affine):
        model = tiny("vqvae", "codebook_update=gradient", f"affine={str(affine).lower()}", vocabulary=30)
        x = segments(2)
        unused = sorted(set(range(30)) - set(model.encode(x, generator()).indices.flatten().tolist()))
        before = model.codebook.detach().clone()
        model.loss(x, generator(), progress=0.0).total.backward()
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
        moved = (model.codebook - before).norm(dim=-1)[unused]
        assert (moved > 0.0).all() if affine else (moved == 0.0).all()

    def test_alternation_updates_the_codebook_first_and_alone(self):
        model = tiny("vqvae", "codebook_update=gradient", "alternate=true", "affine=true", "codebook_updates=2")
        x, books = segments(), {"generative.embedding.weight", "affine"}
        optimisers = build_optimisers(model, OptimisationConfig(learning_rate=1e-2))
        steps = model.objectives(x, generator(), progress=0.0)
        errors = []
        for step, terms in enumerate(steps):
            terms.total.backward()
            touched = {name for name, p in model.named_parameters() if p.grad is not None}
            trainable = {name for name, _ in model.named_parameters()}
            assert touched == (books if step < 2 else trainable - books)
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            for optimiser in optimisers:
                optimiser.update(0.0)
            changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
            assert changed == touched
            errors.append(terms.terms.get("codebook"))
        assert step == 2 and errors[1] < errors[0]

    def test_defaults_are_the_plain_method(self):
        config = VQVAEConfig()
        options = (config.l2_normalise, config.kmeans_start, config.affine, config.alternate, config.synchronisation)
        assert not any(options) and config.replace_dead == "never"
        paper = get_preset("vqvae", "paper")
        assert paper.method == VQVAEConfig(
            vocabulary=1024, commitment=0.5, codebook_update="gradient", kmeans_start=True
        )
        assert paper.optimisation.learning_rate == 3e-4


def rank_of_two(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    vectors, codebook = normal(64, 3, dtype=torch.float32).chunk(2)[rank], torch.full((6, 3), 50.0)
    KMeansStart().run(codebook[:4], vectors, generator(rank))
    moving = MovingCodebook(6, 3, decay=0.9, replacement=Replacement(every=3, share=0.075))
    moving.reset(codebook)
    history = [codebook.clone()]
    for _ in range(4):
        moving.update(codebook, vectors, nearest_code(vectors.unsqueeze(0), codebook)[0], generator(rank))
        history.append(codebook.clone())
    torch.save((history, moving.count), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_keep_one_codebook(tmp_path):
    """Both start at the clusters of rank 0, follow the vectors of both, and revive dead codes alike."""
    multiprocessing.spawn(rank_of_two, args=(str(tmp_path),), nprocs=2)
    (history, count), (other, other_count) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(history, other)) and torch.equal(count, other_count)
    vectors = normal(64, 3, dtype=torch.float32)
    torch.testing.assert_close(history[0][:4], k_means(vectors[:32], 4, generator(0)))
    alone, codebook = MovingCodebook(6, 3, decay=0.9), history[0].clone()
    alone.reset(codebook)
    for expected in history[1:3]:  # the third update replaces codes 4 and 5
        alone.update(codebook, vectors, nearest_code(vectors.unsqueeze(0), codebook)[0], generator())
        torch.testing.assert_close(expected, codebook)
    torch.testing.assert_close(history[2][4:], torch.full((2, 3), 50.0))
    revived = torch.cdist(history[3][4:], vectors[:32]).min(dim=-1).values
    torch.testing.assert_close(revived, torch.zeros(2), atol=1e-3, rtol=0.0)  # cdist in float32


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (FSQConfig, {"levels": (8, 2)}, r"every level must be >= 3, got \[2\]"),
        (FSQConfig, {"levels": ()}, "at least one"),
        (FSQConfig, {"levels": (3, 3, 3), "exact_budget": True}, "coordinates"),
        (VQVAEConfig, {"vocabulary": 1}, "vocabulary"),
        (VQVAEConfig, {"commitment": -0.1}, "commitment"),
        (VQVAEConfig, {"synchronisation": -1.0, "codebook_update": "gradient"}, "synchronisation"),
        (VQVAEConfig, {"affine": True, "alternate": True}, "affine, alternate need codebook_update=gradient"),
        (VQVAEConfig, {"dead_share": 0.0}, "dead_share"),
        (VQVAEConfig, {"codebook_updates": 0}, "codebook_updates"),
    ],
)
def test_bad_values_are_refused_at_configuration_time(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_bad_settings_are_the_users_error():
    with pytest.raises(UserError, match="every level must be >= 3"):
        override(get_preset("fsq", "small"), ("levels=8,2",))


def test_the_part_without_codes_trains_both_networks_and_leaves_the_codebook_alone():
    model, x = tiny("vqvae", "kmeans_start=true", "continuous=0.5"), segments()
    before = model.table.clone()
    terms = model.loss(x, generator(), progress=0.4)
    terms.total.backward()
    model.after_update()
    assert set(terms.terms) == {"reconstruction"} and torch.equal(model.table, before)
    assert all(p.grad is not None for part in (model.encoder, model.generative.decoder) for p in part.parameters())
    model.loss(x, generator(), progress=0.5)
    assert not torch.equal(model.table, before), "the codes start at clusters of the first batch that is quantised"
    for bad in ("continuous=1", "kmeans_start=false"):
        with pytest.raises(UserError, match="continuous"):
            tiny("vqvae", "kmeans_start=true", "continuous=0.5", bad)


def test_more_codes_than_can_be_counted_are_refused():
    with pytest.raises(UserError, match="levels give 549755813888 codes, more than 1048576"):
        override(get_preset("fsq", "small"), ("levels=" + ",".join(13 * ["8"]),))


def test_distances_keep_their_digits_where_codes_lie_off_the_origin():
    """float32 against float64 at weights of 1e3 around a mean of 1: unshifted squares of 128 features lose 1e-1."""
    z, codes = normal(1, 20, 128) * 0.3 + 1.0, normal(16, 128, seed=1) * 0.3 + 1.0
    weights = torch.full_like(z, 1e3)
    exact = weighted_distance_logits(z, weights, codes)
    found = weighted_distance_logits(z.float(), weights.float(), codes.float())
    difference = (found.double() - exact) - (found.double() - exact).mean(dim=-1, keepdim=True)
    assert difference.abs().max() < 0.03  # 1e3 * 128 * 0.09 = 1e4 in logits of 1e-7 relative rounding, a few terms
