"""GR-MCK: the straight-through Gumbel-softmax autoencoder with a Rao-Blackwellised gradient.

Given the drawn code, its relaxed gradient is averaged over K draws of the Gumbel noise that would have led to it.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.contract import Method, OptimisationConfig, Preset
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import gumbel_noise, gumbel_rao
from motionlex.motion_vae.methods.gumbel import (
    RelaxedAutoencoder,
    RelaxedConfig,
    autoregressive_optimisation,
    small_optimisation,
)


@dataclass(frozen=True, kw_only=True)
class GumbelRaoConfig(RelaxedConfig):
    """Gumbel-Rao Monte Carlo."""

    rao_samples: int = 10
    """K: conditional draws of the noise per code."""
    as_published: bool = False
    """Differentiate through the conditional noise too, as in the original text and public code; the mean gradient is
    then no longer that of straight-through Gumbel-softmax."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rao_samples < 1:
            raise ValueError(f"rao_samples must be at least 1, got {self.rao_samples}")


class GumbelRaoAutoencoder(RelaxedAutoencoder):
    """Gumbel-Rao Monte Carlo."""

    config: GumbelRaoConfig

    def __init__(self, config: GumbelRaoConfig, domain: Domain) -> None:
        super().__init__(config, domain)

    def relax(
        self, logits: Float[Tensor, "*shape code"], generator: torch.Generator, *, temperature: float
    ) -> Float[Tensor, "*shape code"]:
        """Draw the code by the Gumbel-max trick, then its gradient from noise of its own."""
        with torch.no_grad():
            index = (logits + gumbel_noise(logits, generator)).argmax(dim=-1)
        return gumbel_rao(
            logits,
            index,
            generator,
            temperature=temperature,
            samples=self.config.rao_samples,
            as_published=self.config.as_published,
        )


def paper() -> Preset[GumbelRaoConfig]:
    """LAFAN column of the paper: K = 10, temperature 1, learning rate 1e-4 -> 1e-5 (cosine)."""
    return Preset(method=GumbelRaoConfig(), optimisation=autoregressive_optimisation())


def paper_na() -> Preset[GumbelRaoConfig]:
    """LAFAN column of the paper, factorised: six encoder blocks, beta from 1."""
    method = GumbelRaoConfig(factorisation="factorised", networks=NetworkConfig(layers=6), beta_start=1.0)
    return Preset(method=method, optimisation=OptimisationConfig())


def small() -> Preset[GumbelRaoConfig]:
    """Sized for two CPU cores: at most one second per step; the departures of Gumbel's small preset."""
    method = GumbelRaoConfig(vocabulary=256, networks=NetworkConfig(width=64), beta_start=0.1, aligned_memory=True)
    return Preset(method=method, optimisation=small_optimisation())


def small_na() -> Preset[GumbelRaoConfig]:
    """The same size and schedule with a factorised posterior and four encoder blocks."""
    networks = NetworkConfig(width=64, layers=4)
    method = replace(paper_na().method, vocabulary=256, networks=networks, beta_start=0.1)
    return Preset(method=method, optimisation=small_optimisation())


METHODS = (
    Method(
        name="gr_mck",
        summary="Gumbel-Rao on an autoregressive encoder",
        config_class=GumbelRaoConfig,
        build=GumbelRaoAutoencoder,
        presets={"paper": paper, "small": small},
    ),
    Method(
        name="gr_mck_na",
        summary="Gumbel-Rao on a factorised encoder",
        config_class=GumbelRaoConfig,
        build=GumbelRaoAutoencoder,
        presets={"paper": paper_na, "small": small_na},
    ),
)
