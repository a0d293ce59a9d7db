"""DAPS: discrete autoencoding via policy search, with an autoregressive or a factorised encoder.

Per example, K code sequences are sampled without gradient, weighted by the closed-form optimum of a trust-region
problem, and the encoder is trained on them by weighted maximum likelihood; the decoder maximises its likelihood on the
same samples. The two gradients never meet.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.autoencoders import PosteriorAutoencoder, PosteriorConfig
from motionlex.motion_vae.contract import LossTerms, Method, OptimisationConfig, ParameterGroup, Preset
from motionlex.motion_vae.distributed import synchronised_mean
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import (
    effective_sample_size,
    exponential_schedule,
    nearest_code,
    policy_search_weights,
)
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.options import check_choice, check_positive
from motionlex.motion_vae.policy_search import LOG_ETA_RANGE, eta_for_ess
from motionlex.motion_vae.quantisation import full_precision
from motionlex.motion_vae.warm_start import MovingCodebook, WarmStartConfig, quantised

TemperatureControl = Literal["learned", "bisection"]
TEMPERATURE_CONTROLS: tuple[TemperatureControl, ...] = ("learned", "bisection")


@dataclass(frozen=True, kw_only=True)
class DAPSConfig(PosteriorConfig):
    """Discrete autoencoding via policy search."""

    samples: int = 16
    """K: code sequences per example."""
    ess_target: float = 0.33
    """rho: wanted effective sample size as a share of K, in (1/K, 1)."""
    temperature_control: TemperatureControl = "learned"
    """learned: one eta follows the mean ESS by gradient descent (the paper); bisection: every x has its own eta, which
    meets the target exactly."""
    eta_start: float = 100.0
    """Trust-region temperature at the first step, where it is learned."""
    eta_learning_rate: float = 1e-3
    """AdamW learning rate of log eta."""
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    """Shares of the schedule that quantise and imitate before policy search."""
    centred_weights: bool = False
    """Weight log q by w_k - 1/K: the same expectation, since E[grad log q] = 0, with less variance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("temperature_control", self.temperature_control, TEMPERATURE_CONTROLS)
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, got {self.samples}")
        if not 1.0 / self.samples < self.ess_target < 1.0:
            raise ValueError(
                f"ess_target must be between 1/samples = {1 / self.samples:.3g} and 1, got {self.ess_target}"
            )
        check_positive(eta_start=self.eta_start, eta_learning_rate=self.eta_learning_rate)


class DAPS(PosteriorAutoencoder):
    """Discrete autoencoding via policy search."""

    def __init__(self, config: DAPSConfig, domain: Domain) -> None:
        super().__init__(config, domain)
        self.config = config
        learned = config.temperature_control == "learned"
        self.log_eta = nn.Parameter(torch.tensor(math.log(config.eta_start))) if learned else None
        self._assigned: list[tuple[Tensor, Tensor]] = []
        self._generator: torch.Generator | None = None
        self.moving_codebook = (
            MovingCodebook(config.warm_start, config.vocabulary, config.networks.width)
            if config.warm_start.quantise > 0.0
            else None
        )

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        """Evaluate the three objectives of algorithm 1; their gradients are disjoint by construction.

        Args:
            x: Data.
            generator: Source of the samples.
            progress: step / schedule_steps; sets beta.

        Returns:
            Encoder loss (6), decoder loss (7) and temperature loss (where eta is learned), with diagnostics.
        Source: DAPS, algorithm 1.
        Departure: a warm start, centred weights and an eta per x are options.
        """
        phase, progress = self.config.warm_start.phase(progress)
        if phase == "continuous":
            error = (self.decode_embeddings(self.recognition.memory(x)).mean - x).square().mean()
            return LossTerms(
                total=error, terms={"reconstruction": error.detach()}, metrics={"mean_squared_error": error.detach()}
            )
        if phase == "quantise":
            return self._quantise(x, generator)
        if phase == "imitate":
            return self._imitate(x)
        return self._search(x, generator, exponential_schedule(self.config.beta_start, self.config.beta_end, progress))

    def _search(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, beta: float) -> LossTerms:
        """Policy search proper, at a fixed beta."""
        memory = self.recognition.memory(x)
        indices, _ = self.recognition.sample(memory.detach(), self.config.samples, generator)
        reconstruction = self.generative(indices)
        log_p = reconstruction.log_prob(x.unsqueeze(1))
        log_q = self.recognition.log_prob(indices, memory)
        eta = self._eta(log_p.detach(), log_q.detach(), beta)
        weights = policy_search_weights(log_p.detach(), log_q.detach(), eta=eta, beta=beta)
        ess = synchronised_mean(effective_sample_size(weights).mean())
        centre = 1.0 / self.config.samples if self.config.centred_weights else 0.0
        terms = {"encoder": -((weights.detach() - centre) * log_q).sum(dim=1).mean(), "decoder": -log_p.mean()}
        if self.log_eta is not None:
            terms["temperature"] = (ess - self.config.ess_target * self.config.samples).square()
        with torch.no_grad():
            metrics = {
                "effective_sample_size": ess.detach(),
                "eta": eta.log().mean().exp(),
                "beta": torch.tensor(beta),
                "log_q_nats": log_q.mean(),
                "log_p_nats": log_p.mean(),
                "log_p_spread_nats": log_p.std(dim=1).mean(),
                "mean_squared_error": (reconstruction.mean - x.unsqueeze(1)).square().mean(),
            }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={name: term.detach() for name, term in terms.items()}, metrics=metrics)

    def _eta(
        self, log_p: Float[Tensor, "batch sample"], log_q: Float[Tensor, "batch sample"], beta: float
    ) -> Float[Tensor, ""] | Float[Tensor, "batch 1"]:
        """Trust-region temperature: one with a gradient, or one per x without."""
        if self.log_eta is not None:
            return self.log_eta.exp()
        target = self.config.ess_target * self.config.samples
        return eta_for_ess(log_p, log_q, beta=beta, target=target).unsqueeze(1)

    def _quantise(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> LossTerms:
        """Train encoder and generator as a VQ-VAE while q's decoder already follows, see ``warm_start``."""
        assert self.moving_codebook is not None
        continuous = full_precision(self.recognition.memory(x))
        codes, commitment, indices = quantised(
            continuous, self.generative.embedding.weight.data, self.moving_codebook, generator
        )
        self._assigned.append((continuous.detach().flatten(0, 1), indices.flatten()))  # parts of a batch add up
        self._generator = generator
        error = (self.decode_embeddings(codes).mean - x).square().mean()
        imitation = self._imitation(indices, continuous.detach())
        terms = {"reconstruction": error, "commitment": commitment, "imitation": imitation}
        metrics = {
            "mean_squared_error": error.detach(),
            "batch_perplexity": code_perplexity(indices, self.vocabulary),
        }
        total = error + commitment + imitation
        return LossTerms(total=total, terms={name: term.detach() for name, term in terms.items()}, metrics=metrics)

    def _imitate(self, x: Float[Tensor, "batch item feature"]) -> LossTerms:
        """Fit the autoregressive decoder of q to the nearest codes of a resting encoder, see ``warm_start``."""
        with torch.no_grad():
            memory = self.recognition.memory(x)
            indices = nearest_code(memory, self.codebook)
            error = (self.generative(indices).mean - x).square().mean()
        loss = self._imitation(indices, memory)
        metrics = {"mean_squared_error": error, "log_q_nats": -self.tokens * loss.detach()}
        return LossTerms(total=loss, terms={"imitation": loss.detach()}, metrics=metrics)

    def _imitation(
        self, indices: Int[Tensor, "batch token"], memory: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, ""]:
        """Negative log-likelihood [nat/token] of given codes under q's autoregressive decoder."""
        return -self.recognition.log_prob(indices.unsqueeze(1), memory).mean() / self.tokens

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Both networks at the common settings; log eta, where learned, under its own, without decay and clipping."""
        networks = ParameterGroup(
            name="networks", parameters=[*self.recognition.parameters(), *self.generative.parameters()]
        )
        if self.log_eta is None:
            return (networks,)
        temperature = ParameterGroup(
            name="temperature",
            parameters=(self.log_eta,),
            learning_rate=self.config.eta_learning_rate,
            weight_decay=0.0,
            adaptive_clipping=False,
        )
        return networks, temperature

    def after_update(self) -> None:
        """Clamp log eta; while quantising, let the codebook follow its vectors (not before the loss was accepted)."""
        if self.log_eta is not None:
            with torch.no_grad():
                self.log_eta.clamp_(*LOG_ETA_RANGE)
        if self._assigned and self.moving_codebook is not None:
            assert self._generator is not None
            vectors, indices = (torch.cat(parts) for parts in zip(*self._assigned))
            self.moving_codebook.update(self.generative.embedding.weight.data, vectors, indices, self._generator)
        self._assigned = []


def paper() -> Preset[DAPSConfig]:
    """LAFAN column of the paper: 64 tokens of 1024 codes, 100 Hz."""
    return Preset(method=DAPSConfig(), optimisation=OptimisationConfig())


def paper_na() -> Preset[DAPSConfig]:
    """LAFAN column of the paper, factorised: six encoder blocks, beta from 1."""
    method = DAPSConfig(factorisation="factorised", networks=NetworkConfig(layers=6), beta_start=1.0)
    return Preset(method=method, optimisation=OptimisationConfig())


def small() -> Preset[DAPSConfig]:
    """Sized for two CPU cores: at most one second per step.

    Departures from the paper, each for a run of minutes: narrower networks, 256 codes, 4 samples, a warm start,
    the encoder's tokens added to the decoder's input, centred weights, a faster temperature, an annealed learning rate.
    """
    method = DAPSConfig(
        vocabulary=256,
        networks=NetworkConfig(width=64),
        samples=4,
        ess_target=0.5,
        beta_start=0.1,
        eta_start=30.0,
        eta_learning_rate=2e-2,
        aligned_memory=True,
        warm_start=WarmStartConfig(continuous=0.1, quantise=0.35, imitate=0.2),
        centred_weights=True,
    )
    optimisation = OptimisationConfig(batch=64, steps=5500, hz=50.0, learning_rate=2e-3, learning_rate_end=5e-5)
    return Preset(method=method, optimisation=optimisation)


def small_na() -> Preset[DAPSConfig]:
    """The same size, warm start and schedule with a factorised posterior and four encoder blocks."""
    preset = small()
    networks = replace(preset.method.networks, layers=4)
    method = replace(preset.method, factorisation="factorised", networks=networks, aligned_memory=False)
    return Preset(method=method, optimisation=preset.optimisation)


METHODS = (
    Method(
        name="daps",
        summary="policy search on an autoregressive encoder",
        config_class=DAPSConfig,
        build=DAPS,
        presets={"paper": paper, "small": small},
    ),
    Method(
        name="daps_na",
        summary="policy search on a factorised encoder",
        config_class=DAPSConfig,
        build=DAPS,
        presets={"paper": paper_na, "small": small_na},
    ),
)
