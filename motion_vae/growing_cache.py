"""The usual autoregressive sampler, which ours is measured against, and a check that both draw alike."""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor

from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder
from motionlex.motion_vae.networks.transformer import DecoderBlock, merge_heads, split_heads

LARGEST_Z = 5.0
"""Standard errors that two samplers of one distribution may differ by: one false alarm in 10^6 comparisons."""
FEWEST_DRAWS = 30
"""Codes drawn less often are left out of the comparison of frequencies, where normal theory fails."""


@torch.no_grad()
def sample_with_growing_cache(
    network: AutoregressiveDecoder,
    memory: Float[Tensor, "batch length width"],
    samples: int,
    generator: torch.Generator,
) -> Int[Tensor, "batch sample token"]:
    """Draw from the same distribution the usual way: repeated memory, concatenated caches, multinomial.

    It is what the static cache, the shared keys and the inverse CDF are measured against.
    """
    repeated = memory.repeat_interleave(samples, dim=0)
    context = network.context(memory).flatten(0, 1)
    context = context.repeat_interleave(samples, dim=0) if network.aligned else context
    shared = [block.cross_attention.project_memory(repeated) for block in network.blocks]
    past: list[tuple[Tensor, Tensor] | None] = [None] * len(network.blocks)
    code = torch.full((len(repeated), 1), network.vocabulary, dtype=torch.long, device=memory.device)
    drawn = []
    for position in range(network.tokens):
        x = network.embedding(code) + context[:, position : position + 1]
        for layer, block in enumerate(network.blocks):
            x, past[layer] = _grow(block, x, past[layer], shared[layer])
        probabilities = torch.softmax(network.output(network.norm(x[:, 0])).float(), dim=-1)
        code = torch.multinomial(probabilities, 1, generator=generator)
        drawn.append(code)
    return torch.cat(drawn, dim=1).view(len(memory), samples, network.tokens)


def _grow(
    block: DecoderBlock, x: Tensor, past: tuple[Tensor, Tensor] | None, memory: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    attention = block.self_attention
    query, key, value = (
        split_heads(part, attention.heads) for part in attention.query_key_value(block.self_norm(x)).chunk(3, dim=-1)
    )
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    attended = functional.scaled_dot_product_attention(query, key, value)
    x = x + attention.output(merge_heads(attended))
    x = x + block.cross_attention(block.cross_norm(x), *memory)
    return x + block.mlp(block.mlp_norm(x)), (key, value)


@dataclass(frozen=True, kw_only=True)
class DrawComparison:
    """How far two sets of draws from the same memories are apart."""

    log_q_difference_nats: float
    """Difference of the mean log q of a sequence [nat], under the network that both claim to follow."""
    standard_error_nats: float
    """Standard error of that difference [nat]."""
    largest_code_z: float
    """Largest difference of a code's frequency, in its standard errors."""

    @property
    def equal(self) -> bool:
        """Whether chance explains the differences."""
        within = abs(self.log_q_difference_nats) <= LARGEST_Z * self.standard_error_nats
        return within and self.largest_code_z <= LARGEST_Z


@torch.no_grad()
def compare_draws(
    network: AutoregressiveDecoder,
    memory: Float[Tensor, "batch length width"],
    first: Int[Tensor, "batch sample token"],
    second: Int[Tensor, "batch sample token"],
) -> DrawComparison:
    """Compare mean log q and code frequencies of two sets of draws.

    Sequences are independent given their memory, so variances are those of sequences around their memory's mean.

    Args:
        network: What both were drawn from, by teacher forcing.
        memory: What they were conditioned on.
        first: Draws of one sampler, at least two per memory.
        second: Draws of the other.
    """
    log_q = [network.log_prob(draws, memory).double() for draws in (first, second)]
    counts = [_counts(draws, network.vocabulary) for draws in (first, second)]
    difference, error = _difference(*log_q)
    code_difference, code_error = _difference(*counts)
    often = sum(part.sum(dim=(0, 1)) for part in counts) >= FEWEST_DRAWS
    z = (code_difference.abs() / code_error)[often & (code_error > 0.0)]
    return DrawComparison(
        log_q_difference_nats=difference.item(),
        standard_error_nats=error.item(),
        largest_code_z=z.max().item() if len(z) else 0.0,
    )


def _counts(draws: Int[Tensor, "batch sample token"], vocabulary: int) -> Float[Tensor, "batch sample code"]:
    counts = torch.zeros(*draws.shape[:2], vocabulary, dtype=torch.float64, device=draws.device)
    return counts.scatter_add_(-1, draws, torch.ones_like(draws, dtype=torch.float64))


def _difference(
    first: Float[Tensor, "batch sample *value"], second: Float[Tensor, "batch sample *value"]
) -> tuple[Float[Tensor, "*value"], Float[Tensor, "*value"]]:
    """Difference of means and its standard error, with variances taken within each memory."""
    squares = [x.var(dim=1).mean(dim=0) / (x.shape[0] * x.shape[1]) for x in (first, second)]
    return first.mean(dim=(0, 1)) - second.mean(dim=(0, 1)), torch.sqrt(squares[0] + squares[1])
