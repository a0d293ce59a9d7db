"""One contract over every registered method on every kind of data: a new file in methods/ is tested unasked."""

import math

import pytest
import torch

from motionlex.motion_vae.checkpoint import RunConfig
from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.images.presets import image_preset
from motionlex.motion_vae.optimisation import build_optimisers
from motionlex.motion_vae.registry import (
    available_methods,
    build_model,
    domain_to_plain,
    from_plain,
    get_method,
    get_preset,
    override,
    to_plain,
)
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

TINY = {
    "width": "8",
    "heads": "2",
    "layers": "1",
    "generator_layers": "1",
    "mlp_ratio": "2",
    "blocks": "1",
    "embedding_width": "4",
    "vocabulary": "8",
    "levels": "4,3",
}
GRIDS = {("rrvq", "trajectory"): "8,4,2", ("rrvq", "image"): "16,4,1", ("spatial_vae", "trajectory"): "8"}
DOMAINS = ("trajectory", "image")
BATCH = 6


def tiny(method, domain):
    """Preset and domain at a size that trains in milliseconds; sizes that a method does not have are left out."""
    if domain == "trajectory":
        preset, shape = get_preset(method, "small"), TrajectoryDomain(frames=4, features=5)
    else:
        preset, shape = image_preset(method, "tiny")
    sizes = {**TINY, **({"grid_tokens": GRIDS[method, domain]} if (method, domain) in GRIDS else {})}
    known = field_names(to_plain(preset.method))
    return override(preset, [f"{name}={value}" for name, value in sizes.items() if name in known]), shape


def field_names(plain):
    """Names of all fields, at any depth."""
    return set(plain).union(*(field_names(value) for value in plain.values() if isinstance(value, dict)))


def build(method, domain, seed=0):
    preset, shape = tiny(method, domain)
    return build_model(method, preset.method, shape, seed=seed)


def examples(model, batch=BATCH):
    """Gaussian features of motion, or binary images whose left part of growing width is lit (noise has no codes)."""
    domain = model.domain
    if isinstance(domain, ImageDomain):
        column = torch.arange(domain.width).expand(domain.height, -1).flatten()
        lit = column < domain.width * torch.arange(1, batch + 1)[:, None] / (batch + 1)
        return lit.float().unsqueeze(-1).expand(-1, -1, domain.features).contiguous()
    size = (batch, domain.frames, domain.features)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def train(model, steps, *, learning_rate=1e-2):
    optimisers = build_optimisers(model, OptimisationConfig(learning_rate=learning_rate))
    noise, errors, x = generator(), [], examples(model)
    for _ in range(steps):
        for terms in model.objectives(x, noise, progress=1.0):
            terms.total.backward()
            for optimiser in optimisers:
                optimiser.update(1.0)
            model.after_update()
        errors.append(terms.metrics["mean_squared_error"].item())
    return errors


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("method", available_methods())
class TestContract:
    def test_codes(self, method, domain):
        model = build(method, domain)
        x = examples(model)
        codes = model.encode(x, generator())
        assert codes.embeddings.shape[:2] == (BATCH, model.tokens)
        for log in (codes.log_prob, codes.log_prior):
            assert log is None or (log.shape == (BATCH,) and torch.isfinite(log).all())
        assert (codes.log_prob is None) == (codes.log_prior is None)
        again = model.encode(x, generator())
        assert torch.equal(codes.embeddings, again.embeddings), "the same generator must give the same codes"
        if not model.discrete:
            assert codes.indices is None and model.vocabulary == 0
            with pytest.raises(TypeError):
                model.embed(torch.zeros(1, model.tokens, dtype=torch.long))
            return
        assert codes.indices.shape == (BATCH, model.tokens) and codes.indices.dtype == torch.int64
        assert 0 <= codes.indices.min() and codes.indices.max() < model.vocabulary
        assert codes.log_prob is None or (codes.log_prob <= 1e-6).all()

    def test_integers_decode_to_the_same_as_codes(self, method, domain):
        model = build(method, domain)
        x = examples(model)
        codes = model.encode(x, generator())
        distribution = model.decode(codes)
        assert distribution.mean.shape == x.shape and distribution.log_prob(x).shape == (BATCH,)
        assert distribution.mean.dtype == torch.float32
        if model.discrete:
            decoded = model.decode_embeddings(model.embed(codes.indices))
            torch.testing.assert_close(decoded.mean, distribution.mean, rtol=1e-5, atol=1e-6)
        if model.codebook is not None:
            assert model.codebook.shape[0] == model.vocabulary
            torch.testing.assert_close(model.embed(codes.indices), model.codebook[codes.indices])

    def test_log_q_is_a_probability_and_kl_is_bounded(self, method, domain):
        model = build(method, domain)
        x = examples(model)
        kl = model.kl_to_prior(x, model.encode(x, generator()))
        assert kl.shape == (BATCH,) and (kl >= -1e-4).all()
        uniform_prior = model.discrete and model.codebook is not None
        assert not uniform_prior or (kl <= model.tokens * math.log(model.vocabulary) + 1e-3).all()

    def test_total_is_the_sum_of_its_terms(self, method, domain):
        model = build(method, domain)
        for terms in model.objectives(examples(model), generator(), progress=0.999):
            assert terms.total.item() == pytest.approx(sum(t.item() for t in terms.terms.values()), rel=1e-4, abs=1e-4)
            values = {**terms.terms, **terms.metrics}
            assert all(not value.requires_grad and value.ndim == 0 for value in values.values())
            assert "mean_squared_error" in terms.metrics

    def test_gradients_reach_what_they_should_and_nothing_else(self, method, domain):
        model = build(method, domain)
        x = examples(model).requires_grad_(False)
        grouped = [id(p) for group in model.parameter_groups() for p in group.parameters]
        trainable = {id(p) for p in model.parameters() if p.requires_grad}
        assert len(grouped) == len(set(grouped)) and set(grouped) == trainable
        for terms in model.objectives(x, generator(), progress=1.0):
            terms.total.backward()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        frozen = [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
        assert not frozen
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    def test_updates_reduce_the_error_on_one_batch(self, method, domain):
        errors = train(build(method, domain), 60)
        assert sum(errors[-10:]) < 0.9 * sum(errors[:10])

    def test_saved_and_loaded_weights_give_the_same_codes(self, method, domain):
        model = build(method, domain)
        train(model, 3)
        other = build(method, domain, seed=1)
        other.load_state_dict(model.state_dict())
        x = examples(model)
        first, second = model.eval().encode(x, generator()), other.eval().encode(x, generator())
        assert torch.equal(first.embeddings, second.embeddings)
        assert torch.equal(model.decode(first).mean, other.decode(second).mean)

    def test_training_is_deterministic_on_a_cpu(self, method, domain):
        models = [build(method, domain) for _ in range(2)]
        errors = [train(model, 3) for model in models]
        assert errors[0] == errors[1]
        assert all(torch.equal(a, b) for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()))

    def test_half_precision_bodies_keep_codes_valid(self, method, domain):
        model = build(method, domain)
        x = examples(model)
        with torch.autocast("cpu", torch.bfloat16):
            codes = model.encode(x, generator())
            distribution = model.decode(codes)
            totals = [terms.total for terms in model.objectives(x, generator(), progress=1.0)]
        assert distribution.mean.dtype == torch.float32 and distribution.log_prob(x).dtype == torch.float32
        assert all(total.dtype == torch.float32 and torch.isfinite(total) for total in totals)
        if model.discrete:
            assert 0 <= codes.indices.min() and codes.indices.max() < model.vocabulary

    def test_weights_depend_on_the_seed_alone(self, method, domain):
        before = torch.random.get_rng_state()
        first, again, other = (build(method, domain, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(before, torch.random.get_rng_state())
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
        assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters()))

    def test_configurations_survive_a_round_trip(self, method, domain):
        preset, shape = tiny(method, domain)
        plain = to_plain(preset.method)
        assert from_plain(type(preset.method), plain) == preset.method
        config = RunConfig(
            method=method,
            preset="small",
            method_config=plain,
            optimisation=preset.optimisation,
            domain=domain_to_plain(shape),
            schedule_steps=1,
            data="builtin",
            data_root=None,
            seed=0,
        )
        rebuilt, built = config.build(), build(method, domain)
        assert rebuilt.domain == shape
        assert all(torch.equal(a, b) for a, b in zip(rebuilt.parameters(), built.parameters()))


@pytest.mark.parametrize("method", available_methods())
def test_every_preset_of_a_method_is_complete(method):
    for name in ("paper", "small"):
        preset = get_preset(method, name)
        assert isinstance(preset.method, get_method(method).config_class)
        assert from_plain(type(preset.method), to_plain(preset.method)) == preset.method
