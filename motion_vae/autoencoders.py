"""Parts that most methods share: a codebook with a generative network, and a sampled posterior over its codes."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from motionlex.motion_vae.contract import Codes, DiscreteAutoencoder, ParameterGroup
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.losses import categorical_kl_to_uniform
from motionlex.motion_vae.options import check_choice, check_positive, check_vocabulary
from motionlex.motion_vae.posterior import FACTORISATIONS, Factorisation, build_posterior


class Generative(nn.Module):
    """p(x|z): a codebook and the domain's decoder."""

    def __init__(self, domain: Domain, networks: NetworkConfig, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, networks.width)
        self.decoder = domain.decoder(networks)

    def forward(self, indices: Int[Tensor, "*batch token"]) -> Distribution:
        """Decode codes to a distribution over data."""
        return self.decoder(self.embedding(indices))


class CodebookAutoencoder(DiscreteAutoencoder):
    """A method whose generative network sees one embedding per code."""

    def __init__(self, domain: Domain, networks: NetworkConfig, vocabulary: int) -> None:
        super().__init__()
        self.domain, self.vocabulary, self.tokens = domain, vocabulary, domain.tokens
        self.generative = Generative(domain, networks, vocabulary)

    def decode_embeddings(self, embeddings: Float[Tensor, "*batch token width"]) -> Distribution:
        """p(x|z) from embeddings of codes."""
        return self.generative.decoder(embeddings)

    def embed(self, indices: Int[Tensor, "*batch token"]) -> Float[Tensor, "*batch token width"]:
        """Look codes up in the codebook."""
        return self.generative.embedding(indices)

    @property
    def codebook(self) -> Float[Tensor, "code width"]:
        """One vector per code."""
        return self.generative.embedding.weight

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """One group of everything that has gradients."""
        return (ParameterGroup(name="networks", parameters=[p for p in self.parameters() if p.requires_grad]),)

    def deterministic_kl(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, " batch"]:
        """Token * ln V [nat]: the KL of a deterministic code from the uniform prior."""
        return torch.full((x.shape[0],), self.tokens * math.log(self.vocabulary), device=x.device)


@dataclass(frozen=True, kw_only=True)
class PosteriorConfig:
    """What methods with a categorical posterior and a beta-ELBO have in common."""

    factorisation: Factorisation = "autoregressive"
    """autoregressive, or factorised (the variants called NA)."""
    vocabulary: int = 1024
    """Number of codes."""
    networks: NetworkConfig = field(default_factory=NetworkConfig)
    """Sizes of the networks."""
    aligned_memory: bool = False
    """Add the encoder's token t to the decoder's input at token t, besides cross-attention (not in the paper)."""
    beta_start: float = 2.0
    """Weight of the KL at the first step."""
    beta_end: float = 0.01
    """Weight of the KL at the end of the schedule, and in the reported beta-ELBO."""

    def __post_init__(self) -> None:
        check_vocabulary(self.vocabulary)
        check_choice("factorisation", self.factorisation, FACTORISATIONS)
        if self.factorisation == "factorised" and self.aligned_memory:
            raise ValueError("aligned_memory needs factorisation=autoregressive: a factorised q has no input tokens")
        check_positive(beta_start=self.beta_start, beta_end=self.beta_end)


class PosteriorAutoencoder(CodebookAutoencoder):
    """A method with a categorical posterior q(z|x), autoregressive or factorised."""

    def __init__(self, config: PosteriorConfig, domain: Domain) -> None:
        super().__init__(domain, config.networks, config.vocabulary)
        self._final_beta = config.beta_end
        self.recognition = build_posterior(
            config.factorisation, domain, config.networks, config.vocabulary, aligned=config.aligned_memory
        )

    @property
    def final_beta(self) -> float | None:
        """Weight of the KL at the end of the schedule."""
        return self._final_beta

    def encode(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> Codes:
        """Draw one code sequence per example from q(z|x)."""
        indices, log_prob = self.recognition.sample(self.recognition.memory(x), 1, generator)
        log_prior = torch.full_like(log_prob[:, 0], -self.tokens * math.log(self.vocabulary))
        return Codes(
            indices=indices[:, 0],
            log_prob=log_prob[:, 0],
            embeddings=self.embed(indices[:, 0]),
            log_prior=log_prior,
        )

    def kl_to_prior(self, x: Float[Tensor, "batch item feature"], codes: Codes) -> Float[Tensor, " batch"]:
        """KL [nat] to the uniform prior from the conditionals along one path; exact for a factorised posterior."""
        assert codes.indices is not None
        logits = self.recognition.logits(codes.indices.unsqueeze(1), self.recognition.memory(x))
        return categorical_kl_to_uniform(logits).squeeze(1)


class QuantisedAutoencoder(CodebookAutoencoder):
    """A method without ELBO that gives every x one code sequence at evaluation, whatever noise it is trained with."""

    @abstractmethod
    def code_indices(self, x: Float[Tensor, "batch item feature"]) -> Int[Tensor, "batch token"]:
        """Choose the code of every token."""

    def code_probabilities(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token code"]:
        """q(c|x) of every token: what a method with noise draws from in training; all on the one code without."""
        return functional.one_hot(self.code_indices(x), self.vocabulary).float()

    def encode(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> Codes:
        """Choose codes; ``generator`` is not used."""
        indices = self.code_indices(x)
        return Codes(indices=indices, embeddings=self.embed(indices))

    @property
    def final_beta(self) -> float | None:
        """None: what is evaluated has no ELBO."""
        return None

    def kl_to_prior(self, x: Float[Tensor, "batch item feature"], codes: Codes) -> Float[Tensor, " batch"]:
        """Token * ln V [nat], that of the one sequence that is kept."""
        return self.deterministic_kl(x)
