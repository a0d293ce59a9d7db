"""Images: the paper's parameter counts, layout of pixels and tokens, and that examples do not touch each other."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from motionlex.data.errors import UserError
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.images.domain import ImageDomain
from motionlex.motion_vae.images.presets import available_settings, image_preset
from motionlex.motion_vae.images.vit import split_patches
from motionlex.motion_vae.likelihoods import LikelihoodConfig
from motionlex.motion_vae.registry import (
    available_methods,
    build_model,
    domain_from_plain,
    domain_to_plain,
    from_plain,
    get_domain,
    to_plain,
)

NETWORKS = NetworkConfig(width=8, heads=2, layers=1, mlp_ratio=2)
BERNOULLI = LikelihoodConfig(family="bernoulli")
WIDE = ImageDomain(height=8, width=16, channels=2, hidden=16, norm="none")
"""2 x 4 tokens: rows and columns cannot be confused unnoticed."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def built(module, seed=0):
    """A network of this domain with weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module()


def pixels(shape, batch=3, seed=0):
    return torch.rand(batch, shape.height * shape.width, shape.channels, generator=seeded(seed))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("setting", "recognition", "generator", "bits"),
    [
        ("mnist", 156_480, 267_344, 64),
        ("cifar10", 1_060_992, 257_958, 576),
        ("imagenet256", 1_211_008, 330_198, 10_240),
    ],
)
def test_parameter_counts_are_those_of_the_authors(setting, recognition, generator, bits):
    """Exactly, but for the begin symbol of our autoregressive decoder: one embedding of the network's width."""
    preset, shape = image_preset("daps", setting)
    model = build_model("daps", preset.method, shape, seed=0)
    assert count(model.recognition) - preset.method.networks.width == recognition
    assert count(model.generative) == generator
    assert model.tokens * math.log2(model.vocabulary) == bits


def test_the_factorised_variant_on_mnist_has_as_many_parameters():
    """Appendix I.3 widens its blocks for that: 2 blocks of ratio 6 for 1 + 1 blocks of ratio 4 with cross-attention."""
    preset, shape = image_preset("daps_na", "mnist")
    assert count(build_model("daps_na", preset.method, shape, seed=0).recognition) == 156_480


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_normalisation_does_not_change_the_parameter_count(norm):
    shape = replace(image_preset("daps", "cifar10")[1], norm=norm)
    codebook = 512 * 128
    assert count(built(lambda: shape.decoder(NetworkConfig(width=128)))) + codebook == 257_958


@pytest.mark.parametrize("padding", [(0, 0), (0, 1), (3, 2)])
def test_patches_against_a_loop_over_pixels(padding):
    height, width, colours, patch = 6, 8, 3, (3, 2)
    x = torch.arange(2.0 * height * width * colours).view(2, height * width, colours)
    across = (width + 2 * padding[1]) // patch[1]
    tokens = across * ((height + 2 * padding[0]) // patch[0])
    expected = torch.zeros(2, tokens, patch[0] * patch[1] * colours)
    for example in range(2):
        for row in range(height):
            for column in range(width):
                for colour in range(colours):
                    below, right = row + padding[0], column + padding[1]
                    token = (below // patch[0]) * across + right // patch[1]
                    value = ((below % patch[0]) * patch[1] + right % patch[1]) * colours + colour
                    expected[example, token, value] = x[example, row * width + column, colour]
    found = split_patches(x, grid=(height, width), patch=patch, padding=padding)
    assert torch.equal(found, expected)


def test_mnist_has_two_by_four_patches_of_112_inputs():
    _, shape = image_preset("daps", "mnist")
    encoder = shape.encoder(NetworkConfig(width=64))
    assert (shape.token_grid, shape.tokens, encoder.input.in_features) == ((2, 4), 8, 112)
    inside = split_patches(torch.ones(1, 784, 1), grid=shape.grid, patch=shape.patch, padding=shape.padding).sum(-1)
    assert inside.tolist() == [[14 * 6, 14 * 8, 14 * 8, 14 * 6] * 2]


def test_a_pixel_reaches_its_own_token_alone_before_attention():
    encoder = built(lambda: replace(WIDE, generator="mlp", patch=(4, 2)).encoder(NETWORKS))
    x = pixels(WIDE, 1).requires_grad_()
    embedded = encoder.input(split_patches(x, grid=encoder.grid, patch=encoder.patch, padding=encoder.padding))
    for token in range(16):
        (gradient,) = torch.autograd.grad(embedded[0, token].sum(), x, retain_graph=True)
        rows, columns = torch.nonzero(gradient[0].abs().sum(-1).view(WIDE.grid), as_tuple=True)
        assert set(rows.tolist()) == set(range(token // 8 * 4, token // 8 * 4 + 4))
        assert set(columns.tolist()) == set(range(token % 8 * 2, token % 8 * 2 + 2))


def field(token, radius, size):
    """Pixels within reach of a token at factor 4: stride by stride, kernels 4, padding 1."""
    low, high = token - radius, token + radius
    for _ in range(2):
        low, high = 2 * low - 1, 2 * high + 2
    return set(range(max(low, 0), min(high, size - 1) + 1))


@pytest.mark.parametrize("token", [(0, 0), (4, 9), (7, 15)])
def test_a_convolutional_token_sees_its_receptive_field(token):
    """Radius 2 at the tokens: one 3 x 3 convolution and one residual block."""
    shape = ImageDomain(height=32, width=64, channels=1, recognition="conv", norm="none", residual_blocks=1, hidden=32)
    encoder = built(lambda: shape.encoder(NetworkConfig(width=32))).double()
    x = pixels(shape, 1).double().requires_grad_()
    row, column = token
    encoder(x)[0, row * 16 + column].square().sum().backward()
    rows, columns = torch.nonzero(x.grad[0, :, 0].view(shape.grid), as_tuple=True)
    assert set(rows.tolist()) == field(row, 2, 32) and set(columns.tolist()) == field(column, 2, 64)


def test_a_token_is_decoded_where_its_patch_was():
    """What a token can change is what a token of the encoder sees: the same kernels and strides, transposed."""
    shape = ImageDomain(height=32, width=64, channels=1, hidden=32, norm="none", residual_blocks=1)
    decoder = built(lambda: shape.decoder(NETWORKS)).double()
    z = torch.randn(1, shape.tokens, 8, generator=seeded()).double()
    for row, column in ((0, 0), (4, 9), (7, 15)):
        other = z.clone()
        other[0, row * 16 + column] += 1.0
        with torch.no_grad():
            change = (decoder(other).mean - decoder(z).mean).view(shape.grid)
        rows, columns = torch.nonzero(change, as_tuple=True)
        assert set(rows.tolist()) == field(row, 2, 32) and set(columns.tolist()) == field(column, 2, 64)


@pytest.mark.parametrize("generator", ["mlp", "resnet"])
@pytest.mark.parametrize("family", ["bernoulli", "predicted_gaussian", "gaussian", "discretised_logistic"])
def test_shapes_for_any_leading_axes(generator, family):
    shape = replace(WIDE, generator=generator, likelihood_config=LikelihoodConfig(family=family))
    decoder = built(lambda: shape.decoder(NETWORKS))
    z = torch.randn(3, 5, shape.tokens, 8, generator=seeded())
    x = (pixels(shape) > 0.5).float()
    together = decoder(z)
    assert together.mean.shape == (3, 5, 128, 2) and together.log_prob(x.unsqueeze(1)).shape == (3, 5)
    alone = decoder(z[2, 4].unsqueeze(0))
    torch.testing.assert_close(together.mean[2, 4], alone.mean[0], rtol=1e-4, atol=1e-5)  # float32 of another batch
    torch.testing.assert_close(together.log_prob(x.unsqueeze(1))[2, 4], alone.log_prob(x[2:])[0], rtol=1e-4, atol=1e-3)


def test_binary_likelihood_is_the_cross_entropy():
    shape = ImageDomain(height=4, width=4, channels=1, patch=(2, 2), generator="mlp", likelihood_config=BERNOULLI)
    decoder = built(lambda: shape.decoder(NETWORKS)).double()
    z, x = torch.randn(2, 4, 8, generator=seeded()).double(), (pixels(shape, 2) > 0.5).double()
    raw = decoder.layers(z.flatten(1)).view(2, 16, 1)
    expected = -binary_cross_entropy_with_logits(raw, x, reduction="none").sum(dim=(1, 2))
    torch.testing.assert_close(decoder(z).log_prob(x), expected)


def test_colours_have_a_variance_of_their_own_within_its_bounds():
    _, shape = image_preset("daps", "cifar10")
    decoder = built(lambda: shape.decoder(NetworkConfig(width=8)))
    distribution = decoder(100.0 * torch.randn(2, 64, 8, generator=seeded()))
    variance = distribution.variance
    assert variance.shape == (2, 1024, 3) and len(variance.unique()) > 100
    assert variance.min() >= 0.01 - 1e-6 and variance.max() <= 1.0 + 1e-6  # float32 rounding of exp and sqrt


@pytest.mark.parametrize("generator", ["mlp", "resnet"])
def test_returns_do_not_depend_on_the_other_samples(generator):
    """In train mode, where batch normalisation would couple the K samples of policy search."""
    shape = replace(WIDE, generator=generator, norm="group")
    decoder = built(lambda: shape.decoder(NETWORKS)).train().double()
    x, z = pixels(shape, 2).double(), torch.randn(2, 4, shape.tokens, 8, generator=seeded()).double()
    other = 10.0 * torch.randn(2, 4, shape.tokens, 8, generator=seeded(1)).double()
    other[0, 1] = z[0, 1]
    first, second = (decoder(codes).log_prob(x.unsqueeze(1))[0, 1] for codes in (z, other))
    torch.testing.assert_close(first, second, rtol=1e-10, atol=0)  # float64; kernels may sum in another order
    torch.testing.assert_close(first, decoder.eval()(z).log_prob(x.unsqueeze(1))[0, 1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("recognition", ["vit", "mlp", "conv"])
def test_memory_does_not_depend_on_the_other_images(recognition):
    shape = replace(WIDE, recognition=recognition, norm="group")
    encoder = built(lambda: shape.encoder(NETWORKS)).train().double()
    x, other = pixels(shape).double(), 10.0 * pixels(shape, seed=1).double()
    other[1] = x[1]
    torch.testing.assert_close(encoder(x)[1], encoder(other)[1], rtol=1e-10, atol=1e-12)


def test_batch_normalisation_couples_them_in_train_mode_as_documented():
    decoder = built(lambda: replace(WIDE, norm="batch").decoder(NETWORKS))
    z = torch.randn(3, WIDE.tokens, 8, generator=seeded())
    other = z.clone()
    other[1:] *= 10.0
    assert not torch.allclose(decoder(z).mean[0], decoder(other).mean[0], atol=1e-3)
    decoder.eval()
    torch.testing.assert_close(decoder(z).mean[0], decoder(other).mean[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": (5, 4)}, r"patch \(5, 4\) must divide the padded image: height 32 fits 1, 2, 4, 8, 16, 32, got 5"),
        ({"patch": (4, 0)}, "width 32 fits"),
        ({"patch": (4, 3), "generator": "mlp"}, "width 32 fits .* got 3"),
        ({"patch": (4, 8)}, r"patch must be square .* got \(4, 8\)"),
        ({"height": 30, "width": 30, "patch": (6, 6)}, r"side of 2, 4, 8, .* got \(6, 6\)"),
        ({"patch": (1, 1)}, r"side of 2, 4, 8, .* got \(1, 1\)"),
        ({"patch": (8, 8), "hidden": 6}, "hidden must be divisible by 4.* got 6"),
        ({"padding": (0, -1)}, "padding must be >= 0"),
        ({"padding": (0, 4)}, "padding needs recognition=vit and generator=mlp, .* with vit and resnet"),
        ({"padding": (0, 1), "generator": "mlp"}, "width 34 fits 1, 2, 17, 34, got 4"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"residual_blocks": -1}, "residual_blocks must be >= 0, got -1"),
        ({"mlp_decoder": (64, 0)}, r"mlp_decoder: .* got \(64, 0\)"),
        ({"recognition": "cnn"}, "recognition(.|\n)*'cnn'"),
        ({"generator": "vit"}, "generator(.|\n)*'vit'"),
        ({"norm": "layer"}, "norm(.|\n)*'layer'"),
    ],
)
def test_bad_numbers_are_refused_by_name(changes, message):
    plain = {**domain_to_plain(ImageDomain()), **changes}
    with pytest.raises(UserError, match=message):
        domain_from_plain(plain)


@pytest.mark.parametrize("setting", available_settings())
def test_domains_survive_json(setting):
    _, shape = image_preset("daps", setting)
    plain = json.loads(json.dumps(domain_to_plain(shape)))
    assert plain["kind"] == "image" and get_domain("image") is ImageDomain
    assert domain_from_plain(plain) == shape


@pytest.mark.parametrize("setting", available_settings())
@pytest.mark.parametrize("method", available_methods())
def test_every_method_has_a_recipe_on_every_data_set(method, setting):
    preset, shape = image_preset(method, setting)
    assert preset.likelihood == shape.likelihood_config
    plain = json.loads(json.dumps(to_plain(preset.method)))
    assert from_plain(type(preset.method), plain) == preset.method


@pytest.mark.parametrize("method", available_methods())
def test_every_method_runs_on_tiny_images(method):
    preset, shape = image_preset(method, "tiny")
    model = build_model(method, preset.method, shape, seed=0)
    x = (pixels(shape) > 0.5).float()
    distribution = model.decode(model.encode(x, seeded()))
    assert distribution.mean.shape == x.shape and torch.isfinite(distribution.log_prob(x)).all()
    for terms in model.objectives(x, seeded(), progress=0.999):
        assert torch.isfinite(terms.total)


@pytest.mark.parametrize(
    ("method", "setting", "wanted"),
    [
        ("daps", "mnist", {"samples": 8, "ess_target": 0.33, "beta_start": 0.5, "beta_end": 0.01}),
        ("daps_na", "mnist", {"ess_target": 0.5}),
        ("daps", "mnist_beta1", {"ess_target": 0.75, "beta_start": 1.0, "beta_end": 1.0}),
        ("daps", "cifar10", {"vocabulary": 512, "ess_target": 0.33, "beta_start": 6.0, "eta_start": 100.0}),
        ("daps_na", "cifar10_beta1", {"beta_start": 6.0, "beta_end": 1.0, "ess_target": 0.33}),
        ("daps", "imagenet256", {"vocabulary": 1024, "ess_target": 0.25, "beta_start": 50.0, "beta_end": 1.0}),
        ("gumbel", "cifar10_beta1", {"temperature_end": 0.75, "beta_start": 6.0}),
        ("gumbel_na", "mnist", {"temperature_start": 1.0, "temperature_end": 0.1}),
        ("gr_mck", "cifar10", {"rao_samples": 100, "temperature_end": 0.75, "beta_start": 3.0}),
        ("gr_mck_na", "imagenet256", {"rao_samples": 10, "temperature_end": 0.1, "beta_start": 10.0}),
        ("vqvae", "cifar10", {"commitment": 0.25, "vocabulary": 512}),
        ("fsq", "mnist", {"levels": (8, 6, 5), "reconstruction": "likelihood"}),
        ("ppo", "mnist", {"beta_start": 1.0, "beta_end": 0.01, "clip": 0.2}),
        ("gaussian", "mnist", {"latent_width": 2, "beta_start": 1.0, "beta_end": 0.01}),
        ("rrvq", "cifar10_rrvq", {"grid_tokens": (256, 64, 16, 4, 1), "vocabulary": 256, "embedding_width": 128}),
        ("reinforce", "mnist_tutorial", {"constant_nats": -125.0, "samples": 1, "vocabulary": 8, "beta_end": 1.0}),
        ("fsq", "imagenet256", {"levels": (8, 5, 5, 5)}),
    ],
)
def test_recipes_are_the_tables_of_the_paper(method, setting, wanted):
    config = image_preset(method, setting)[0].method
    assert {name: getattr(config, name) for name in wanted} == wanted


def test_rates_and_budgets_of_the_paper():
    rates = {
        name: image_preset("gumbel", name)[0].optimisation
        for name in ("mnist", "cifar10", "cifar10_beta1", "imagenet256")
    }
    assert [(r.learning_rate, r.learning_rate_end) for r in rates.values()][:3] == [
        (3e-4, None),
        (1e-4, 1e-5),
        (3e-4, 3e-5),
    ]
    assert [(r.batch, r.steps) for r in rates.values()] == [(256, 250_000)] * 3 + [(64, 300_000)]


def test_unknown_settings_list_what_exists():
    with pytest.raises(UserError, match=r"unknown image setting 'cifar'\. Did you mean 'cifar10'\? Available: celeba"):
        image_preset("daps", "cifar")
