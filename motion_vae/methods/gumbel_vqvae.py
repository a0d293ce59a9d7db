"""Gumbel-VQVAE: the encoder gives the logits of codes directly (Karpathy 2021; Esser et al. 2021)."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.autoencoders import QuantisedAutoencoder
from motionlex.motion_vae.contract import LossTerms, Method, OptimisationConfig, Preset
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import exponential_schedule, gumbel_noise, gumbel_softmax
from motionlex.motion_vae.losses import (
    RECONSTRUCTIONS,
    Reconstruction,
    categorical_kl_to_uniform,
    reconstruction_loss,
)
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.options import check_choice, check_not_negative, check_positive, check_vocabulary
from motionlex.motion_vae.quantisation import full_precision, mixed_codes


@dataclass(frozen=True, kw_only=True)
class GumbelVQVAEConfig:
    """Gumbel-softmax over logits of the encoder."""

    vocabulary: int = 1024
    """Number of codes."""
    networks: NetworkConfig = field(default_factory=lambda: NetworkConfig(layers=6))
    """Sizes of the networks."""
    reconstruction: Reconstruction = "squared_error"
    """Reconstruction term: mean squared error, or negative log-likelihood [nat] per element."""
    temperature_start: float = 1.0
    """Temperature of the Gumbel-softmax at the first step."""
    temperature_end: float = 0.0625
    """Temperature at the end of the schedule."""
    kl_weight: float = 5e-4
    """Weight of the mean KL per token [nat] to the uniform prior, once it is ramped up."""
    kl_ramp: float = 0.1
    """Share of the schedule during which that weight rises linearly from 0; 0 for none."""
    straight_through: bool = True
    """Decode the one-hot draw with the gradient of the softmax; false decodes the softmax itself."""

    def __post_init__(self) -> None:
        check_vocabulary(self.vocabulary)
        check_choice("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        check_positive(temperature_start=self.temperature_start, temperature_end=self.temperature_end)
        check_not_negative(kl_weight=self.kl_weight, kl_ramp=self.kl_ramp)


class GumbelVQVAE(QuantisedAutoencoder):
    """Gumbel-softmax over logits of the encoder; the most probable code at evaluation."""

    def __init__(self, config: GumbelVQVAEConfig, domain: Domain) -> None:
        super().__init__(domain, config.networks, config.vocabulary)
        self.config = config
        self.encoder = domain.encoder(config.networks)
        self.output = nn.Linear(config.networks.width, config.vocabulary)

    def logits(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token code"]:
        """Unnormalised log q(c|x) of every token, in at least float32."""
        return full_precision(self.output(self.encoder(x)))

    def code_indices(self, x: Float[Tensor, "batch item feature"]) -> Int[Tensor, "batch token"]:
        """Most probable code of every token."""
        return self.logits(x).argmax(dim=-1)

    def code_probabilities(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token code"]:
        """q(c|x) of every token."""
        return torch.softmax(self.logits(x), dim=-1)

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        """Reconstruction of a relaxed draw + weighted KL.

        Args:
            x: Data.
            generator: Source of the Gumbel noise.
            progress: step / schedule_steps; sets the temperature and the weight of the KL.

        Source: Karpathy 2021 (deep-vector-quantization), GumbelQuantize; Esser et al. 2021.
        Departure: exponential instead of cosine annealing, a linear ramp of the KL's weight; both over the schedule.
        """
        config = self.config
        temperature = exponential_schedule(config.temperature_start, config.temperature_end, progress)
        ramp = 1.0 if config.kl_ramp == 0.0 else min(progress / config.kl_ramp, 1.0)
        logits = self.logits(x)
        weights = gumbel_softmax(
            logits, gumbel_noise(logits, generator), temperature=temperature, hard=config.straight_through
        )
        distribution = self.decode_embeddings(mixed_codes(weights, self.codebook))
        kl = categorical_kl_to_uniform(logits).mean() / self.tokens
        terms = {
            "reconstruction": reconstruction_loss(distribution, x, config.reconstruction),
            "kl": ramp * config.kl_weight * kl,
        }
        metrics = {
            "mean_squared_error": (distribution.mean - x).square().mean().detach(),
            "batch_perplexity": code_perplexity(weights.detach().argmax(dim=-1), self.vocabulary),
            "kl_per_token_nats": kl.detach(),
            "temperature": torch.tensor(temperature),
        }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={k: v.detach() for k, v in terms.items()}, metrics=metrics)


def paper() -> Preset[GumbelVQVAEConfig]:
    """Karpathy's temperature and KL weight on the networks of the LAFAN column."""
    return Preset(method=GumbelVQVAEConfig(), optimisation=OptimisationConfig())


def small() -> Preset[GumbelVQVAEConfig]:
    """Sized for two CPU cores: at most one second per step."""
    method = GumbelVQVAEConfig(vocabulary=256, networks=NetworkConfig(width=64, layers=4))
    return Preset(method=method, optimisation=OptimisationConfig(batch=128, steps=3000, hz=50.0, learning_rate=1e-3))


METHODS = (
    Method(
        name="gumbel_vqvae",
        summary="Gumbel-softmax over logits of the encoder, small KL weight",
        config_class=GumbelVQVAEConfig,
        build=GumbelVQVAE,
        presets={"paper": paper, "small": small},
    ),
)
