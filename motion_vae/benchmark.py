"""Speed of the sampler and of one training step, as ratios and shares measured in one run."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.data.errors import UserError, check_number
from motionlex.motion_vae.allocation import keep_freed_memory
from motionlex.motion_vae.compilation import capture_samplers, check_graphs, compile_networks, compile_sampler
from motionlex.motion_vae.contract import Preset
from motionlex.motion_vae.domain import Domain
from motionlex.motion_vae.growing_cache import compare_draws, sample_with_growing_cache
from motionlex.motion_vae.methods.daps import DAPS, DAPSConfig
from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder
from motionlex.motion_vae.networks.transformer import TransformerConfig
from motionlex.motion_vae.posterior import AutoregressivePosterior
from motionlex.motion_vae.precision import PRECISIONS, Precision, arithmetic, check_precision, float32_arithmetic
from motionlex.motion_vae.registry import PlainValue, build_model, get_preset, override
from motionlex.motion_vae.timing import best_time, best_times, matrix_speed, peak_memory_mb, step_operations
from motionlex.motion_vae.trainer import Trainer, resolve_device
from motionlex.motion_vae.trajectories.domain import TrajectoryDomain

SHARPNESS = 4.0
"""Factor on the logits of the untrained sampler, so that its distribution is far from uniform like a trained one."""


@dataclass(frozen=True, kw_only=True)
class SamplerSize:
    """What a reference library has to generate."""

    network: TransformerConfig
    """Shape of the decoder."""
    vocabulary: int
    """Number of codes."""
    tokens: int
    """Codes per sequence."""
    sequences: int
    """Sequences at once."""
    device: torch.device
    """Where."""


ReferenceSampler = Callable[[SamplerSize], Callable[[], None]]
"""Makes a function that generates sequences of that size."""


@dataclass(frozen=True, kw_only=True)
class SamplerBenchmark:
    """Time cached sampling of code sequences against a growing cache and a reference library."""

    sequences: int = 256
    """Sequences of 64 codes drawn at once."""
    samples: int = 16
    """Sequences that share one memory; must divide the number of sequences."""
    preset: str = "paper"
    """Network size."""
    precision: Precision = "float32"
    """Arithmetic of the network: float32, tf32 (CUDA) or bf16."""
    compile: bool = False
    """Also compile our sampler (needs a C++ compiler, on CUDA Triton)."""
    cuda_graphs: bool = False
    """Capture our sampler in a CUDA graph (CUDA only)."""
    repeats: int = 3
    """Runs of each; the fastest counts."""
    device: str = "cpu"
    """Torch device."""


@dataclass(frozen=True, kw_only=True)
class StepBenchmark:
    """Time one DAPS training step and its parts."""

    method: str = "daps"
    """daps or daps_na."""
    preset: str = "small"
    """Recipe."""
    set: tuple[str, ...] = ()
    """Changes to the preset, e.g. --set batch=64 precision=bf16."""
    compile: bool = False
    """Compile the transformers, as in train_motion_vae."""
    cuda_graphs: bool = False
    """Capture sampling in a CUDA graph, as in train_motion_vae."""
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
        Seconds of our sampler, how many times longer the others take, and whether the growing cache draws alike.
    """
    if config.sequences < 1 or config.samples < 1 or config.sequences % config.samples:
        raise UserError(f"--samples must divide --sequences, got {config.samples} and {config.sequences}")
    check_number("--repeats", config.repeats, above=0)
    device = _device(config.device, config.precision, config.cuda_graphs)
    model = build_model("daps", get_preset("daps", config.preset).method, TrajectoryDomain(), seed=0).to(device)
    network = _decoder(model)
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        network.output.weight.mul_(SHARPNESS)
    shape = (config.sequences // config.samples, network.tokens, network.config.width)
    memory = torch.randn(shape, generator=generator, device=device)

    def draw(sampler: AutoregressiveDecoder) -> object:
        with arithmetic(config.precision, device):
            return sampler.sample(memory, config.samples, generator)

    def growing() -> object:
        with arithmetic(config.precision, device):
            return sample_with_growing_cache(network, memory, config.samples, generator)

    size = SamplerSize(
        network=network.config, vocabulary=network.vocabulary, tokens=network.tokens, sequences=config.sequences,
        device=device,
    )  # fmt: skip
    plain = copy.deepcopy(network) if config.compile or config.cuda_graphs else network
    if config.compile:
        compile_sampler(network, device)
    if config.cuda_graphs:
        capture_samplers(model, device)
    functions = {"ours": lambda: draw(network), "eager": lambda: draw(plain), "growing": growing}
    if reference is not None:
        functions["other"] = reference(size)
    if plain is network:
        del functions["eager"]
    times = dict(zip(functions, best_times(list(functions.values()), config.repeats, device), strict=True))
    ratios = {name: seconds / times["ours"] for name, seconds in times.items()}
    return {
        "seconds": times["ours"],
        "speedup_vs_growing_cache": ratios["growing"],
        "speedup_vs_hf_generate": ratios.get("other"),
        "speedup_vs_eager": ratios.get("eager"),
        "compiled": config.compile,
        "cuda_graphs": config.cuda_graphs,
        "growing_cache_s": times["growing"],
        "hf_generate_s": times.get("other"),
        **_distribution_check(network, memory, config.samples, generator),
        "sequences": config.sequences,
        "tokens": network.tokens,
        "preset": config.preset,
        "precision": config.precision,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def _distribution_check(
    network: AutoregressiveDecoder,
    memory: Float[Tensor, "batch length width"],
    samples: int,
    generator: torch.Generator,
) -> dict[str, PlainValue]:
    """Compare draws of our sampler (as it was timed, in float32) and of the growing cache."""
    samples = max(samples, 2)
    ours, _ = network.sample(memory, samples, generator)
    found = compare_draws(network, memory, ours, sample_with_growing_cache(network, memory, samples, generator))
    return {
        "distribution_check_equal": found.equal,
        "distribution_check_log_q_difference_nats": found.log_q_difference_nats,
        "distribution_check_standard_error_nats": found.standard_error_nats,
        "distribution_check_largest_code_z": found.largest_code_z,
    }


class _NoiseSource:
    """One batch again and again, which costs nothing to make."""

    def __init__(self, domain: Domain, batch: int) -> None:
        self.noise = torch.randn(batch, *domain.grid, domain.features, generator=torch.Generator().manual_seed(0))

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch item feature"]:
        return self.noise[:batch]


def benchmark_vae_step(config: StepBenchmark) -> dict[str, PlainValue]:
    """Time one training step of DAPS and its three parts (forward and backward), beside its arithmetic.

    Returns:
        Times [s]; ``arithmetic_floor_s`` is the step's matrix arithmetic at the speed of one large matrix product of
        the same precision.
    """
    check_number("--repeats", config.repeats, above=0)
    if config.method not in ("daps", "daps_na"):
        raise UserError(f"--method must be daps or daps_na, got {config.method!r}")
    preset: Preset[DAPSConfig] = override(get_preset(config.method, config.preset), config.set)
    precision = preset.optimisation.precision
    device = _device(config.device, precision, config.cuda_graphs)
    domain = TrajectoryDomain(likelihood_config=preset.likelihood)
    model = build_model(config.method, preset.method, domain, seed=0)
    assert isinstance(model, DAPS)
    source = _NoiseSource(domain, preset.optimisation.batch)
    keep_freed_memory(device)  # as training does
    trainer = Trainer(model, source, preset.optimisation, schedule_steps=1, seed=0, device=device)
    trainer.steps = 1  # behind the schedule, hence behind a warm start
    if config.compile:
        compile_networks(model, device)
    if config.cuda_graphs:
        capture_samplers(model, device)
    batch, samples = preset.optimisation.batch, preset.method.samples
    parts = _part_times(model, trainer, samples, config.repeats)
    step = best_time(trainer.step, config.repeats, device)
    operations = step_operations(preset.method, domain, batch)
    floor = operations / matrix_speed(device, config.repeats, precision)
    return {
        "seconds_per_step": step,
        "samples_per_s": batch / step,
        **parts,
        "arithmetic_floor_s": floor,
        "share_of_arithmetic_floor": floor / step,
        "teraflop_per_step": operations / 1e12,
        "peak_memory_mb": peak_memory_mb(device),
        "method": config.method,
        "preset": config.preset,
        "precision": precision,
        "compiled": config.compile,
        "cuda_graphs": config.cuda_graphs,
        "batch": batch,
        "samples": samples,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def _part_times(model: DAPS, trainer: Trainer, samples: int, repeats: int) -> dict[str, PlainValue]:
    """Time sampling, teacher forcing and generator of one step [s], forward and backward, with its micro-batches."""
    config, device, generator = trainer.config, trainer.device, trainer.model_generator
    x = trainer.sampler.sample(config.batch // config.micro_batches, trainer.data_generator).to(device)
    with arithmetic(config.precision, device):
        memory = model.recognition.memory(x).detach()
        indices, _ = model.recognition.sample(memory, samples, generator)

    def timed(function: Callable[[], Tensor]) -> float:
        def forward_backward() -> None:
            with arithmetic(config.precision, device):
                result = function()
            if result.requires_grad:
                with float32_arithmetic(config.precision):
                    result.backward()

        return config.micro_batches * best_time(forward_backward, repeats, device)

    times: dict[str, PlainValue] = {
        "sampling_s": timed(lambda: model.recognition.sample(memory, samples, generator)[1]),
        "teacher_forcing_s": timed(lambda: model.recognition.log_prob(indices, memory).sum()),
        "decoder_s": timed(lambda: model.generative(indices).log_prob(x.unsqueeze(1)).sum()),
    }
    model.zero_grad(set_to_none=True)
    return times


def _device(name: str, precision: Precision, cuda_graphs: bool) -> torch.device:
    if precision not in PRECISIONS:
        raise UserError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    device = resolve_device(name)
    check_precision(precision, device)
    if cuda_graphs:
        check_graphs(device)
    return device


def _decoder(model: torch.nn.Module) -> AutoregressiveDecoder:
    assert isinstance(model, DAPS) and isinstance(model.recognition, AutoregressivePosterior)
    return model.recognition.decoder
