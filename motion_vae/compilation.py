"""Faster execution of the same numbers: compiled transformers, and sampling as one CUDA graph."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.data.errors import UserError
from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder
from motionlex.motion_vae.networks.transformer import Encoder
from motionlex.motion_vae.precision import cached_casts

Sample = tuple[Int[Tensor, "batch sample token"], Float[Tensor, "batch sample"]]
WARM_UP_RUNS = 3
"""Runs on a side stream before a capture, so that libraries have made their handles and workspaces."""


def check_compiler(device: torch.device) -> None:
    """Compile a line, because a missing compiler otherwise shows as a page of traces at the first step.

    Raises:
        UserError: If this machine cannot compile for the device.
    """
    try:
        torch.compile(lambda x: torch.sin(x) + 1.0)(torch.zeros(8, device=device))
    except Exception as error:  # whatever the tool chain raises, it means the same to the user
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needed = "Triton" if device.type == "cuda" else "a C++ compiler (g++ or clang++, or CXX)"
        raise UserError(f"--compile needs {needed} that works on this machine: {reason}") from error


def compile_networks(model: nn.Module, device: torch.device) -> int:
    """Compile every transformer stack in place, for static shapes; the weights and their names stay as they are.

    Stacks hold nearly all arithmetic; convolutions, heads and losses around them stay eager. So does sampling: on a
    CPU compiled steps win about a tenth (see ``benchmark sampler --compile``), on a GPU a CUDA graph wins more.

    Args:
        model: An autoencoder.
        device: Where it runs.

    Returns:
        Number of stacks.

    Raises:
        UserError: If it has none, or this machine cannot compile.
    """
    stacks = [module for module in model.modules() if isinstance(module, (Encoder, AutoregressiveDecoder))]
    if not stacks:
        raise UserError("--compile: this method has no transformer to compile")
    check_compiler(device)
    for stack in stacks:
        stack.compile(dynamic=False)
    return len(stacks)


def compile_sampler(decoder: AutoregressiveDecoder, device: torch.device) -> None:
    """Compile the step of a sampler once for all positions.

    Raises:
        UserError: If this machine cannot compile.
    """
    check_compiler(device)
    decoder.compiled_step = torch.compile(decoder.step_logits, dynamic=False)


def check_graphs(device: torch.device) -> None:
    """Refuse CUDA graphs elsewhere than on CUDA.

    Raises:
        UserError: If so.
    """
    if device.type != "cuda":
        raise UserError(f"--cuda-graphs needs a CUDA device, got {device.type!r}")


def capture_samplers(model: nn.Module, device: torch.device) -> int:
    """Replace every autoregressive sampler of a model by a CUDA graph of it.

    Returns:
        Number of samplers.

    Raises:
        UserError: If the device is no GPU, or the model samples nothing token by token.
    """
    check_graphs(device)
    decoders = [module for module in model.modules() if isinstance(module, AutoregressiveDecoder)]
    if not decoders:
        raise UserError("--cuda-graphs: this method samples nothing token by token")
    for decoder in decoders:
        decoder.draw = GraphedSampler(decoder.draw)  # type: ignore[method-assign]
    return len(decoders)


class GraphedSampler:
    """Replays the thousands of small kernels of a sampler as one launch.

    Weights are updated in place and casts to bfloat16 are part of the graph, so a replay sees the newest weights. One
    graph is kept per shape. Not yet run: it was written without a GPU at hand.

    Args:
        draw: :meth:`AutoregressiveDecoder.draw`, on CUDA.
    Source: PyTorch's notes on CUDA graphs (whole-network capture, side-stream warm-up).
    """

    def __init__(self, draw: Callable[[Tensor, int, Tensor], Sample]) -> None:
        self.draw = draw
        self.graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Sample]] = {}

    @torch.no_grad()
    def __call__(
        self, memory: Float[Tensor, "batch length width"], samples: int, uniform: Float[Tensor, "token rows"]
    ) -> Sample:
        """Draw like :meth:`AutoregressiveDecoder.draw`."""
        cast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (memory.shape, memory.dtype, samples, cast)
        if key not in self.graphs:
            self.graphs[key] = self._capture(memory.clone(), samples, uniform.clone())
        graph, static_memory, static_uniform, (indices, log_q) = self.graphs[key]
        static_memory.copy_(memory)
        static_uniform.copy_(uniform)
        graph.replay()
        return indices.clone(), log_q.clone()

    def _capture(
        self, memory: Tensor, samples: int, uniform: Tensor
    ) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Sample]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._run(memory, samples, uniform)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            drawn = self._run(memory, samples, uniform)
        return graph, memory, uniform, drawn

    def _run(self, memory: Tensor, samples: int, uniform: Tensor) -> Sample:
        """Draw with casts of its own: one cached by an earlier run would freeze old weights into the graph."""
        torch.clear_autocast_cache()
        with cached_casts(memory.device):
            return self.draw(memory, samples, uniform)
