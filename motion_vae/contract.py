"""What every discrete autoencoder is to the rest of the project: the contract sits at the objective.

A ``quantise(z)`` interface cannot express DAPS, whose encoder is trained by weighted maximum likelihood on whole code
sequences. So a method owns its loss; everybody else sees codes, a distribution over data and named loss terms.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from motionlex.motion_vae.domain import Domain
from motionlex.motion_vae.likelihoods import LikelihoodConfig
from motionlex.motion_vae.options import check_choice, check_positive
from motionlex.motion_vae.precision import PRECISIONS, Precision


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A batch of encoded examples."""

    indices: Int[Tensor, "batch token"] | None
    """One code per token; None for continuous relatives."""
    embeddings: Float[Tensor, "batch token feature"]
    """What the generative network sees for these codes."""
    log_prob: Float[Tensor, " batch"] | None = None
    """log q(z|x) [nat] of what was drawn; None for a deterministic encoder."""
    log_prior: Float[Tensor, " batch"] | None = None
    """log p(z) [nat] of what was drawn; None for a deterministic encoder."""


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """Result of one evaluation of an objective."""

    total: Float[Tensor, ""]
    """What is minimised; the sum of the terms."""
    terms: Mapping[str, Tensor]
    """Named parts of the total (0-d, detached), units in the names."""
    metrics: Mapping[str, Tensor]
    """Named diagnostics (0-d, detached), units in the names."""


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share one optimiser."""

    name: str
    """Name of the optimiser in checkpoints."""
    parameters: Iterable[nn.Parameter]
    """What it updates."""
    learning_rate: float | None = None
    """Learning rate; None takes that of the training configuration."""
    weight_decay: float | None = None
    """Weight decay; None takes that of the training configuration."""
    adaptive_clipping: bool = True
    """Whether gradients are clipped relative to the size of the weights."""


class DiscreteAutoencoder(nn.Module, ABC):
    """An autoencoder of data (batch, item, feature) with codes (batch, token)."""

    discrete: ClassVar[bool] = True
    """False exempts continuous relatives from checks of codes; their ``Codes.indices`` are None."""
    domain: Domain
    """The kind of data, with its networks."""
    vocabulary: int
    """Codes that a token can take; 0 for continuous relatives."""
    tokens: int
    """Tokens per example."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator) -> Codes:
        """Draw (or compute) one code sequence per example."""

    @abstractmethod
    def decode_embeddings(self, embeddings: Float[Tensor, "*batch token feature"]) -> Distribution:
        """p(x|z) from what :meth:`embed` or :meth:`encode` gave; its ``log_prob`` (batch,) [nat] sums all elements."""

    def decode(self, codes: Codes) -> Distribution:
        """Distribution over data: ``.mean`` (batch, item, feature), ``.log_prob`` (batch,) [nat]."""
        return self.decode_embeddings(codes.embeddings)

    @abstractmethod
    def embed(self, indices: Int[Tensor, "*batch token"]) -> Float[Tensor, "*batch token feature"]:
        """Look codes up in the codebook, so that ``decode_embeddings(embed(indices))`` decodes integers.

        Raises:
            TypeError: If the method is a continuous relative.
        """

    @property
    def codebook(self) -> Float[Tensor, "code feature"] | None:
        """One vector per code; None where there is no single table (hierarchies, continuous relatives)."""
        return None

    @abstractmethod
    def loss(self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float) -> LossTerms:
        """Evaluate the objective; ``progress`` is step / schedule_steps and drives annealing."""

    def objectives(
        self, x: Float[Tensor, "batch item feature"], generator: torch.Generator, *, progress: float
    ) -> Iterator[LossTerms]:
        """Yield what is minimised on one batch, one optimiser update after each.

        The default is one objective, :meth:`loss`. A method with several updates per batch (epochs of PPO, alternating
        optimisation) yields several; each is evaluated only after the update of the one before.
        """
        yield self.loss(x, generator, progress=progress)

    @abstractmethod
    def kl_to_prior(self, x: Float[Tensor, "batch item feature"], codes: Codes) -> Float[Tensor, " batch"]:
        """Divergence [nat] of q(z|x) from the prior, by its conditionals along ``codes``."""

    @abstractmethod
    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """All trainable parameters, each in exactly one group."""

    @property
    @abstractmethod
    def final_beta(self) -> float | None:
        """Weight of the KL in the reported beta-ELBO; None where the objective has no ELBO."""

    def after_update(self) -> None:
        """Restore invariants after an optimiser step (clamps, moving averages); nothing by default.

        With micro-batches :meth:`loss` runs several times before it: what is collected for moving averages adds up.
        """


@runtime_checkable
class BatchSource(Protocol):
    """Where the trainer gets its batches: motionlex.data.segments.SegmentSource is one."""

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch item feature"]:
        """Draw examples."""
        ...


@dataclass(frozen=True, kw_only=True)
class OptimisationConfig:
    """How a method is trained."""

    batch: int = 256
    """Examples per step."""
    steps: int = 250_000
    """Total steps to reach, and the annealing horizon unless --schedule-steps says otherwise."""
    hz: float = 100.0
    """Frame rate of the motion [1/s]."""
    optimiser: Literal["adamw", "adam", "adamax"] = "adamw"
    """Update rule."""
    learning_rate: float = 3e-4
    """At the first step (after the warm-up, where there is one)."""
    learning_rate_end: float | None = None
    """At the end of the schedule; None keeps the rate constant."""
    learning_rate_decay: Literal["exponential", "cosine"] = "exponential"
    """How the learning rate gets from its start to its end."""
    warm_up: float = 0.0
    """Share of the schedule during which the rate rises linearly to its start value."""
    warm_up_from: float = 0.2
    """First learning rate of the warm-up as a share of the start value."""
    weight_decay: float = 1e-4
    """Decoupled (adamw) or as a gradient (adam, adamax)."""
    adaptive_clipping: float | None = 1.0
    """Largest allowed ratio of gradient norm to weight norm, per output unit; None does not clip."""
    micro_batches: int = 1
    """Parts into which a batch is cut for gradient accumulation; must divide the batch."""
    precision: Precision = "float32"
    """Arithmetic of the networks' bodies (tf32: CUDA only); returns, weights and losses stay in float32."""
    validation_steps: int = 0
    """Steps between two validations on held-out data; 0 for none."""
    plateau_factor: float | None = None
    """What the learning rate is multiplied by when validation stops improving; None leaves it to the schedule."""
    plateau_patience: int = 5
    """Validations in a row without improvement that are forgiven."""
    plateau_floor: float = 5e-5
    """Plateaus do not push the learning rate below this."""

    def __post_init__(self) -> None:
        positive = ("batch", "steps", "hz", "learning_rate", "learning_rate_end", "adaptive_clipping", "warm_up_from")
        for name in (*positive, "plateau_floor"):
            if getattr(self, name) is not None:
                check_positive(**{name: getattr(self, name)})
        check_choice("optimiser", self.optimiser, ("adamw", "adam", "adamax"))
        check_choice("learning_rate_decay", self.learning_rate_decay, ("exponential", "cosine"))
        check_choice("precision", self.precision, PRECISIONS)
        if not 0.0 <= self.warm_up < 1.0:
            raise ValueError(f"warm_up must be in [0, 1), got {self.warm_up}")
        if self.micro_batches < 1 or self.batch % self.micro_batches:
            raise ValueError(f"micro_batches must divide batch={self.batch}, got {self.micro_batches}")
        if self.weight_decay < 0.0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")
        if self.validation_steps < 0 or self.plateau_patience < 0:
            raise ValueError(
                "validation_steps and plateau_patience must be >= 0, "
                f"got {self.validation_steps} and {self.plateau_patience}"
            )
        if self.plateau_factor is not None and not (0.0 < self.plateau_factor < 1.0 and self.validation_steps):
            raise ValueError(
                "plateau_factor must be in (0, 1) and needs validation_steps > 0, "
                f"got {self.plateau_factor} and {self.validation_steps}"
            )


MethodConfig = TypeVar("MethodConfig")


@dataclass(frozen=True, kw_only=True)
class Preset(Generic[MethodConfig]):
    """A complete recipe."""

    method: MethodConfig
    """Configuration of the method."""
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    """How it is trained."""
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """Distribution of data given codes."""


@dataclass(frozen=True, kw_only=True)
class Method(Generic[MethodConfig]):
    """One member of the registry; a file in methods/ exposes a tuple of these as METHODS."""

    name: str
    """What the user types."""
    summary: str
    """One line for --help and tables."""
    config_class: type[MethodConfig]
    """Frozen dataclass of the method."""
    build: Callable[[MethodConfig, Domain], DiscreteAutoencoder]
    """Makes an untrained model; weights come from torch's global generator (see registry.build_model)."""
    presets: Mapping[str, Callable[[], Preset[MethodConfig]]]
    """Recipes for motion, at least ``paper`` and ``small``; other domains keep theirs in their own folders."""
