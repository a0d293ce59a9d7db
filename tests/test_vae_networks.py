"""The sampler against enumeration and teacher forcing; parameter counts against the paper."""

import itertools
import math

import pytest
import torch

from motionlex.motion_vae.losses import categorical_kl_to_uniform, gathered_log_prob
from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder, inverse_cdf_sample
from motionlex.motion_vae.networks.transformer import TransformerConfig, sinusoidal_positions
from motionlex.motion_vae.registry import build_model, get_preset
from motionlex.motion_vae.trajectories.domain import TrajectoryDecoder, TrajectoryDomain, TrajectoryEncoder


def decoder(vocabulary=3, tokens=3, *, aligned=False, sharpen=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoregressiveDecoder(
            TransformerConfig(width=8, heads=2, layers=2, mlp_ratio=2),
            vocabulary=vocabulary,
            tokens=tokens,
            aligned=aligned,
        )
    with torch.no_grad():
        network.output.weight.mul_(sharpen)
    return network


def memory(batch, tokens, dtype=torch.float32):
    return torch.randn(batch, tokens, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_sampled_log_q_equals_teacher_forcing(dtype, tolerance, aligned):
    network = decoder(vocabulary=5, tokens=16, aligned=aligned, sharpen=4.0).to(dtype)
    context = memory(4, 16, dtype)
    indices, log_q = network.sample(context, 32, torch.Generator().manual_seed(2))
    assert (indices == 0).any(), "code 0 must be drawn, since padding with it is the known fault"
    torch.testing.assert_close(network.log_prob(indices, context), log_q, rtol=0, atol=16 * tolerance)
    starts_with_zero = indices[..., 0] == 0
    assert starts_with_zero.any()
    difference = (network.log_prob(indices, context) - log_q)[starts_with_zero].abs().max()
    assert difference < 16 * tolerance


def test_samples_of_one_memory_do_not_see_another():
    network = decoder(tokens=4, sharpen=4.0).double()
    context = memory(2, 4, torch.float64)
    indices = torch.randint(3, (2, 5, 4), generator=torch.Generator().manual_seed(3))
    together = network.log_prob(indices, context)
    alone = torch.cat(
        [network.log_prob(indices[i : i + 1, k : k + 1], context[i : i + 1]) for i in range(2) for k in range(5)]
    )
    torch.testing.assert_close(together.flatten(), alone.flatten(), rtol=0, atol=1e-12)


def test_conditionals_sum_to_one_over_all_sequences():
    network = decoder(tokens=3, sharpen=3.0).double()
    sequences = torch.tensor(list(itertools.product(range(3), repeat=3)))
    log_q = network.log_prob(sequences[None], memory(1, 3, torch.float64))
    assert log_q.exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_sampled_distribution_is_the_enumerated_one():
    """Chi-square of 20,000 draws over 27 sequences; 26 degrees of freedom exceed 54.05 with probability 0.001."""
    network = decoder(tokens=3, sharpen=3.0)
    context = memory(1, 3)
    sequences = torch.tensor(list(itertools.product(range(3), repeat=3)))
    expected = network.log_prob(sequences[None], context)[0].exp().double()
    draws = 20_000
    indices, _ = network.sample(context, draws, torch.Generator().manual_seed(4))
    observed = torch.bincount((indices[0] * torch.tensor([9, 3, 1])).sum(dim=1), minlength=27).double()
    assert ((observed - draws * expected).square() / (draws * expected)).sum() < 54.05


def test_sampling_is_reproducible_and_leaves_the_global_generator_alone():
    network, context = decoder(tokens=4), memory(2, 4)
    before = torch.random.get_rng_state()
    first, _ = network.sample(context, 3, torch.Generator().manual_seed(5))
    again, _ = network.sample(context, 3, torch.Generator().manual_seed(5))
    assert torch.equal(first, again) and torch.equal(before, torch.random.get_rng_state())


def test_inverse_cdf_at_its_edges():
    logits = torch.log(torch.tensor([[0.0, 0.25, 0.75, 0.0]] * 4))
    codes, log_q = inverse_cdf_sample(logits, torch.tensor([0.0, 0.2499, 0.25, 1.0 - 2**-24]))
    assert codes.tolist() == [1, 1, 2, 2], "codes without mass are never drawn"
    torch.testing.assert_close(log_q, torch.tensor([0.25, 0.25, 0.75, 0.75]).log())


def test_positions_by_hand():
    positions = sinusoidal_positions(3, 4)
    expected = [[math.sin(p), math.sin(p / 100), math.cos(p), math.cos(p / 100)] for p in range(3)]
    torch.testing.assert_close(positions, torch.tensor(expected))


def test_convolutions_keep_time_aligned():
    """Without transformer mixing a token depends only on its own frame and the neighbour, a frame on four tokens."""
    shape = TrajectoryDomain(frames=8, features=3)
    encoder = TrajectoryEncoder(shape, TransformerConfig(width=4, heads=1, layers=1)).double()
    x = torch.randn(1, 8, 3, dtype=torch.float64, requires_grad=True)
    tokens = encoder.resample(x.transpose(1, 2)).transpose(1, 2)
    assert tokens.shape == (1, 16, 4)
    touched = torch.autograd.grad(tokens[0, 6].sum(), x)[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    assert touched.tolist() == [2, 3]
    generative = TrajectoryDecoder(shape, TransformerConfig(width=4, heads=1, layers=1)).double()
    z = torch.randn(1, 16, 4, dtype=torch.float64, requires_grad=True)
    frames = generative.resample(z.transpose(1, 2)).transpose(1, 2)
    touched = torch.autograd.grad(frames[0, 3].sum(), z)[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    assert touched.tolist() == [5, 6, 7, 8]


def test_parameter_counts_of_the_paper():
    model = build_model("daps", get_preset("daps", "paper").method, TrajectoryDomain(), seed=0)
    recognition = sum(p.numel() for p in model.recognition.parameters())
    generative = sum(p.numel() for p in model.generative.parameters())
    assert generative == 624_633
    assert recognition == 1_248_384 + 128, "ours has one more row of the embedding, the begin symbol"


def test_kl_to_uniform_at_its_ends():
    uniform, certain = torch.zeros(1, 4, 8), torch.full((1, 4, 8), -1e4)
    certain[..., 3] = 0.0
    torch.testing.assert_close(categorical_kl_to_uniform(uniform), torch.zeros(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(categorical_kl_to_uniform(certain), torch.full((1,), 4 * math.log(8)))
    half = torch.tensor([[[0.0, 0.0, -1e4, -1e4]]])
    assert categorical_kl_to_uniform(half).item() == pytest.approx(math.log(2))
    assert gathered_log_prob(half, torch.tensor([[1]])).item() == pytest.approx(-math.log(2))
