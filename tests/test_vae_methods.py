"""What DAPS, VQ-VAE and the registry promise beyond the contract of all methods (test_vae_contract.py)."""

import math

import numpy as np
import pytest
import torch

from motionlex.data.errors import UserError
from motionlex.motion_vae.contract import OptimisationConfig
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.methods.daps import LOG_ETA_RANGE, DAPSConfig
from motionlex.motion_vae.optimisation import build_optimisers, clip_gradients_adaptively
from motionlex.motion_vae.registry import (
    available_methods,
    build_model,
    get_method,
    get_preset,
    override,
    to_plain,
)
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

SHAPE = TrajectoryDomain(frames=4, features=5)
TINY = ("width=8", "heads=2", "layers=1", "generator_layers=1", "mlp_ratio=2", "vocabulary=6")


def tiny_model(method, *settings, seed=0):
    return build_model(method, override(get_preset(method, "small"), (*TINY, *settings)).method, SHAPE, seed=seed)


def segments(batch=3):
    return torch.randn(batch, SHAPE.frames, SHAPE.features, generator=torch.Generator().manual_seed(0))


def gradients(model):
    return {n: (None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()}


def test_daps_gradients_are_disjoint():
    """Each term of the loss, alone, moves its own network and no other."""
    model = tiny_model("daps")
    x = segments()
    memory = model.recognition.memory(x)
    indices, _ = model.recognition.sample(memory, 2, torch.Generator().manual_seed(1))
    model.loss(x, torch.Generator().manual_seed(1), progress=1.0).total.backward()
    together = gradients(model)
    # The decoder's own objective by hand, on the same draws:
    model = tiny_model("daps")
    memory = model.recognition.memory(x).detach()
    samples = model.config.samples
    indices, _ = model.recognition.sample(memory, samples, torch.Generator().manual_seed(1))
    repeated = x.repeat_interleave(samples, dim=0)
    loss = -model.generative(indices.flatten(0, 1)).log_prob(repeated).mean()
    loss.backward()
    for name, gradient in gradients(model).items():
        if name.startswith("generative."):
            torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-4)
        else:
            assert gradient is None, name
    assert together["log_eta"] is not None


def test_daps_encoder_does_not_see_the_scale_of_the_decoder_loss():
    """The gradient of q is that of weighted log q: at equal returns it is the plain average of grad log q."""
    model = tiny_model("daps", "centred_weights=false")
    with torch.no_grad():  # a decoder that ignores its codes gives equal returns; beta = 0.01 -> nearly equal weights
        model.generative.decoder.output[2].weight.zero_()
        model.log_eta.fill_(LOG_ETA_RANGE[1])
    x, samples = segments(), model.config.samples
    model.loss(x, torch.Generator().manual_seed(1), progress=1.0).total.backward()
    found = gradients(model)
    model.zero_grad()
    memory = model.recognition.memory(x)
    indices, _ = model.recognition.sample(memory.detach(), samples, torch.Generator().manual_seed(1))
    (-model.recognition.log_prob(indices, memory).mean(dim=1).mean()).backward()
    for name, parameter in model.recognition.named_parameters():
        torch.testing.assert_close(found[f"recognition.{name}"], parameter.grad, rtol=1e-3, atol=1e-4)


def test_temperature_has_its_own_optimiser_and_bounds():
    model = tiny_model("daps")
    optimisers = {o.name: o for o in build_optimisers(model, OptimisationConfig())}
    assert optimisers["temperature"].rule.param_groups[0]["lr"] == model.config.eta_learning_rate
    assert get_preset("daps", "paper").method.eta_learning_rate == 1e-3
    with torch.no_grad():
        model.log_eta.fill_(-1e9)
    model.after_update()
    assert model.log_eta.item() == pytest.approx(LOG_ETA_RANGE[0])


@pytest.mark.parametrize(("eta", "rises"), [(1e-3, True), (1e4, False)])
def test_temperature_moves_towards_the_target(eta, rises):
    """Descent raises eta when too few samples carry the weight, and lowers it when too many do."""
    model = tiny_model("daps")
    with torch.no_grad():
        model.log_eta.fill_(math.log(eta))
    model.loss(segments(), torch.Generator().manual_seed(1), progress=1.0).total.backward()
    assert (model.log_eta.grad < 0) == rises


def test_ema_codebook_is_the_mean_of_what_it_codes():
    model = tiny_model(
        "vqvae", "codebook_update=ema", "kmeans_start=false", "continuous=0", "replace_dead=never", "ema_decay=0.001"
    )
    x = segments(8)
    with torch.no_grad():
        vectors = model.encoder(x)
        indices = model.encode(x, torch.Generator()).indices
    model.loss(x, torch.Generator(), progress=0.0)
    model.after_update()
    code = indices.flatten().mode().values
    # decay 0.001 leaves a thousandth of the initial vector behind.
    torch.testing.assert_close(model.codebook[code], vectors[indices == code].mean(dim=0), atol=5e-3, rtol=0)


def test_adaptive_clipping_by_hand():
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    weight.grad = torch.tensor([[30.0, 40.0], [1.0, 0.0]])
    clip_gradients_adaptively([weight], 1.0)
    torch.testing.assert_close(weight.grad, torch.tensor([[3.0, 4.0], [1e-3, 0.0]]))
    weight.grad = torch.tensor([[0.3, 0.4], [1e-4, 0.0]])
    clip_gradients_adaptively([weight], 1.0)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.3, 0.4], [1e-4, 0.0]]))


def test_unknown_names_list_what_exists():
    with pytest.raises(UserError, match=r"unknown method 'dasp'\. Did you mean 'daps'\? Available: daps, "):
        get_method("dasp")
    with pytest.raises(UserError, match="unknown preset 'tiny'"):
        get_preset("daps", "tiny")
    with pytest.raises(UserError, match="unknown setting 'sample'"):
        override(get_preset("daps", "small"), ("sample=3",))


@pytest.mark.parametrize(
    "settings",
    ["samples=1", "samples=x", "ess_target=1.5", "beta_end=0", "width=7", "vocabulary=1", "batch=0", "variance=nan"],
)
def test_bad_values_are_the_users_error(settings):
    with pytest.raises(UserError):
        override(get_preset("daps", "small"), (settings,))


def test_paper_preset_is_the_column_of_the_paper():
    preset = get_preset("daps", "paper")
    assert preset.method == DAPSConfig(
        vocabulary=1024, networks=NetworkConfig(width=128, heads=4, layers=2, mlp_ratio=4, generator_layers=2),
        samples=16, ess_target=0.33, beta_start=2.0, beta_end=0.01, eta_start=100.0, eta_learning_rate=1e-3,
    )  # fmt: skip
    assert preset.optimisation == OptimisationConfig(
        batch=256, steps=250_000, hz=100.0, learning_rate=3e-4, weight_decay=1e-4, adaptive_clipping=1.0
    )
    assert TrajectoryDomain().tokens == 64 and preset.likelihood.variance == 0.25


def test_learning_rate_falls_exponentially_for_the_networks_only():
    """Half way between 1e-2 and 1e-4 is 1e-3 on the logarithmic scale; eta keeps its own rate."""
    model = tiny_model("daps")
    config = OptimisationConfig(learning_rate=1e-2, learning_rate_end=1e-4)
    optimisers = {o.name: o for o in build_optimisers(model, config)}
    rates = []
    for progress in (0.0, 0.5, 1.0):
        for optimiser in optimisers.values():
            optimiser.update(progress)
        rates.append([optimisers[n].rule.param_groups[0]["lr"] for n in ("networks", "temperature")])
    own = model.config.eta_learning_rate
    np.testing.assert_allclose(rates, [[1e-2, own], [1e-3, own], [1e-4, own]])


def test_parts_of_a_batch_move_the_codes_of_the_warm_start_as_the_whole_does():
    """Two halves before one update and the whole at once leave the same codebook: sums do not care about the cut."""
    whole, halves = tiny_model("daps").double(), tiny_model("daps").double()
    x = segments(8).double()
    progress = whole.config.warm_start.continuous
    for model in (whole, halves):  # the codebook starts from the same first batch
        model.loss(x, torch.Generator().manual_seed(1), progress=progress)
        model._assigned.clear()
    whole.loss(x, torch.Generator().manual_seed(2), progress=progress)
    generator = torch.Generator().manual_seed(2)
    for part in x.chunk(2):
        halves.loss(part, generator, progress=progress)
    for model in (whole, halves):
        model.after_update()
    torch.testing.assert_close(halves.codebook, whole.codebook, rtol=1e-9, atol=1e-12)


def leaf_names(plain):
    """Names of all fields that --set can change, with repetitions."""
    return [n for k, v in plain.items() for n in (leaf_names(v) if isinstance(v, dict) else [k])]


@pytest.mark.parametrize("method", available_methods())
def test_every_setting_of_a_preset_has_a_name_of_its_own(method):
    """--set takes the bare name of a field, wherever in the preset it is."""
    for name in get_method(method).presets:
        names = leaf_names(to_plain(get_preset(method, name)))
        assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


@pytest.mark.parametrize("method", ["gumbel", "gumbel_na", "gr_mck_na", "gm_vq", "sq_vae", "vqvae"])
def test_codes_reach_the_decoder_in_full_precision(method, monkeypatch):
    """A body in bf16 must not round the codebook: at evaluation codes are looked up, not multiplied."""
    model, seen = tiny_model(method), []
    decode = model.decode_embeddings
    monkeypatch.setattr(model, "decode_embeddings", lambda codes: seen.append(codes.dtype) or decode(codes))
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(segments(), torch.Generator().manual_seed(1), progress=1.0)
    assert seen == [torch.float32]


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 0.9])
def test_every_phase_of_the_warm_start_reports_its_error(progress):
    terms = tiny_model("daps").loss(segments(), torch.Generator().manual_seed(1), progress=progress)
    assert 0.0 < terms.metrics["mean_squared_error"].item() < 10.0
    assert not terms.metrics["mean_squared_error"].requires_grad
