"""Speed of the sampler and of one training step, as ratios and shares measured in one run."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.data.errors import UserError, check_number
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.methods.daps import DAPS
from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder
from motionlex.motion_vae.networks.transformer import DecoderBlock, merge_heads, split_heads
from motionlex.motion_vae.posterior import AutoregressivePosterior
from motionlex.motion_vae.registry import PlainValue, build_model, get_preset, override
from motionlex.motion_vae.trainer import resolve_device
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

ReferenceSampler = Callable[[int], Callable[[], None]]
"""Given the number of sequences, makes a function that generates them."""


@dataclass(frozen=True, kw_only=True)
class SamplerBenchmark:
    """Time cached sampling of code sequences against a growing cache and a reference library."""

    sequences: int = 256
    """Sequences of 64 codes drawn at once."""
    samples: int = 16
    """Sequences that share one memory; must divide the number of sequences."""
    preset: str = "paper"
    """Network size."""
    compile: bool = False
    """Also compile the sampler (needs a C++ compiler)."""
    repeats: int = 3
    """Runs of each; the fastest counts."""
    device: str = "cpu"
    """Torch device."""


@dataclass(frozen=True, kw_only=True)
class StepBenchmark:
    """Time the parts of one DAPS training step."""

    preset: str = "small"
    """Recipe."""
    set: tuple[str, ...] = ()
    """Changes to the preset, e.g. --set batch=64."""
    repeats: int = 3
    """Runs of each part; the fastest counts."""
    device: str = "cpu"
    """Torch device."""


def benchmark_sampler(config: SamplerBenchmark, reference: ReferenceSampler | None) -> dict[str, PlainValue]:
    """Compare our sampler with what it replaces, all in this process.

    Args:
        config: What to draw.
        reference: Makes another library's generator of the same size; None leaves its ratio out.

    Returns:
        Seconds of our sampler and how many times longer the others take.
    """
    if config.sequences < 1 or config.samples < 1 or config.sequences % config.samples:
        raise UserError(f"--samples must divide --sequences, got {config.samples} and {config.sequences}")
    check_number("--repeats", config.repeats, above=0)
    device = resolve_device(config.device)
    model = _daps(config.preset, (), device)
    network = _decoder(model)
    generator = torch.Generator(device=device).manual_seed(0)
    memory = torch.randn(
        config.sequences // config.samples, network.tokens, network.config.width, generator=generator, device=device
    )
    if config.compile:
        network.step_logits = torch.compile(network.step_logits, dynamic=False)  # type: ignore[method-assign]

    def timed(function: Callable[[], object]) -> float:
        return best_time(function, config.repeats, device)

    ours = timed(lambda: network.sample(memory, config.samples, generator))
    growing = timed(lambda: sample_with_growing_cache(network, memory, config.samples, generator))
    other = None if reference is None else timed(reference(config.sequences))
    return {
        "seconds": ours,
        "speedup_vs_growing_cache": growing / ours,
        "speedup_vs_hf_generate": None if other is None else other / ours,
        "compiled": config.compile,
        "growing_cache_s": growing,
        "hf_generate_s": other,
        "sequences": config.sequences,
        "tokens": network.tokens,
        "preset": config.preset,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def benchmark_vae_step(config: StepBenchmark) -> dict[str, PlainValue]:
    """Time one training step of DAPS and its three parts (forward and backward), beside its arithmetic.

    Returns:
        Times [s]; ``arithmetic_floor_s`` is the step's matrix arithmetic at the speed of one large matrix product.
    """
    check_number("--repeats", config.repeats, above=0)
    device = resolve_device(config.device)
    preset = override(get_preset("daps", config.preset), config.set)
    model = _daps(config.preset, config.set, device)
    generator = torch.Generator(device=device).manual_seed(0)
    batch, samples = preset.optimisation.batch, preset.method.samples
    x = torch.randn(batch, *model.domain.grid, model.domain.features, generator=generator, device=device)
    memory = model.recognition.memory(x).detach()
    indices, _ = model.recognition.sample(memory, samples, generator)

    def timed(function: Callable[[], object]) -> float:
        return best_time(function, config.repeats, device)

    def decode() -> None:
        model.generative(indices).log_prob(x.unsqueeze(1)).sum().backward()

    sampling = timed(lambda: model.recognition.sample(memory, samples, generator))
    teacher = timed(lambda: model.recognition.log_prob(indices, memory).sum().backward())
    decoder = timed(decode)
    step = timed(lambda: model.loss(x, generator, progress=1.0).total.backward())
    model.zero_grad()
    operations = step_operations(preset.method.networks, model.vocabulary, TrajectoryDomain(), batch, samples)
    return {
        "seconds_per_step": step,
        "sampling_s": sampling,
        "teacher_forcing_s": teacher,
        "decoder_s": decoder,
        "arithmetic_floor_s": operations / matrix_speed(device, config.repeats),
        "teraflop_per_step": operations / 1e12,
        "peak_memory_mb": peak_memory_mb(device),
        "preset": config.preset,
        "batch": batch,
        "samples": samples,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def best_time(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the shortest wall time [s] of several runs, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


@torch.no_grad()
def sample_with_growing_cache(
    network: AutoregressiveDecoder,
    memory: Float[Tensor, "batch length width"],
    samples: int,
    generator: torch.Generator,
) -> Int[Tensor, "rows token"]:
    """Draw from the same distribution the usual way: repeated memory, concatenated caches, multinomial.

    It is what the static cache, the shared keys and the inverse CDF are measured against.
    """
    repeated = memory.repeat_interleave(samples, dim=0)
    shared = [block.cross_attention.project_memory(repeated) for block in network.blocks]
    past: list[tuple[Tensor, Tensor] | None] = [None] * len(network.blocks)
    code = torch.full((len(repeated), 1), network.vocabulary, dtype=torch.long, device=memory.device)
    drawn = []
    for position in range(network.tokens):
        x = network.embedding(code) + network.positions[position]
        if network.aligned:
            x = x + repeated[:, position : position + 1]
        for layer, block in enumerate(network.blocks):
            x, past[layer] = _grow(block, x, past[layer], shared[layer])
        probabilities = torch.softmax(network.output(network.norm(x[:, 0])), dim=-1)
        code = torch.multinomial(probabilities, 1, generator=generator)
        drawn.append(code)
    return torch.cat(drawn, dim=1)


def _grow(
    block: DecoderBlock, x: Tensor, past: tuple[Tensor, Tensor] | None, memory: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    attention = block.self_attention
    query, key, value = (
        split_heads(part, attention.heads) for part in attention.query_key_value(block.self_norm(x)).chunk(3, dim=-1)
    )
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    x = x + attention.output(merge_heads(attended))
    x = x + block.cross_attention(block.cross_norm(x), *memory)
    return x + block.mlp(block.mlp_norm(x)), (key, value)


def step_operations(
    network: NetworkConfig, vocabulary: int, shape: TrajectoryDomain, batch: int, samples: int
) -> float:
    """Floating-point operations of the matrix products of one DAPS step.

    Sampling counts once; teacher forcing, the decoder and the encoder count three times (forward and backward).
    """
    width, layers, ratio, tokens = network.width, network.layers, network.mlp_ratio, shape.tokens
    mlp = 2 * ratio * width**2
    encoder_token = layers * (4 * width**2 + mlp + 2 * tokens * width)
    decoder_token = layers * (6 * width**2 + mlp + 3 * tokens * width) + width * vocabulary
    output_frame = 4 * width**2 + width**2 + width * shape.features
    input_frame = 4 * width * shape.features
    rows = batch * samples
    products = 4 * rows * tokens * decoder_token
    products += 3 * rows * (tokens * encoder_token + shape.frames * output_frame)
    products += 3 * batch * (tokens * (encoder_token + 2 * layers * width**2) + shape.frames * input_frame)
    return 2.0 * products


def matrix_speed(device: torch.device, repeats: int) -> float:
    """Measure the speed [flop/s] of one large float32 matrix product."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, device=device)
    return 2.0 * size**3 / best_time(lambda: a @ a, repeats + 4, device)


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory held so far [MB]: of the process on a CPU, of torch on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _daps(preset: str, settings: tuple[str, ...], device: torch.device) -> DAPS:
    config = override(get_preset("daps", preset), settings).method
    model = build_model("daps", config, TrajectoryDomain(), seed=0)
    assert isinstance(model, DAPS)
    return model.to(device)


def _decoder(model: DAPS) -> AutoregressiveDecoder:
    assert isinstance(model.recognition, AutoregressivePosterior)
    return model.recognition.decoder
