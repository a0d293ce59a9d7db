"""Straight-through Gumbel-softmax autoencoder, with an autoregressive or a factorised encoder.

One code sequence per example is drawn by the Gumbel-max trick; backwards, every one-hot code has the gradient of its
softmax relaxation, and in the autoregressive variant the gradient runs back through all steps of the sampling.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.autoencoders import PosteriorAutoencoder, PosteriorConfig
from motionlex.motion_vae.contract import LossTerms, Method, OptimisationConfig, Preset
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import exponential_schedule, gumbel_noise, gumbel_softmax
from motionlex.motion_vae.losses import categorical_kl_to_uniform, gathered_log_prob
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.networks.relaxed import relaxed_sequence
from motionlex.motion_vae.options import check_positive
from motionlex.motion_vae.posterior import AutoregressivePosterior, FactorisedPosterior
from motionlex.motion_vae.quantisation import mixed_codes


@dataclass(frozen=True, kw_only=True)
class RelaxedConfig(PosteriorConfig):
    """What straight-through Gumbel-softmax and Gumbel-Rao have in common."""

    temperature_start: float = 1.0
    """Temperature of the relaxation at the first step."""
    temperature_end: float = 1.0
    """Temperature of the relaxation at the end of the schedule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature_start=self.temperature_start, temperature_end=self.temperature_end)


class RelaxedAutoencoder(PosteriorAutoencoder):
    """Maximises the beta-ELBO through a relaxation of its draws; subclasses say which."""

    def __init__(self, config: RelaxedConfig, domain: Domain) -> None:
        super().__init__(config, domain)
        self.config = config

    @abstractmethod
    def relax(
        self, logits: Float[Tensor, "*shape code"], generator: torch.Generator, *, temperature: float
    ) -> Float[Tensor, "*shape code"]:
        """Draw codes from float32 (or float64) logits, as one-hot vectors with a gradient for the logits."""

    def relaxed_sample(
        self, memory: Float[Tensor, "batch token width"], generator: torch.Generator, *, temperature: float
    ) -> tuple[Float[Tensor, "batch token code"], Float[Tensor, "batch token code"]]:
        """Draw one code sequence per example, with gradients.

        Args:
            memory: What the encoder made of x.
            generator: Source of the noise.
            temperature: tau of the relaxation.

        Returns:
            One-hot codes, and the logits of the conditionals that they were drawn from.
        """
        if isinstance(self.recognition, AutoregressivePosterior):
            return relaxed_sequence(
                self.recognition.decoder,
                memory,
                lambda logits: self.relax(logits, generator, temperature=temperature),
            )
        assert isinstance(self.recognition, FactorisedPosterior)
        logits = self.recognition.marginals(memory)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.relax(logits, generator, temperature=temperature), logits

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        r"""Negative beta-ELBO of one draw per example.

        .. math:: -\ln p(x|z) + \beta \sum_t KL(q(z_t | z_{<t}, x) \| \text{uniform})

        Args:
            x: Data.
            generator: Source of the draws.
            progress: step / schedule_steps; sets beta and the temperature.

        Returns:
            Reconstruction and weighted KL, with diagnostics.
        Source: Jang et al. 2017, section 3; DAPS, equation 1 and appendix J.
        """
        config = self.config
        beta = exponential_schedule(config.beta_start, config.beta_end, progress)
        temperature = exponential_schedule(config.temperature_start, config.temperature_end, progress)
        one_hot, logits = self.relaxed_sample(self.recognition.memory(x), generator, temperature=temperature)
        reconstruction = self.decode_embeddings(mixed_codes(one_hot, self.codebook))
        log_p = reconstruction.log_prob(x)
        kl = categorical_kl_to_uniform(logits).mean()
        terms = {"negative_log_p_nats": -log_p.mean(), "weighted_kl_nats": beta * kl}
        with torch.no_grad():
            indices = one_hot.argmax(dim=-1)
            metrics = {
                "beta": torch.tensor(beta),
                "temperature": torch.tensor(temperature),
                "kl_nats": kl.detach(),
                "log_q_nats": gathered_log_prob(logits, indices).mean(),
                "log_p_nats": log_p.mean(),
                "mean_squared_error": (reconstruction.mean - x).square().mean(),
                "batch_perplexity": code_perplexity(indices, self.vocabulary),
            }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={k: v.detach() for k, v in terms.items()}, metrics=metrics)


@dataclass(frozen=True, kw_only=True)
class GumbelConfig(RelaxedConfig):
    """Straight-through Gumbel-softmax."""


class GumbelAutoencoder(RelaxedAutoencoder):
    """Straight-through Gumbel-softmax."""

    def relax(
        self, logits: Float[Tensor, "*shape code"], generator: torch.Generator, *, temperature: float
    ) -> Float[Tensor, "*shape code"]:
        """One draw of noise gives both the code and its gradient."""
        return gumbel_softmax(logits, gumbel_noise(logits, generator), temperature=temperature)


def paper() -> Preset[GumbelConfig]:
    """LAFAN column of the paper: temperature 1, learning rate 1e-4 -> 1e-5 (cosine)."""
    return Preset(method=GumbelConfig(), optimisation=autoregressive_optimisation())


def paper_na() -> Preset[GumbelConfig]:
    """LAFAN column of the paper, factorised: six encoder blocks, temperature 1 -> 0.75, beta from 3."""
    method = GumbelConfig(
        factorisation="factorised", networks=NetworkConfig(layers=6), beta_start=3.0, temperature_end=0.75
    )
    return Preset(method=method, optimisation=OptimisationConfig())


def autoregressive_optimisation() -> OptimisationConfig:
    """LAFAN optimisation of both autoregressive relaxations, which are unstable at the usual 3e-4."""
    return OptimisationConfig(learning_rate=1e-4, learning_rate_end=1e-5, learning_rate_decay="cosine")


def small() -> Preset[GumbelConfig]:
    """Sized for two CPU cores: at most one second per step.

    Departures from the paper, each for a run of minutes: narrower networks, 256 codes, the encoder's tokens added to
    the decoder's input, beta from 0.1, a larger learning rate.
    """
    method = GumbelConfig(vocabulary=256, networks=NetworkConfig(width=64), beta_start=0.1, aligned_memory=True)
    return Preset(method=method, optimisation=small_optimisation())


def small_na() -> Preset[GumbelConfig]:
    """The same size and schedule with a factorised posterior, four encoder blocks and the paper's temperatures."""
    networks = NetworkConfig(width=64, layers=4)
    method = replace(paper_na().method, vocabulary=256, networks=networks, beta_start=0.1)
    return Preset(method=method, optimisation=small_optimisation())


def small_optimisation() -> OptimisationConfig:
    """Optimisation of the small presets of both relaxations."""
    return OptimisationConfig(batch=64, steps=5500, hz=50.0, learning_rate=2e-3, learning_rate_end=5e-5)


METHODS = (
    Method(
        name="gumbel",
        summary="straight-through Gumbel-softmax on an autoregressive encoder",
        config_class=GumbelConfig,
        build=GumbelAutoencoder,
        presets={"paper": paper, "small": small},
    ),
    Method(
        name="gumbel_na",
        summary="straight-through Gumbel-softmax on a factorised encoder",
        config_class=GumbelConfig,
        build=GumbelAutoencoder,
        presets={"paper": paper_na, "small": small_na},
    ),
)
