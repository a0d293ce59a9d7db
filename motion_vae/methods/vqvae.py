"""VQ-VAE: nearest-code quantisation with a straight-through gradient (van den Oord et al. 2017), and its remedies."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor, nn

from motionlex.motion_vae.autoencoders import QuantisedAutoencoder
from motionlex.motion_vae.codebooks import KMeansStart, MovingCodebook, Replacement
from motionlex.motion_vae.contract import LossTerms, Method, OptimisationConfig, Preset
from motionlex.motion_vae.domain import Domain, NetworkConfig
from motionlex.motion_vae.estimators import nearest_code
from motionlex.motion_vae.losses import (
    RECONSTRUCTIONS,
    Reconstruction,
    codebook_loss,
    commitment_loss,
    reconstruction_loss,
)
from motionlex.motion_vae.metrics import code_perplexity
from motionlex.motion_vae.options import check_choice, check_not_negative, check_positive, check_vocabulary
from motionlex.motion_vae.quantisation import full_precision, synchronised_straight_through


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig:
    """Vector-quantised autoencoder."""

    vocabulary: int = 1024
    """Number of codes."""
    networks: NetworkConfig = field(default_factory=lambda: NetworkConfig(layers=6))
    """Sizes of the networks."""
    reconstruction: Reconstruction = "squared_error"
    """Reconstruction term: mean squared error, or negative log-likelihood [nat] per element."""
    commitment: float = 0.5
    """Weight of the commitment loss."""
    codebook_update: Literal["gradient", "ema"] = "ema"
    """Train the codebook by its loss, or as a moving average of the vectors assigned to each code."""
    ema_decay: float = 0.99
    """Share of the old average (of vectors and of counts) kept at each step."""
    l2_normalise: bool = False
    """Scale encoder outputs and codes to unit length, so that the nearest code is the one of largest cosine."""
    kmeans_start: bool = False
    """Start the codebook at the cluster means of the first batch that is quantised."""
    continuous: float = 0.0
    """Share of the schedule that trains without codes first; needs kmeans_start, which then has outputs to cluster."""
    replace_dead: Literal["never", "rare", "unused"] = "never"
    """Replace codes with a small running count, or without a vector for some time, by vectors of the batch."""
    dead_share: float = 0.02
    """rare: smallest running count of a living code as a share of even use."""
    dead_steps: int = 100
    """unused: steps without a vector after which a code is dead."""
    replace_every: int = 10
    """Steps between two rounds of replacement."""
    affine: bool = False
    """Train a scale and a shift that all codes share, so that unused codes move as well."""
    affine_rate: float = 10.0
    """How much faster than other parameters the shared scale and shift move."""
    alternate: bool = False
    """Update the codebook alone first, then the networks, instead of both at once."""
    codebook_updates: int = 1
    """Updates of the codebook alone per batch, with alternate."""
    synchronisation: float = 0.0
    """nu: share of the reconstruction's gradient that the codes themselves receive."""

    def __post_init__(self) -> None:
        check_vocabulary(self.vocabulary)
        check_choice("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        check_choice("codebook_update", self.codebook_update, ("gradient", "ema"))
        check_choice("replace_dead", self.replace_dead, ("never", "rare", "unused"))
        check_not_negative(commitment=self.commitment, synchronisation=self.synchronisation)
        check_positive(
            affine_rate=self.affine_rate,
            codebook_updates=self.codebook_updates,
            dead_steps=self.dead_steps,
            replace_every=self.replace_every,
        )
        if not 0.0 <= self.continuous < 1.0 or (self.continuous > 0.0 and not self.kmeans_start):
            raise ValueError(f"continuous must be in [0, 1) and needs kmeans_start, got {self.continuous}")
        if not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in (0, 1), got {self.ema_decay}")
        if not 0.0 < self.dead_share < 0.1:
            raise ValueError(f"dead_share must be in (0, 0.1), got {self.dead_share}")
        if self.codebook_update == "ema":
            wanting = [name for name in ("affine", "alternate", "synchronisation") if getattr(self, name)]
            if wanting:
                raise ValueError(
                    f"{', '.join(wanting)} need codebook_update=gradient: a moving average has no gradient"
                )

    @property
    def replacement(self) -> Replacement | None:
        """Rule for dead codes."""
        if self.replace_dead == "never":
            return None
        return Replacement(
            criterion=self.replace_dead, share=self.dead_share, steps=self.dead_steps, every=self.replace_every
        )


class VQVAE(QuantisedAutoencoder):
    """Vector-quantised autoencoder with a deterministic encoder."""

    def __init__(self, config: VQVAEConfig, domain: Domain) -> None:
        super().__init__(domain, config.networks, config.vocabulary)
        self.config = config
        self.encoder = domain.encoder(config.networks)
        self.table.requires_grad_(config.codebook_update == "gradient")
        self.kmeans = KMeansStart() if config.kmeans_start else None
        if config.affine:
            self.affine = nn.Parameter(torch.zeros(2, config.networks.width))
        self.moving: MovingCodebook | None = None
        if config.codebook_update == "ema" or config.replacement is not None:
            self.moving = MovingCodebook(
                self.vocabulary, config.networks.width, decay=config.ema_decay, replacement=config.replacement
            )
            self.moving.reset(self.table)
        self._assigned: list[tuple[Tensor, Tensor]] = []
        self._generator: torch.Generator | None = None

    @property
    def table(self) -> Float[Tensor, "code width"]:
        """Codes as they are stored: before the affine map and the normalisation."""
        return self.generative.embedding.weight

    @property
    def codebook(self) -> Float[Tensor, "code width"]:
        """One vector per code, as it is compared with encoder outputs and decoded.

        Source: affine map Huh et al. 2023, its learnt form; normalisation Yu et al. 2022 (ViT-VQGAN).
        """
        codes = self.table
        if self.config.affine:
            scale, shift = self._affine_map()
            codes = scale * codes + shift
        return functional.normalize(codes, dim=-1) if self.config.l2_normalise else codes

    def embed(self, indices: Int[Tensor, "*batch token"]) -> Float[Tensor, "*batch token width"]:
        """Look codes up in the codebook."""
        return functional.embedding(indices, self.codebook)

    def latents(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token width"]:
        """Encoder outputs, in at least float32."""
        vectors = full_precision(self.encoder(x))
        return functional.normalize(vectors, dim=-1) if self.config.l2_normalise else vectors

    def code_indices(self, x: Float[Tensor, "batch item feature"]) -> Int[Tensor, "batch token"]:
        """Find the nearest code of every token."""
        return nearest_code(self.latents(x), self.codebook)

    def objectives(
        self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float
    ) -> Iterator[LossTerms]:
        """With ``alternate``, updates of the codebook alone come first.

        Source: Huh et al. 2023: first bring codes and encoder outputs together, then minimise the task.
        Departure: the first updates move codes only, the encoder keeps its commitment in the second.
        """
        if self.config.alternate and progress >= self.config.continuous:
            with torch.no_grad():
                vectors = self.latents(x)
            self._start(vectors, generator)
            for _ in range(self.config.codebook_updates):
                loss = codebook_loss(vectors, self.embed(nearest_code(vectors, self.codebook)))
                yield LossTerms(total=loss, terms={"codebook": loss.detach()}, metrics={})
        yield self.loss(x, generator, progress=progress)

    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        """Reconstruction + commitment (+ codebook loss, where neither moving average nor alternation replaces it).

        Args:
            x: Data.
            generator: Draws the k-means start and the vectors for dead codes.
            progress: step / schedule_steps; ends the part without codes.

        Source: van den Oord et al. 2017, equation 3; means over elements instead of sums. The part without codes is the
            warm-up of Lancucki et al. 2020.
        """
        config = self.config
        continuous = self.latents(x)
        if progress < config.continuous:
            distribution = self.decode_embeddings(continuous)
            loss = reconstruction_loss(distribution, x, config.reconstruction)
            error = (distribution.mean - x).square().mean().detach()
            return LossTerms(total=loss, terms={"reconstruction": loss.detach()}, metrics={"mean_squared_error": error})
        self._start(continuous.detach(), generator)
        indices = nearest_code(continuous.detach(), self.codebook)
        quantised = self.embed(indices)
        embeddings = synchronised_straight_through(continuous, quantised, share=config.synchronisation)
        distribution = self.decode_embeddings(embeddings)
        terms = {
            "reconstruction": reconstruction_loss(distribution, x, config.reconstruction),
            "commitment": config.commitment * commitment_loss(continuous, quantised),
        }
        if config.codebook_update == "gradient" and not config.alternate:
            terms["codebook"] = codebook_loss(continuous, quantised)
        if self.moving is not None and torch.is_grad_enabled():  # several parts of a batch add up to one update
            self._assigned.append((continuous.detach().flatten(0, 1), indices.flatten()))
            self._generator = generator
        metrics = {
            "mean_squared_error": (distribution.mean - x).square().mean().detach(),
            "batch_perplexity": code_perplexity(indices, self.vocabulary),
            "quantisation_error": commitment_loss(continuous, quantised).detach(),
        }
        total = torch.stack(list(terms.values())).sum()
        return LossTerms(total=total, terms={k: v.detach() for k, v in terms.items()}, metrics=metrics)

    def after_update(self) -> None:
        """Let a moving-average codebook follow the batch, and give dead codes a new start."""
        if self.moving is None or not self._assigned:
            return
        assert self._generator is not None
        vectors, indices = (torch.cat(parts) for parts in zip(*self._assigned))
        self._assigned = []
        if self.config.codebook_update == "ema":
            self.moving.update(self.table.data, vectors, indices, self._generator)
            return
        dead, drawn = self.moving.advance(vectors, indices, self._generator)
        if drawn is not None:
            with torch.no_grad():
                self.table[dead] = self._stored(drawn)

    def _start(self, vectors: Float[Tensor, "batch token width"], generator: torch.Generator) -> None:
        if self.kmeans is None or not torch.is_grad_enabled():
            return
        started = self.kmeans.run(self.table.data, vectors.flatten(0, 1), generator)
        if started and self.moving is not None:
            self.moving.reset(self.table)

    def _affine_map(self) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
        """Scale and shift; an update of Adam moves them ``affine_rate`` times as far as it moves a weight."""
        scale, shift = self.config.affine_rate * self.affine
        return 1.0 + scale, shift

    def _stored(self, vectors: Float[Tensor, "code width"]) -> Float[Tensor, "code width"]:
        """Rows of the table whose codes are these vectors."""
        if not self.config.affine:
            return vectors
        scale, shift = self._affine_map()
        return (vectors - shift) / torch.where(scale.abs() < 1e-3, 1e-3, scale)


def paper() -> Preset[VQVAEConfig]:
    """LAFAN column of the paper: 64 tokens of 1024 codes, commitment 0.5, 100 Hz.

    Departure: the paper does not say where its codes begin; from the usual normal start, on MNIST, one to three codes
    take everything.
    """
    method = VQVAEConfig(codebook_update="gradient", kmeans_start=True)
    return Preset(method=method, optimisation=OptimisationConfig())


def small() -> Preset[VQVAEConfig]:
    """Sized for two CPU cores: at most one second per step.

    Departure from the plain method: a tenth of the schedule without codes, k-means start and replacement of rare codes;
    without them a run of minutes ends with one code in use.
    """
    method = VQVAEConfig(
        vocabulary=256,
        networks=NetworkConfig(width=64, layers=4),
        codebook_update="ema",
        ema_decay=0.98,
        kmeans_start=True,
        continuous=0.1,
        replace_dead="rare",
    )
    optimisation = OptimisationConfig(batch=64, steps=5500, hz=50.0, learning_rate=2e-3, learning_rate_end=5e-5)
    return Preset(method=method, optimisation=optimisation)


METHODS = (
    Method(
        name="vqvae",
        summary="nearest code, straight-through gradient",
        config_class=VQVAEConfig,
        build=VQVAE,
        presets={"paper": paper, "small": small},
    ),
)
