r"""Latent policy: history, text and centre-of-mass path -> the 64 codes of the next segment, one after the other.

A transformer decoder whose tokens are a begin symbol and the codes, and whose memory is the conditions:

.. math:: \pi(z_{1..T} \mid c) = \prod_t \pi(z_t \mid z_{<t}, c)

Trained by cross-entropy on the codes that the autoencoder's encoder gives to data (distillation as in PoseGPT, Lucas et
al. 2022; DAPS appendix K). Sampling keeps keys and values in buffers of fixed size, so that a token costs one column.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
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
    sinusoidal_positions,
)

WEIGHTS_FILE = "weights.safetensors"
HISTORY_PATCH = 2
TEXT_TOKENS = 2
PAST_TOKENS = 1
PATH_TOKENS = 2
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

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise UserError(f"latent policy: width {self.width} must be even and a multiple of {self.heads} heads")
        if min(self.vocabulary, self.tokens, self.features, self.width, self.layers) < 1:
            raise UserError("latent policy: vocabulary, tokens, features, width and layers must be positive")

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
    guidance: float = 1.0
    """Classifier-free guidance on the text: 1 is plain conditioning, larger follows the text more literally."""

    def __post_init__(self) -> None:
        good = 0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and 0 <= self.guidance < math.inf
        if not good:  # NaN is not good either
            raise UserError(
                f"sampling: temperature {self.temperature} must be >= 0, top-p {self.top_p} in (0, 1], "
                f"guidance {self.guidance} >= 0"
            )


class ConditionEncoder(nn.Module):
    """Turns the conditions into a short memory: history patches, text, past and desired path."""

    def __init__(self, config: LatentPolicyConfig) -> None:
        super().__init__()
        width = config.width
        self.history = nn.Linear(HISTORY_PATCH * config.features, width)
        self.text = nn.Linear(TEXT_SIZE, TEXT_TOKENS * width)
        self.past = nn.Linear(2 * WINDOW // PAST_TOKENS, width)
        self.path = nn.Linear(PATH_CHANNELS * WINDOW // PATH_TOKENS, width)
        self.null_text = nn.Parameter(0.02 * torch.randn(TEXT_SIZE))
        self.null_path = nn.Parameter(0.02 * torch.randn(PATH_TOKENS, width))
        self.kind = nn.Parameter(0.02 * torch.randn(MEMORY_TOKENS, width))
        self.block = EncoderBlock(config.transformer)
        self.norm = nn.LayerNorm(width)

    def text_or_null(self, conditions: Conditions) -> Float[Tensor, "batch width"]:
        """Return the sentence embedding scaled to entries of unit size, or the learned null where it is withheld."""
        return torch.where(conditions.has_text[:, None], conditions.text * math.sqrt(TEXT_SIZE), self.null_text)

    def forward(self, conditions: Conditions) -> Float[Tensor, "batch memory width"]:
        """Return one memory per row."""
        batch = conditions.history.shape[0]
        history = self.history(conditions.history.reshape(batch, WINDOW // HISTORY_PATCH, -1))
        text = self.text(self.text_or_null(conditions)).view(batch, TEXT_TOKENS, -1)
        past = self.past(conditions.com_past.reshape(batch, PAST_TOKENS, -1))
        path = self.path(conditions.path.reshape(batch, PATH_TOKENS, -1))
        path = torch.where(conditions.has_path[:, None, None], path, self.null_path)
        return self.norm(self.block(torch.cat([history, text, past, path], dim=1) + self.kind))


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
        self.text_shift = nn.Linear(TEXT_SIZE, config.width)
        self.code = nn.Embedding(config.vocabulary + 1, config.width)
        self.blocks = nn.ModuleList(DecoderBlock(config.transformer) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary)
        self.register_buffer("positions", sinusoidal_positions(config.tokens, config.width), persistent=False)

    def _offsets(self, conditions: Conditions) -> Float[Tensor, "batch token width"]:
        """What is added to every code: its position, and the text, which must not be overlooked."""
        return self.positions + self.text_shift(self.conditions.text_or_null(conditions))[:, None]

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
        guided = sampling.guidance != 1.0
        inputs = conditions.concatenate(conditions.without_text()) if guided else conditions
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
            if guided:
                logits = guide(logits, sampling.guidance)
            codes[token], drawn_log_prob = inverse_cdf_sample(reshape_logits(logits, sampling), uniforms[token])
            log_prob += drawn_log_prob
            current = codes[token].repeat(2) if guided else codes[token]
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


def guide(logits: Float[Tensor, "rows vocabulary"], guidance: float) -> Float[Tensor, "batch vocabulary"]:
    r"""Classifier-free guidance: :math:`\log q + (g - 1)(\log q - \log q_0)`, unnormalised.

    Args:
        logits: With text in the first half of the rows, without (:math:`q_0`) in the second.
        guidance: g; 1 is the distribution with text, 0 the one without.

    Source: Ho and Salimans 2022, on logits of codes.
    """
    with_text, without = logits.log_softmax(dim=-1).chunk(2)
    return without + guidance * (with_text - without)


def reshape_logits(
    logits: Float[Tensor, "batch vocabulary"], sampling: SamplingConfig
) -> Float[Tensor, "batch vocabulary"]:
    """Apply temperature and nucleus (top-p) truncation.

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
    if sampling.top_p == 1.0:
        return logits
    ordered, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered  # the most likely code has nothing before it and always stays
    excluded = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
    return logits.masked_fill(excluded, -torch.inf)
