"""Autoregressive distribution over codes given a memory: teacher forcing and cached sampling of the same numbers."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.losses import gathered_log_prob
from motionlex.motion_vae.networks.transformer import DecoderBlock, TransformerConfig, sinusoidal_positions
from motionlex.motion_vae.precision import cached_casts


def inverse_cdf_sample(
    logits: Float[Tensor, "rows code"], uniform: Float[Tensor, "rows ..."]
) -> tuple[Int[Tensor, "rows ..."], Float[Tensor, "rows ..."]]:
    """Draw codes by inverting the cumulative distribution of each row.

    Args:
        logits: Unnormalised log-probabilities.
        uniform: Numbers in [0, 1): one per row, or several per row for as many draws.

    Returns:
        The codes and their log-probabilities [nat].
    """
    probabilities = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:]
    draws = uniform.reshape(len(logits), -1)
    # right=True skips codes without mass; the clamp guards uniform * total rounding up to total.
    codes = torch.searchsorted(cumulative, draws * total, right=True).clamp_(max=logits.shape[-1] - 1)
    log_q = probabilities.gather(-1, codes).log()
    return codes.view(uniform.shape), log_q.view(uniform.shape)


class AutoregressiveDecoder(nn.Module):
    """q(z_1..z_T | memory) as a transformer decoder with a begin symbol of its own.

    The begin symbol is row ``vocabulary`` of the embedding. Public code pads with code 0 instead, and then sampling
    and teacher forcing disagree whenever code 0 is drawn.
    """

    def __init__(self, config: TransformerConfig, *, vocabulary: int, tokens: int, aligned: bool = False) -> None:
        super().__init__()
        self.config, self.vocabulary, self.tokens, self.aligned = config, vocabulary, tokens, aligned
        self.embedding = nn.Embedding(vocabulary + 1, config.width)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, vocabulary)
        self.register_buffer("positions", sinusoidal_positions(tokens, config.width), persistent=False)
        self.compiled_step: Callable[..., Tensor] | None = None
        """:meth:`step_logits` compiled for positions given as tensors, see ``compilation``."""

    def logits(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch length width"]
    ) -> Float[Tensor, "batch sample token code"]:
        """Conditionals of every token given the true past (teacher forcing).

        Args:
            indices: Codes, ``sample`` sequences for each memory.
            memory: What the sequences are conditioned on.

        Returns:
            Unnormalised log-probabilities.
        """
        return self(indices, memory)

    def forward(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch length width"]
    ) -> Float[Tensor, "batch sample token code"]:
        """See :meth:`logits`; under this name it can be compiled in place."""
        begin = torch.full_like(indices[..., :1], self.vocabulary)
        x = self.embedding(torch.cat([begin, indices[..., :-1]], dim=-1)) + self.context(memory)
        for block in self.blocks:
            x = block(x, memory)
        return self.output(self.norm(x))

    def log_prob(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch length width"]
    ) -> Float[Tensor, "batch sample"]:
        """Log-probability [nat] of whole sequences, in float32 (or float64)."""
        return gathered_log_prob(self.logits(indices, memory), indices)

    @torch.no_grad()
    def sample(
        self, memory: Float[Tensor, "batch length width"], samples: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch sample token"], Float[Tensor, "batch sample"]]:
        """Draw sequences with a preallocated key/value cache.

        Args:
            memory: What the sequences are conditioned on; its keys are computed once and shared by all samples.
            samples: Sequences per memory.
            generator: Source of randomness, on the device of ``memory``.

        Returns:
            Codes, and their log-probability [nat] collected on the way (equal to :meth:`log_prob`).
        """
        rows = memory.shape[0] * samples
        uniform = torch.rand(self.tokens, rows, generator=generator, device=memory.device)
        with cached_casts(memory.device):
            return self.draw(memory, samples, uniform)

    @torch.no_grad()
    def draw(
        self, memory: Float[Tensor, "batch length width"], samples: int, uniform: Float[Tensor, "token rows"]
    ) -> tuple[Int[Tensor, "batch sample token"], Float[Tensor, "batch sample"]]:
        """Turn uniform numbers, ``samples`` rows per memory, into code sequences; see :meth:`sample`."""
        batch, rows = memory.shape[0], uniform.shape[1]
        shared = [block.cross_attention.project_memory(memory) for block in self.blocks]
        compiled = self.compiled_step is not None
        cache = [
            block.self_attention.cache(shared[0][0], rows, self.tokens, length_innermost=compiled)
            for block in self.blocks
        ]
        indices = torch.empty(self.tokens, rows, dtype=torch.long, device=memory.device)
        log_q = torch.zeros(rows, dtype=torch.promote_types(memory.dtype, torch.float32), device=memory.device)
        code = torch.full((rows,), self.vocabulary, dtype=torch.long, device=memory.device)
        context = self.context(memory).expand(batch, samples, -1, -1).flatten(0, 1)
        places = torch.arange(self.tokens, device=memory.device).split(1)
        for position in range(self.tokens):
            if self.compiled_step is None:
                logits = self.step_logits(code, context[:, position], cache, shared, position)
            else:
                logits = self.compiled_step(code, context[:, position], cache, shared, places[position])
            code, log_q_step = inverse_cdf_sample(logits, uniform[position])
            indices[position] = code
            log_q += log_q_step
        return indices.T.reshape(batch, samples, self.tokens), log_q.view(batch, samples)

    def step_logits(
        self,
        code: Int[Tensor, " rows"],
        context: Float[Tensor, "rows width"],
        cache: list[tuple[Tensor, Tensor]],
        shared: list[tuple[Tensor, Tensor]],
        position: int | Int[Tensor, " 1"],
    ) -> Float[Tensor, "rows code"]:
        """Conditional of one token given the one before it and the cache, which is extended in place."""
        x = self.embedding(code) + context
        for layer, block in enumerate(self.blocks):
            x = block.step(x, cache[layer], shared[layer], position)
        return self.output(self.norm(x))

    def context(self, memory: Float[Tensor, "batch length width"]) -> Float[Tensor, "#batch 1 token width"]:
        """What is added to the embedded past: positions, and the memory itself where its tokens are ours."""
        return (self.positions + memory if self.aligned else self.positions.unsqueeze(0)).unsqueeze(1)
