r"""Latent policy: history, text and centre-of-mass path -> the 64 codes of the next segment, one after the other.

A transformer decoder whose tokens are a begin symbol and the codes, and whose memory is the conditions:

.. math:: \pi(z_{1..T} \mid c) = \prod_t \pi(z_t \mid z_{<t}, c)

Trained by cross-entropy on the codes that the autoencoder's encoder gives to data (distillation as in PoseGPT, Lucas et
al. 2022; DAPS appendix K). Sampling keeps keys and values in buffers of fixed size, so that a token costs one column.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from motionlex.controllers.code_sampling import SamplingConfig, guide, guided_conditions, reshape_logits
from motionlex.controllers.condition_encoder import ConditionEncoder, LatentPolicyConfig, PathShift
from motionlex.controllers.conditions import Conditions
from motionlex.data.errors import UserError
from motionlex.data.storage import write_bytes
from motionlex.motion_vae.networks.autoregressive import inverse_cdf_sample
from motionlex.motion_vae.networks.transformer import DecoderBlock, sinusoidal_positions

WEIGHTS_FILE = "weights.safetensors"


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
        self,
        conditions: Conditions,
        generator: torch.Generator,
        sampling: SamplingConfig | None = None,
        *,
        samples: int = 1,
    ) -> tuple[Int[Tensor, "row token"], Float[Tensor, " row"]]:
        """Draw the codes of segments, with a preallocated key/value cache.

        Args:
            conditions: Batch of conditions.
            generator: Source of the draws, on the CPU.
            sampling: Temperature, nucleus and guidance; plain sampling when None.
            samples: Segments of each row of the conditions, which are taken in once for all of them.

        Returns:
            Codes, those of one row beside each other, and their log-probability [nats] under the distribution they
            were drawn from.
        """
        sampling = SamplingConfig() if sampling is None else sampling
        inputs, weights = guided_conditions(conditions, sampling)
        config, drawn, rows = self.config, len(conditions.history) * samples, len(inputs.history) * samples
        memory = self.conditions(inputs)
        shared = [block.cross_attention.project_memory(memory) for block in self.blocks]
        cache = memory.new_zeros(config.layers, 2, rows, config.heads, config.tokens, config.width // config.heads)
        offsets = self._offsets(inputs).repeat_interleave(samples, dim=0)
        uniforms = torch.rand(config.tokens, drawn, generator=generator).to(memory)
        current = torch.full((rows,), config.vocabulary, dtype=torch.long, device=memory.device)
        codes = torch.empty(config.tokens, drawn, dtype=torch.long, device=memory.device)
        log_prob = memory.new_zeros(drawn)
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
