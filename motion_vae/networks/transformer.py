"""Pre-LayerNorm transformer blocks with a static key/value cache.

Attention has no bias, the MLP is ReLU, positions are fixed sinusoids and there is no dropout (DAPS, appendix J).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a stack of blocks."""

    width: int = 128
    """Features per token."""
    heads: int = 4
    """Attention heads; must divide the width."""
    layers: int = 2
    """Blocks in the stack."""
    mlp_ratio: int = 4
    """Hidden units of the MLP per feature."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "layers", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width must be even and divisible by heads={self.heads}, got {self.width}")


def sinusoidal_positions(length: int, width: int) -> Float[Tensor, "length width"]:
    """Fixed positional code: sines in the first half of the features, cosines in the second.

    Args:
        length: Number of positions.
        width: Number of features, even.

    Returns:
        Values in [-1, 1], float32, wavelengths from 2 pi to 2 pi 1e4 positions.
    Source: Vaswani et al. 2017, section 3.5 (halves instead of interleaving, which is a permutation).
    """
    frequencies = torch.exp(-math.log(1e4) * torch.arange(width // 2, dtype=torch.float64) / max(width // 2, 1))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def split_heads(x: Float[Tensor, "batch token width"], heads: int) -> Float[Tensor, "batch head token part"]:
    """View the features of every token as heads."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Float[Tensor, "batch head token part"]) -> Float[Tensor, "batch token width"]:
    """Undo :func:`split_heads`."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection and no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "batch token width"], *, causal: bool) -> Float[Tensor, "batch token width"]:
        """Attend to all tokens, or to the present and past ones if ``causal``."""
        query, key, value = (split_heads(part, self.heads) for part in self.query_key_value(x).chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.output(merge_heads(attended))

    def cache(
        self, like: Tensor, rows: int, length: int, *, length_innermost: bool = False
    ) -> tuple[Float[Tensor, "rows head length part"], Float[Tensor, "rows head length part"]]:
        """Preallocate keys and values in the precision and on the device of ``like``.

        With ``length_innermost`` the keys lie in memory as compiled products of one query with them want it; the
        libraries' products are twice as fast without.
        """
        part = self.output.in_features // self.heads
        values = like.new_zeros(rows, self.heads, length, part)
        if length_innermost:
            return like.new_zeros(rows, self.heads, part, length).transpose(-1, -2), values
        return torch.zeros_like(values), values

    def step(
        self,
        x: Float[Tensor, "batch width"],
        keys: Float[Tensor, "batch head length part"],
        values: Float[Tensor, "batch head length part"],
        position: int | Int[Tensor, " 1"],
    ) -> Float[Tensor, "batch width"]:
        """Attend from one new token to itself and the cached past; writes its key and value into the cache.

        An integer position attends to a slice of the cache. A tensor attends to all of it behind a mask: the same
        numbers from shapes that do not depend on the position, so that one compiled program serves all positions.
        """
        query, key, value = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        if isinstance(position, int):
            keys[:, :, position] = key
            values[:, :, position] = value
            return self._attend_from_last(query, keys[:, :, : position + 1], values[:, :, : position + 1])
        keys.index_copy_(2, position, key.unsqueeze(2).to(keys.dtype))
        values.index_copy_(2, position, value.unsqueeze(2).to(values.dtype))
        future = torch.arange(keys.shape[2], device=keys.device) > position
        return self._attend_from_last(query, keys, values, future)

    def extend(
        self, x: Float[Tensor, "batch width"], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Float[Tensor, "batch width"], tuple[Tensor, Tensor]]:
        """Like :meth:`step`, with gradients: the cache grows by copies, since autograd forbids writing into it.

        Args:
            x: One new token of every sequence.
            past: Keys and values (batch, head, length, part) of the tokens before; None at the first.

        Returns:
            The attended token, and keys and values with one more entry.
        """
        query, key, value = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).unbind(1)
        keys, values = key.unsqueeze(2), value.unsqueeze(2)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        return self._attend_from_last(query, keys, values), (keys, values)

    def _attend_from_last(
        self,
        query: Float[Tensor, "batch head part"],
        keys: Float[Tensor, "batch head length part"],
        values: Float[Tensor, "batch head length part"],
        future: Bool[Tensor, " length"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        scores = torch.matmul(query.unsqueeze(2) * query.shape[-1] ** -0.5, keys.transpose(-1, -2))
        if future is not None:
            scores = scores.masked_fill(future, -math.inf)
        attended = torch.matmul(torch.softmax(scores, dim=-1), values)
        return self.output(attended.squeeze(2).flatten(1))


class CrossAttention(nn.Module):
    """Attention of ``sample`` sequences to one memory: keys and values are computed once per memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def project_memory(
        self, memory: Float[Tensor, "batch length width"]
    ) -> tuple[Float[Tensor, "batch head length part"], Float[Tensor, "batch head length part"]]:
        """Compute the keys and values that all samples and all steps share."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return split_heads(key, self.heads).contiguous(), split_heads(value, self.heads).contiguous()

    def forward(
        self,
        x: Float[Tensor, "batch query width"],
        keys: Float[Tensor, "batch head length part"],
        values: Float[Tensor, "batch head length part"],
    ) -> Float[Tensor, "batch query width"]:
        """Attend from any number of queries per memory: samples and tokens are folded into one axis."""
        query = split_heads(self.query(x), self.heads)
        return self.output(merge_heads(functional.scaled_dot_product_attention(query, keys, values)))


def feed_forward(width: int, ratio: int) -> nn.Sequential:
    """Two dense layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(width, ratio * width), nn.ReLU(inplace=True), nn.Linear(ratio * width, width))


class EncoderBlock(nn.Module):
    """Self-attention and MLP, each on a normalised residual branch."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config.width, config.heads)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = feed_forward(config.width, config.mlp_ratio)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Transform every token in the light of all others."""
        x = x + self.attention(self.attention_norm(x), causal=False)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    """A stack of encoder blocks on tokens with positions, normalised at the end."""

    def __init__(self, config: TransformerConfig, tokens: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("positions", sinusoidal_positions(tokens, config.width), persistent=False)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Add positions and run the stack."""
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention to a memory, MLP; each on a normalised residual branch."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(config.width)
        self.self_attention = SelfAttention(config.width, config.heads)
        self.cross_norm = nn.LayerNorm(config.width)
        self.cross_attention = CrossAttention(config.width, config.heads)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = feed_forward(config.width, config.mlp_ratio)

    def forward(
        self,
        x: Float[Tensor, "batch sample token width"],
        memory: Float[Tensor, "batch length width"],
    ) -> Float[Tensor, "batch sample token width"]:
        """Run whole sequences with a causal mask (teacher forcing)."""
        batch, samples, tokens, width = x.shape
        flat = x.reshape(batch * samples, tokens, width)
        flat = flat + self.self_attention(self.self_norm(flat), causal=True)
        folded = flat.reshape(batch, samples * tokens, width)
        folded = folded + self.cross_attention(self.cross_norm(folded), *self.cross_attention.project_memory(memory))
        folded = folded + self.mlp(self.mlp_norm(folded))
        return folded.view(batch, samples, tokens, width)

    def step(
        self,
        x: Float[Tensor, "rows width"],
        cache: tuple[Tensor, Tensor],
        memory: tuple[Tensor, Tensor],
        position: int | Int[Tensor, " 1"],
    ) -> Float[Tensor, "rows width"]:
        """Advance every sequence by one token; ``rows`` = batch * sample, the memory has ``batch`` rows."""
        return self._attend_to_memory(x + self.self_attention.step(self.self_norm(x), *cache, position), memory)

    def extend(
        self,
        x: Float[Tensor, "rows width"],
        past: tuple[Tensor, Tensor] | None,
        memory: tuple[Tensor, Tensor],
    ) -> tuple[Float[Tensor, "rows width"], tuple[Tensor, Tensor]]:
        """Like :meth:`step`, with gradients and a cache that grows, see :meth:`SelfAttention.extend`."""
        attended, past = self.self_attention.extend(self.self_norm(x), past)
        return self._attend_to_memory(x + attended, memory), past

    def _attend_to_memory(
        self, x: Float[Tensor, "rows width"], memory: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "rows width"]:
        query = self.cross_norm(x).view(memory[0].shape[0], -1, x.shape[-1])
        x = x + self.cross_attention(query, *memory).reshape_as(x)
        return x + self.mlp(self.mlp_norm(x))
