"""Wall times that are fair to each other, and the arithmetic that they are compared with."""

import resource
import sys
import time
from collections.abc import Callable, Sequence

import torch

from motionlex.motion_vae.methods.daps import DAPSConfig
from motionlex.motion_vae.precision import Precision, float32_arithmetic
from motionlex.motion_vae.trajectories.domain import KERNEL, TrajectoryDomain


def best_time(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the shortest wall time [s] of several runs, after one that does not count."""
    return best_times([function], repeats, device)[0]


def best_times(functions: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    """Return the shortest wall time [s] of each function; they take turns, so that other load meets all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - started)
    return [min(taken[1:]) for taken in times]


def step_operations(config: DAPSConfig, domain: TrajectoryDomain, batch: int) -> float:
    """Floating-point operations of the matrix products and convolutions of one DAPS step.

    Sampling counts once; teacher forcing, encoder and generator count three times (forward and backward). Causal
    attention counts the half that it needs.
    """
    networks, tokens = config.networks, domain.tokens
    width, frames, rows = networks.width, domain.frames, batch * config.samples
    mlp = 2 * networks.mlp_ratio * width**2
    encoder_block = 4 * width**2 + mlp + 2 * tokens * width
    decoder_block = 6 * width**2 + mlp + 3 * tokens * width
    head = width * config.vocabulary
    kept_frame = 3 * KERNEL * width * domain.features  # the input needs no gradient, but its share is small
    output_frame = KERNEL * width**2 + width**2 + width * domain.likelihood().channels
    products = 3 * rows * (tokens * networks.generator_layers * encoder_block + frames * output_frame)
    products += 3 * batch * tokens * networks.layers * encoder_block + batch * frames * kept_frame
    if config.factorisation == "factorised":
        products += 4 * batch * tokens * head
    else:
        products += 4 * rows * tokens * (networks.layers * decoder_block + head)
        products += 4 * batch * tokens * networks.layers * 2 * width**2  # keys and values of the memory
    return 2.0 * products


def matrix_speed(device: torch.device, repeats: int, precision: Precision = "float32") -> float:
    """Measure the speed [flop/s] of one large matrix product in a precision."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, device=device)
    if precision == "bf16":
        a = a.bfloat16()
    with float32_arithmetic(precision):
        return 2.0 * size**3 / best_time(lambda: a @ a, repeats + 4, device)


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory held so far [MB]: of the process on a CPU, of torch on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
