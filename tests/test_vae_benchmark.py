"""Benchmarks: keys, arithmetic against a counter of operations, and a distribution check that notices differences."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from motionlex.controllers.reference_sampler import hugging_face_sampler
from motionlex.data.errors import UserError
from motionlex.motion_vae.benchmark import (
    SamplerBenchmark,
    SamplerSize,
    StepBenchmark,
    _NoiseSource,
    benchmark_sampler,
    benchmark_vae_step,
)
from motionlex.motion_vae.compilation import capture_samplers, check_compiler, compile_networks
from motionlex.motion_vae.growing_cache import compare_draws, sample_with_growing_cache
from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder
from motionlex.motion_vae.networks.transformer import TransformerConfig
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.timing import best_times, step_operations
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain
from motionlex.scripts import benchmark

CPU = torch.device("cpu")
TINY = ("width=16", "heads=2", "layers=1", "mlp_ratio=2", "vocabulary=8", "batch=4", "samples=2", "ess_target=0.7")


def decoder(*, aligned=False, temperature=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = TransformerConfig(width=16, heads=2, layers=2, mlp_ratio=2)
        network = AutoregressiveDecoder(shape, vocabulary=12, tokens=8, aligned=aligned)
    with torch.no_grad():
        network.output.weight.mul_(3.0 / temperature)
        network.output.bias.div_(temperature)
    return network


def contexts():
    return torch.randn(16, 8, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("aligned", [False, True])
def test_both_samplers_draw_alike_and_another_temperature_shows(aligned):
    """1600 sequences of entropy about 15 nat: a fifth more temperature moves the mean log q by some 10 errors."""
    network, memory = decoder(aligned=aligned), contexts()
    ours, _ = network.sample(memory, 100, torch.Generator().manual_seed(2))
    theirs = sample_with_growing_cache(network, memory, 100, torch.Generator().manual_seed(3))
    same = compare_draws(network, memory, ours, theirs)
    assert same.equal and same.standard_error_nats < 0.2
    warmer = decoder(aligned=aligned, temperature=1.2)
    assert not compare_draws(
        network, memory, ours, warmer.sample(memory, 100, torch.Generator().manual_seed(2))[0]
    ).equal


def test_the_code_frequencies_notice_what_log_q_cannot():
    """Codes of a uniform network all have the same log q; a sampler that never draws code 0 shows in its counts."""
    network, memory = decoder(), contexts()
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.zero_()
    ours, _ = network.sample(memory, 20, torch.Generator().manual_seed(2))
    found = compare_draws(network, memory, ours, ours.clamp_min(1))
    assert abs(found.log_q_difference_nats) < 1e-5 and found.largest_code_z > 5.0 and not found.equal


def test_a_position_as_tensor_gives_the_same_numbers():
    """The masked step over the whole cache, which compiled programs run, against the sliced one; float64."""
    network = decoder(aligned=True).double()
    memory = contexts().double()
    sliced = network.sample(memory, 3, torch.Generator().manual_seed(2))
    network.compiled_step = network.step_logits
    masked = network.sample(memory, 3, torch.Generator().manual_seed(2))
    assert torch.equal(sliced[0], masked[0])
    torch.testing.assert_close(sliced[1], masked[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["daps", "daps_na"])
def test_operations_are_those_that_torch_counts(method):
    """Within 10 %: the counter takes causal attention whole, and the step's slices of the cache are rounded up."""
    settings = ("width=32", "heads=2", "vocabulary=64", "samples=3", "ess_target=0.5", "layers=2", "generator_layers=3")
    config = override(get_preset(method, "small"), settings).method
    domain = TrajectoryDomain()
    model = build_model(method, config, domain, seed=0)
    x = torch.randn(2, *domain.grid, domain.features, generator=torch.Generator().manual_seed(0))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(x, torch.Generator().manual_seed(0), progress=1.0).total.backward()
    assert step_operations(config, domain, 2) == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_sampler_keys(capsys):
    arguments = ["sampler", "--json", "--preset", "small", "--sequences", "4", "--samples", "2", "--repeats", "1"]
    assert benchmark.main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = "seconds speedup_vs_growing_cache speedup_vs_hf_generate compiled distribution_check_equal"
    assert set(wanted.split()) <= result.keys()
    assert result["distribution_check_equal"] is True and result["speedup_vs_hf_generate"] > 0.0


@pytest.mark.parametrize("method", ["daps", "daps_na"])
def test_step_keys(method):
    result = benchmark_vae_step(StepBenchmark(method=method, set=TINY, repeats=1))
    wanted = (
        "seconds_per_step sampling_s teacher_forcing_s decoder_s arithmetic_floor_s share_of_arithmetic_floor "
        "peak_memory_mb device"
    )
    assert set(wanted.split()) <= result.keys()
    assert result["share_of_arithmetic_floor"] == result["arithmetic_floor_s"] / result["seconds_per_step"]


def test_the_noise_of_a_benchmark_is_drawn_once():
    """Else the time of a step would have that of drawing in it."""
    source, generator = _NoiseSource(TrajectoryDomain(frames=4, features=5), 6), torch.Generator().manual_seed(3)
    before = generator.get_state()
    first, again, fewer = (source.sample(batch, generator) for batch in (6, 6, 2))
    assert first.shape == (6, 4, 5) and fewer.shape == (2, 4, 5) and first.std() > 0.5
    assert first.data_ptr() == again.data_ptr() and torch.equal(generator.get_state(), before)


def test_functions_take_turns():
    order = []
    best_times([lambda: order.append("a"), lambda: order.append("b")], 2, CPU)
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: benchmark_sampler(SamplerBenchmark(sequences=5, samples=2), None), "--samples must divide"),
        (lambda: benchmark_sampler(SamplerBenchmark(cuda_graphs=True), None), "--cuda-graphs needs a CUDA device"),
        (lambda: benchmark_sampler(SamplerBenchmark(precision="tf32"), None), "tf32 needs a CUDA device"),
        (lambda: benchmark_vae_step(StepBenchmark(method="vqvae")), "--method must be daps or daps_na"),
        (lambda: benchmark_vae_step(StepBenchmark(cuda_graphs=True)), "--cuda-graphs needs a CUDA device"),
        (lambda: capture_samplers(decoder(), CPU), "--cuda-graphs needs a CUDA device"),
    ],
)
def test_mistakes(run, message):
    with pytest.raises(UserError, match=message):
        run()


def test_the_reference_library_generates_the_size_that_was_asked_for():
    size = SamplerSize(
        network=TransformerConfig(width=16, heads=2, layers=1), vocabulary=5, tokens=4, sequences=3, device=CPU
    )
    hugging_face_sampler(size)()


def test_a_missing_compiler_is_one_line(monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler .*: No working C\+\+ compiler found$"):
        check_compiler(CPU)


def test_what_is_compiled(monkeypatch):
    """The three stacks of DAPS and no more, each for static shapes, without new names in the weights."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options) or function)
    model = build_model("daps", override(get_preset("daps", "small"), TINY[:-3]).method, TrajectoryDomain(), seed=0)
    names = list(model.state_dict())
    assert compile_networks(model, CPU) == 3
    assert asked[1:] == [{"dynamic": False}] * 3, "after the line that tries the compiler"
    assert list(model.state_dict()) == names
    with pytest.raises(UserError, match="no transformer to compile"):
        compile_networks(torch.nn.Linear(2, 2), CPU)


COMPILED = """
import torch
from motionlex.motion_vae.compilation import compile_networks, compile_sampler
from motionlex.motion_vae.registry import build_model, get_preset, override
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

torch.set_num_threads(1)
cpu = torch.device("cpu")
settings = ("width=16", "heads=2", "layers=1", "generator_layers=1", "mlp_ratio=2", "vocabulary=8", "samples=2",
            "ess_target=0.7")
shape = TrajectoryDomain(frames=4, features=5)
x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
found = []
for compiled in (False, True):
    model = build_model("daps", override(get_preset("daps", "small"), settings).method, shape, seed=0)
    if compiled:
        names = set(model.state_dict())
        assert compile_networks(model, cpu) == 3  # encoder, decoder of q, generator
        compile_sampler(model.recognition.decoder, cpu)
        assert set(model.state_dict()) == names
    terms = model.loss(x, torch.Generator().manual_seed(1), progress=1.0)
    terms.total.backward()
    found.append([terms.total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
assert len(found[0]) == len(found[1])
for eager, compiled in zip(*found):
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.skipif("MOTIONLEX_SLOW_TESTS" not in os.environ, reason="half a minute: set MOTIONLEX_SLOW_TESTS to run")
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler here")
def test_compiled_networks_give_the_same_numbers():
    """Loss and gradients of a tiny model; in a process of its own, without run-time checks of shapes."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
