"""What the latent policy hears: history, text and centre-of-mass path as a short memory, and its configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from motionlex.controllers.conditions import PATH_CHANNELS, WINDOW, Conditions
from motionlex.controllers.text import TEXT_SIZE
from motionlex.data.errors import UserError
from motionlex.motion_vae.networks.transformer import EncoderBlock, TransformerConfig, merge_heads, split_heads

HISTORY_PATCH = 2
TEXT_TOKENS = 2
PAST_TOKENS = 1
PATH_TOKENS = 2
PATH_UNIT = 0.2
"""Length [m], and angle [rad], that counts as one in the desired path. Paths of a segment differ by decimetres: in
metres they are too small to be heard beside the other conditions."""
MEMORY_TOKENS = WINDOW // HISTORY_PATCH + TEXT_TOKENS + PAST_TOKENS + PATH_TOKENS


@dataclass(frozen=True, kw_only=True)
class LatentPolicyConfig:
    """Shape of the latent policy."""

    vocabulary: int
    """Codes per token."""
    tokens: int = 64
    """Tokens per segment."""
    features: int = 121
    """Standardised features per frame of the history."""
    width: int = 128
    """Width of the residual stream."""
    layers: int = 3
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    mlp_ratio: int = 4
    """Hidden units of a block's perceptron per unit of width."""
    text: int = TEXT_SIZE
    """Width of the text encoder's vectors."""
    words: int = 0
    """Tokens of the memory that are drawn from the word pieces; with 0 only the sentence vector is seen."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise UserError(f"latent policy: width {self.width} must be even and a multiple of {self.heads} heads")
        if min(self.vocabulary, self.tokens, self.features, self.width, self.layers, self.text) < 1 or self.words < 0:
            raise UserError("latent policy: vocabulary, tokens, features, width, layers and text must be positive")

    @property
    def transformer(self) -> TransformerConfig:
        """Shape of one block, as the networks take it."""
        return TransformerConfig(width=self.width, heads=self.heads, layers=self.layers, mlp_ratio=self.mlp_ratio)


class WordSummary(nn.Module):
    """A few learned questions to any number of word pieces: the memory keeps its length whatever was said.

    Source: latent queries over inputs of any length, as in Perceiver (Jaegle et al. 2021).
    """

    def __init__(self, config: LatentPolicyConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = math.sqrt(config.text)
        self.question = nn.Parameter(0.02 * torch.randn(config.words, config.width))
        self.key_value = nn.Linear(config.text, 2 * config.width, bias=False)
        self.nothing = nn.Parameter(0.02 * torch.randn(2 * config.width))
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self, words: Float[Tensor, "batch word letters"], seen: Bool[Tensor, "batch word"]
    ) -> Float[Tensor, "batch question width"]:
        """Answer the questions from the word pieces that are seen, and from a learned "nothing" that always is."""
        nothing = self.nothing.expand(len(words), 1, -1)
        key, value = torch.cat([nothing, self.key_value(words * self.scale)], dim=1).chunk(2, dim=-1)
        query = self.question.expand(len(words), -1, -1)
        mask = torch.cat([seen.new_ones(len(seen), 1), seen], dim=1)[:, None, None]
        parts = (split_heads(part, self.heads) for part in (query, key, value))
        answered = nn.functional.scaled_dot_product_attention(*parts, attn_mask=mask)
        return self.output(merge_heads(answered))


class PathShift(nn.Module):
    """A perceptron from a whole desired path to what is added to every code; nothing where there is no path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(PATH_CHANNELS * WINDOW, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(
        self, path: Float[Tensor, "batch frame 4"], has_path: Bool[Tensor, " batch"]
    ) -> Float[Tensor, "batch width"]:
        """Return one vector per row."""
        return self.layers(path.flatten(1)) * has_path[:, None]


class ConditionEncoder(nn.Module):
    """Turns the conditions into a short memory: history patches, text, past and desired path."""

    def __init__(self, config: LatentPolicyConfig) -> None:
        super().__init__()
        width = config.width
        self.history = nn.Linear(HISTORY_PATCH * config.features, width)
        self.text = nn.Linear(config.text, TEXT_TOKENS * width)
        self.past = nn.Linear(2 * WINDOW // PAST_TOKENS, width)
        self.path = nn.Linear(PATH_CHANNELS * WINDOW // PATH_TOKENS, width)
        self.null_text = nn.Parameter(0.02 * torch.randn(config.text))
        self.null_path = nn.Parameter(0.02 * torch.randn(PATH_TOKENS, width))
        self.kind = nn.Parameter(0.02 * torch.randn(MEMORY_TOKENS + config.words, width))
        self.words = WordSummary(config) if config.words else None
        self.block = EncoderBlock(config.transformer)
        self.norm = nn.LayerNorm(width)

    def text_or_null(self, conditions: Conditions) -> Float[Tensor, "batch width"]:
        """Return the sentence embedding scaled to entries of unit size, or the learned null where it is withheld."""
        sentence = conditions.text[:, 0]
        return torch.where(conditions.has_text[:, None], sentence * math.sqrt(sentence.shape[1]), self.null_text)

    @staticmethod
    def scaled_path(conditions: Conditions) -> Float[Tensor, "batch frame 4"]:
        """Return the desired path in units of ``PATH_UNIT``; the flag of the heading stays a flag."""
        path = conditions.path
        return torch.cat([path[..., :-1] / PATH_UNIT, path[..., -1:]], dim=-1)

    def forward(self, conditions: Conditions) -> Float[Tensor, "batch memory width"]:
        """Return one memory per row."""
        batch = conditions.history.shape[0]
        history = self.history(conditions.history.reshape(batch, WINDOW // HISTORY_PATCH, -1))
        text = self.text(self.text_or_null(conditions)).view(batch, TEXT_TOKENS, -1)
        past = self.past(conditions.com_past.reshape(batch, PAST_TOKENS, -1))
        path = self.path(self.scaled_path(conditions).reshape(batch, PATH_TOKENS, -1))
        path = torch.where(conditions.has_path[:, None, None], path, self.null_path)
        parts = [history, text, past, path]
        if self.words is not None:
            pieces = conditions.text[:, 1:]
            parts.append(self.words(pieces, pieces.any(dim=-1) & conditions.has_text[:, None]))
        return self.norm(self.block(torch.cat(parts, dim=1) + self.kind))
