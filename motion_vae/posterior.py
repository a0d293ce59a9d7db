"""q(z|x) over token sequences: autoregressive or factorised, with everything else the same."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.losses import gathered_log_prob
from motionlex.motion_vae.networks.autoregressive import AutoregressiveDecoder, inverse_cdf_sample

Factorisation = Literal["autoregressive", "factorised"]
FACTORISATIONS: tuple[Factorisation, ...] = ("autoregressive", "factorised")


class Posterior(nn.Module, ABC):
    """Distribution over code sequences given what the encoder made of x (the memory)."""

    encoder: nn.Module

    def memory(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token width"]:
        """Run the encoder; all other methods take its result, so that it runs once per batch."""
        return self.encoder(x)

    @abstractmethod
    def sample(
        self, memory: Float[Tensor, "batch token width"], samples: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch sample token"], Float[Tensor, "batch sample"]]:
        """Draw code sequences without gradient.

        Args:
            memory: Output of :meth:`memory`.
            samples: Sequences per x.
            generator: Source of randomness, on the device of ``memory``.

        Returns:
            Codes and log q(z|x) [nat], equal to :meth:`log_prob`.
        """

    @abstractmethod
    def logits(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch sample token code"]:
        """Conditionals of every token along given sequences, unnormalised."""

    def log_prob(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch sample"]:
        """Log q(z|x) [nat] of whole sequences, in float32 (or float64), with gradient."""
        return gathered_log_prob(self.logits(indices, memory), indices)


class AutoregressivePosterior(Posterior):
    """An encoder of x and a transformer decoder over codes that attends to it."""

    def __init__(self, domain: Domain, networks: NetworkConfig, vocabulary: int, *, aligned: bool = False) -> None:
        super().__init__()
        self.encoder = domain.encoder(networks)
        self.decoder = AutoregressiveDecoder(
            networks.recognition, vocabulary=vocabulary, tokens=domain.tokens, aligned=aligned
        )

    def sample(
        self, memory: Float[Tensor, "batch token width"], samples: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch sample token"], Float[Tensor, "batch sample"]]:
        """Draw token by token with a static cache; log q is collected on the way."""
        return self.decoder.sample(memory, samples, generator)

    def logits(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch sample token code"]:
        """Teacher forcing."""
        return self.decoder.logits(indices, memory)


class FactorisedPosterior(Posterior):
    """An encoder of x whose every token gives the distribution of one code, independent of the others."""

    def __init__(self, domain: Domain, networks: NetworkConfig, vocabulary: int) -> None:
        super().__init__()
        self.encoder = domain.encoder(networks)
        self.output = nn.Linear(networks.width, vocabulary)

    def marginals(self, memory: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token code"]:
        """Logits of every token's code; the same for all samples."""
        return self.output(memory)

    @torch.no_grad()
    def sample(
        self, memory: Float[Tensor, "batch token width"], samples: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "batch sample token"], Float[Tensor, "batch sample"]]:
        """Draw all tokens at once; the cumulative distribution is computed once for all samples."""
        logits = self.marginals(memory)
        batch, tokens = logits.shape[:2]
        uniform = torch.rand(batch * tokens, samples, generator=generator, device=memory.device)
        codes, log_q = inverse_cdf_sample(logits.flatten(0, 1), uniform)
        per_sample = codes.view(batch, tokens, samples).transpose(1, 2).contiguous()
        return per_sample, log_q.view(batch, tokens, samples).sum(dim=1)

    def logits(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch sample token code"]:
        """Marginals, repeated (without copies) for every sample."""
        return self.marginals(memory).unsqueeze(1).expand(-1, indices.shape[1], -1, -1)

    def log_prob(
        self, indices: Int[Tensor, "batch sample token"], memory: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch sample"]:
        """Log q(z|x) [nat]: the log-softmax runs once per token, not once per sample."""
        logits = self.marginals(memory)
        log_q = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        return log_q.gather(-1, indices.transpose(1, 2)).sum(dim=1)


def build_posterior(
    factorisation: Factorisation,
    domain: Domain,
    networks: NetworkConfig,
    vocabulary: int,
    *,
    aligned: bool = False,
) -> Posterior:
    """Build q(z|x).

    Args:
        factorisation: ``autoregressive`` or ``factorised``.
        domain: Gives the encoder and the number of tokens.
        networks: Sizes.
        vocabulary: Number of codes.
        aligned: Autoregressive only: add the encoder's token t to the input at token t.
    """
    if factorisation == "factorised":
        return FactorisedPosterior(domain, networks, vocabulary)
    return AutoregressivePosterior(domain, networks, vocabulary, aligned=aligned)
