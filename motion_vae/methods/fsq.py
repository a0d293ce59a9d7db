"""Finite scalar quantisation: an implicit codebook of all combinations of a few levels (Mentzer et al. 2023)."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from motionlex.motion_vae.contract import (
    Codes,
    DiscreteAutoencoder,
    LossTerms,
    Method,
    OptimisationConfig,
    ParameterGroup,
    Preset,
)
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import straight_through
from motionlex.motion_vae.losses import RECONSTRUCTIONS, Reconstruction, reconstruction_loss
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.options import check_choice
from motionlex.motion_vae.quantisation import (
    bounded,
    digits_to_codes,
    digits_to_indices,
    full_precision,
    indices_to_digits,
    levels_for_budget,
)

MOST_CODES = 2**20
"""Largest implicit codebook: what counts codes holds one number for each."""


@dataclass(frozen=True, kw_only=True)
class FSQConfig:
    """Finite scalar quantisation: the codebook is implicit and never learned."""

    levels: tuple[int, ...] = (10, 10, 10)
    """Values per coordinate, each at least 3; a code is one combination."""
    exact_budget: bool = False
    """Exact-budget FSQ: raise the number of codes to the next power of two, on as many coordinates, so that a
    comparison at equal bits is one: (10, 10, 10) with 1000 codes becomes (16, 8, 8) with 1024."""
    networks: NetworkConfig = field(default_factory=lambda: NetworkConfig(layers=6))
    """Sizes of the networks."""
    reconstruction: Reconstruction = "squared_error"
    """Reconstruction term: mean squared error, or negative log-likelihood [nat] per element."""

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("levels must name at least one coordinate, got none")
        if bad := [n for n in self.levels if n < 3]:
            raise ValueError(f"levels: every level must be >= 3, got {bad}")
        check_choice("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        if self.vocabulary > MOST_CODES:  # used_levels checks the rest
            raise ValueError(f"levels give {self.vocabulary} codes, more than {MOST_CODES}: take fewer or smaller ones")

    @property
    def used_levels(self) -> tuple[int, ...]:
        """Levels after ``exact_budget``."""
        if not self.exact_budget:
            return self.levels
        return levels_for_budget(math.ceil(math.log2(math.prod(self.levels))), coordinates=len(self.levels))

    @property
    def vocabulary(self) -> int:
        """Number of codes: the product of the levels."""
        return math.prod(self.used_levels)


class FSQ(DiscreteAutoencoder):
    """Autoencoder whose tokens are rounded coordinate by coordinate."""

    def __init__(self, config: FSQConfig, domain: Domain) -> None:
        super().__init__()
        self.config, self.domain, self.tokens, self.vocabulary = config, domain, domain.tokens, config.vocabulary
        width, coordinates = config.networks.width, len(config.used_levels)
        self.encoder = domain.encoder(config.networks)
        self.to_coordinates = nn.Linear(width, coordinates)
        self.from_coordinates = nn.Linear(coordinates, width)
        self.decoder = domain.decoder(config.networks)

    def coordinates(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token coordinate"]:
        """Bounded encoder outputs before rounding, in at least float32."""
        return bounded(full_precision(self.to_coordinates(self.encoder(x))), self.config.used_levels)

    def digits(self, coordinates: Float[Tensor, "batch token coordinate"]) -> Int[Tensor, "batch token coordinate"]:
        """Round to levels 0, 1, ..., L - 1."""
        half = torch.tensor([n // 2 for n in self.config.used_levels], device=coordinates.device)
        return coordinates.round().long() + half

    def encode(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> Codes:
        """Round every coordinate of every token; ``generator`` is not used."""
        indices = digits_to_indices(self.digits(self.coordinates(x)), self.config.used_levels)
        return Codes(indices=indices, embeddings=self.embed(indices))

    def embed(self, indices: Int[Tensor, "*batch token"]) -> Float[Tensor, "*batch token width"]:
        """Digits of the codes in [-1, 1], mapped linearly to the width of the networks."""
        levels = self.config.used_levels
        return self.from_coordinates(digits_to_codes(indices_to_digits(indices, levels), levels))

    @property
    def codebook(self) -> Float[Tensor, "code width"]:
        """One vector per code, computed."""
        return self.embed(torch.arange(self.vocabulary, device=self.from_coordinates.weight.device))

    def decode_embeddings(self, embeddings: Float[Tensor, "*batch token width"]) -> Distribution:
        """p(x|z) from embeddings of codes."""
        return self.decoder(embeddings)

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        """Reconstruction alone; rounding hands its gradient through.

        Args:
            x: Data.
            generator: Not used.
            progress: Not used.

        Source: Mentzer et al. 2023, section 3: no commitment, no codebook loss, no entropy term.
        """
        levels = self.config.used_levels
        coordinates = self.coordinates(x)
        digits = self.digits(coordinates.detach())
        half = coordinates.new_tensor([n // 2 for n in levels])
        codes = straight_through(coordinates / half, digits_to_codes(digits, levels).to(coordinates.dtype))
        distribution = self.decode_embeddings(self.from_coordinates(codes))
        loss = reconstruction_loss(distribution, x, self.config.reconstruction)
        metrics = {
            "mean_squared_error": (distribution.mean - x).square().mean().detach(),
            "batch_perplexity": code_perplexity(digits_to_indices(digits, levels), self.vocabulary),
        }
        return LossTerms(total=loss, terms={"reconstruction": loss.detach()}, metrics=metrics)

    @property
    def final_beta(self) -> float | None:
        """None: the objective is not an ELBO."""
        return None

    def kl_to_prior(self, x: Float[Tensor, "batch item feature"], codes: Codes) -> Float[Tensor, " batch"]:
        """Token * ln V [nat], that of a deterministic code."""
        return torch.full((x.shape[0],), self.tokens * math.log(self.vocabulary), device=x.device)

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """One group of everything."""
        return (ParameterGroup(name="networks", parameters=list(self.parameters())),)


def paper() -> Preset[FSQConfig]:
    """LAFAN column of the DAPS paper: 64 tokens of 10 x 10 x 10 codes, 100 Hz."""
    return Preset(method=FSQConfig(), optimisation=OptimisationConfig())


def small() -> Preset[FSQConfig]:
    """Sized for two CPU cores: at most one second per step; exactly 256 codes, as the other small presets."""
    method = FSQConfig(levels=levels_for_budget(8), networks=NetworkConfig(width=64, layers=4))
    return Preset(method=method, optimisation=OptimisationConfig(batch=128, steps=3000, hz=50.0, learning_rate=1e-3))


METHODS = (
    Method(
        name="fsq",
        summary="rounded coordinates, implicit codebook",
        config_class=FSQConfig,
        build=FSQ,
        presets={"paper": paper, "small": small},
    ),
)
