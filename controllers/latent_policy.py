r"""Latent policy: history, text and centre-of-mass path -> the 64 codes of the next segment, one after the other.

A transformer decoder whose tokens are a begin symbol and the codes, and whose memory is the conditions:

.. math:: \pi(z_{1..T} \mid c) = \prod_t \pi(z_t \mid z_{<t}, c)

Trained by cross-entropy on the codes that the autoencoder's encoder gives to data (distillation as in PoseGPT, Lucas et
al. 2022; DAPS appendix K). Sampling keeps keys and values in buffers of fixed size, so that a token costs one column.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from motionlex.controllers.conditions import PATH_CHANNELS, WINDOW, Conditions
from motionlex.controllers.text import TEXT_SIZE
from motionlex.data.errors import UserError
from motionlex.data.storage import write_bytes
from motionlex.motion_vae.networks.autoregressive import inverse_cdf_sample
from motionlex.motion_vae.networks.transformer import (
    DecoderBlock,
    EncoderBlock,
    TransformerConfig,
    merge_heads,
    sinusoidal_positions,
    split_heads,
)

WEIGHTS_FILE = "weights.safetensors"
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


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How codes are drawn from the latent policy's distribution."""

    temperature: float = 1.0
    """Divides the logits; below one sharpens, 0 takes the most likely code."""
    top_p: float = 1.0
    """Keep the smallest set of codes that holds this probability, renormalised; 1 keeps all."""
    top_k: int = 0
    """Keep the so many most likely codes, renormalised; 0 keeps all."""
    guidance: float = 1.0
    """Classifier-free guidance on the text: 1 is plain conditioning, larger follows the text more literally."""
    path_guidance: float = 1.0
    """The same on the desired path, where there is one."""
    candidates: int = 1
    """With a desired path so many segments are drawn, and the one whose centre of mass keeps to it best is taken."""

    def __post_init__(self) -> None:
        good = 0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and self.top_k >= 0
        if not (
            good and self.candidates >= 1 and 0 <= self.guidance < math.inf and 0 <= self.path_guidance < math.inf
        ):  # nor is NaN good
            raise UserError(
                f"sampling: temperature {self.temperature} must be >= 0, top-p {self.top_p} in (0, 1], top-k "
                f"{self.top_k} a whole number >= 0, guidance {self.guidance} and {self.path_guidance} >= 0, candidates "
                f"{self.candidates} >= 1"
            )


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


class LatentPolicy(nn.Module):
    """Autoregressive distribution over the codes of the next segment."""

    def __init__(self, config: LatentPolicyConfig) -> None:
        """Build an untrained policy.

        Args:
            config: Shape; saved with the weights.
        """
        super().__init__()
        self.config = config
        self.conditions = ConditionEncoder(config)
        self.text_shift = nn.Linear(config.text, config.width)
        self.path_shift = PathShift(config.width)
        self.code = nn.Embedding(config.vocabulary + 1, config.width)
        self.blocks = nn.ModuleList(DecoderBlock(config.transformer) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary)
        self.register_buffer("positions", sinusoidal_positions(config.tokens, config.width), persistent=False)

    def _offsets(self, conditions: Conditions) -> Float[Tensor, "batch token width"]:
        """What is added to every code: its position, and text and path, which must not be overlooked."""
        text = self.text_shift(self.conditions.text_or_null(conditions))
        shift = text + self.path_shift(self.conditions.scaled_path(conditions), conditions.has_path)
        return self.positions + shift[:, None]

    def logits(
        self, conditions: Conditions, codes: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token vocabulary"]:
        """Teacher-forced logits of every code given the ones before it.

        Args:
            conditions: Batch of conditions.
            codes: Codes of the segments, each in [0, vocabulary).

        Returns:
            Unnormalised log-probabilities.
        """
        begin = torch.full_like(codes[:, :1], self.config.vocabulary)
        x = (self.code(torch.cat([begin, codes[:, :-1]], dim=1)) + self._offsets(conditions))[:, None]
        memory = self.conditions(conditions)
        for block in self.blocks:
            x = block(x, memory)
        return self.head(self.norm(x[:, 0]))

    def log_prob(self, conditions: Conditions, codes: Int[Tensor, "batch token"]) -> Float[Tensor, " batch"]:
        """Log-probability [nats] of whole code sequences."""
        log_q = self.logits(conditions, codes).log_softmax(dim=-1)
        return log_q.gather(-1, codes[..., None]).squeeze(-1).sum(dim=-1)

    @torch.no_grad()
    def sample(
        self, conditions: Conditions, generator: torch.Generator, sampling: SamplingConfig | None = None
    ) -> tuple[Int[Tensor, "batch token"], Float[Tensor, " batch"]]:
        """Draw the codes of one segment per row, with a preallocated key/value cache.

        Args:
            conditions: Batch of conditions.
            generator: Source of the draws, on the CPU.
            sampling: Temperature, nucleus and guidance; plain sampling when None.

        Returns:
            Codes, and their log-probability [nats] under the distribution they were drawn from.
        """
        sampling = SamplingConfig() if sampling is None else sampling
        batch, config = conditions.history.shape[0], self.config
        inputs, weights = guided_conditions(conditions, sampling)
        rows = inputs.history.shape[0]
        memory = self.conditions(inputs)
        shared = [block.cross_attention.project_memory(memory) for block in self.blocks]
        cache = memory.new_zeros(config.layers, 2, rows, config.heads, config.tokens, config.width // config.heads)
        offsets = self._offsets(inputs)
        uniforms = torch.rand(config.tokens, batch, generator=generator).to(memory)
        current = torch.full((rows,), config.vocabulary, dtype=torch.long, device=memory.device)
        codes = torch.empty(config.tokens, batch, dtype=torch.long, device=memory.device)
        log_prob = memory.new_zeros(batch)
        for token in range(config.tokens):
            x = self.code(current) + offsets[:, token]
            for layer, block in enumerate(self.blocks):
                x = block.step(x, (cache[layer, 0], cache[layer, 1]), shared[layer], token)
            logits = self.head(self.norm(x))
            if len(weights) > 1:
                logits = guide(logits, weights)
            codes[token], drawn_log_prob = inverse_cdf_sample(reshape_logits(logits, sampling), uniforms[token])
            log_prob += drawn_log_prob
            current = codes[token].repeat(len(weights))
        return codes.T.contiguous(), log_prob

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` with the shape in its header."""
        content = save(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()},
            metadata={name: str(value) for name, value in asdict(self.config).items()},
        )
        write_bytes(folder / WEIGHTS_FILE, content)

    @classmethod
    def load(cls, folder: Path) -> LatentPolicy:
        """Read what ``save`` wrote.

        Raises:
            UserError: If the file is absent or not a latent policy.
        """
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise UserError(f"no latent policy at {path}: give a folder made by `motionlex train-highlevel`")
        try:
            with safe_open(path, framework="pt") as stream:
                header = stream.metadata() or {}
            policy = cls(LatentPolicyConfig(**{name: int(header[name]) for name in LatentPolicyConfig.__annotations__}))
            policy.load_state_dict(load_file(path))
        except (KeyError, RuntimeError, ValueError, SafetensorError) as error:
            raise UserError(f"{path} holds no readable latent policy: {error}") from error
        return policy.eval()


def guided_conditions(conditions: Conditions, sampling: SamplingConfig) -> tuple[Conditions, tuple[float, ...]]:
    """Stack the conditions with the ones that guidance compares them with.

    Returns:
        The conditions, then without text and without path as far as either is guided, and the guidance: the weight of
        the whole conditions first (they sum to 1).
    """
    parts, weights = [conditions], [1.0]
    wanted = [(conditions.without_text, sampling.guidance)]
    if bool(conditions.has_path.any()):
        wanted.append((conditions.without_path, sampling.path_guidance))
    for withheld, guidance in wanted:
        if guidance != 1.0:
            parts.append(withheld())
            weights[0] += guidance - 1.0
            weights.append(1.0 - guidance)
    return functools.reduce(Conditions.concatenate, parts), tuple(weights)


def guide(logits: Float[Tensor, "rows vocabulary"], weights: tuple[float, ...]) -> Float[Tensor, "batch vocabulary"]:
    r"""Classifier-free guidance: :math:`\log q + \sum_c (g_c - 1)(\log q - \log q_{-c})`, unnormalised.

    Args:
        logits: With all conditions, then without each guided one, in blocks of rows.
        weights: Weight of each block: :math:`1 + \sum_c (g_c - 1)`, then :math:`1 - g_c`.

    Source: Ho and Salimans 2022, on logits of codes; several conditions as in Brooks et al. 2023, each against all the
    others.
    """
    blocks = logits.log_softmax(dim=-1).chunk(len(weights))
    return torch.stack([weight * block for weight, block in zip(weights, blocks, strict=True)]).sum(dim=0)


def reshape_logits(
    logits: Float[Tensor, "batch vocabulary"], sampling: SamplingConfig
) -> Float[Tensor, "batch vocabulary"]:
    """Apply temperature, then keep the most likely codes (top-k) and of these the nucleus (top-p).

    Args:
        logits: Unnormalised log-probabilities.
        sampling: Temperature and nucleus; its guidance is not used here.

    Returns:
        Logits of the distribution to draw from; minus infinity where a code is excluded.
    """
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        best = logits.topk(sampling.top_k, dim=-1).indices
        logits = torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best))
    if sampling.top_p == 1.0:
        return logits
    ordered, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered  # the most likely code has nothing before it and always stays
    excluded = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
    return logits.masked_fill(excluded, -torch.inf)
