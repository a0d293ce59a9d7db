"""Sampling code sequences with gradients: the relaxed draw of every step is fed to the next (through time)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder
from motionlex.motion_vae.quantisation import mixed_codes

Relaxation = Callable[[Float[Tensor, "*shape code"]], Float[Tensor, "*shape code"]]
"""Draws codes from logits, as weights over the codes (one-hot or soft) with a gradient for the logits."""


def relaxed_sequence(
    decoder: AutoregressiveDecoder, memory: Float[Tensor, "batch token width"], relaxation: Relaxation
) -> tuple[Float[Tensor, "batch token code"], Float[Tensor, "batch token code"]]:
    r"""Draw one sequence per memory, keeping the graph from every step to all steps after it.

    .. math:: \ell_t = f(e^\top y_{<t}, memory), \quad y_t = \mathrm{relaxation}(\ell_t)

    Args:
        decoder: q(z|memory), with its embedding e and its begin symbol.
        memory: What the sequences are conditioned on.
        relaxation: Called once per token with logits (batch, code) in float32 (or float64).

    Returns:
        Draws y and logits l of every step. For one-hot draws the logits are those of teacher forcing on the same codes.
    Source: DAPS, sections 2 and 3 ("backpropagation through time" of straight-through Gumbel-softmax).
    """
    # unbind, not context[:, position]: each such index would give a zero-filled gradient of the whole context.
    contexts = decoder.context(memory).squeeze(1).expand(len(memory), -1, -1).unbind(1)
    shared = [block.cross_attention.project_memory(memory) for block in decoder.blocks]
    past: list[tuple[Tensor, Tensor] | None] = [None] * len(decoder.blocks)
    codebook, begin = decoder.embedding.weight.split([decoder.vocabulary, 1])
    embedded = begin.expand(len(memory), -1)
    draws, conditionals = [], []
    for context in contexts:
        x = embedded + context
        for layer, block in enumerate(decoder.blocks):
            x, past[layer] = block.extend(x, past[layer], shared[layer])
        logits = decoder.output(decoder.norm(x))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        draw = relaxation(logits)
        draws.append(draw)
        conditionals.append(logits)
        embedded = mixed_codes(draw.unsqueeze(1), codebook).squeeze(1)
    return torch.stack(draws, dim=1), torch.stack(conditionals, dim=1)
