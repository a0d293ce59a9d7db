"""What every discrete autoencoder is to the rest of the project: the contract sits at the objective.

A ``quantise(z)`` interface cannot express DAPS, whose encoder is trained by weighted maximum likelihood on whole code
sequences. So a method owns its loss; everybody else sees codes, a distribution over segments and named loss terms.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from motionlex.motion_vae.networks.trajectory import SegmentShape


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A batch of encoded segments."""

    indices: Int[Tensor, "batch token"]
    """One code per token."""
    log_prob: Float[Tensor, " batch"] | None
    """log q(z|x) [nat]; None for a deterministic encoder."""
    embeddings: Float[Tensor, "batch token feature"] | None
    """What the generative network sees for these codes."""


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
    """AdamW learning rate; None takes that of the training configuration."""
    weight_decay: float | None = None
    """AdamW weight decay; None takes that of the training configuration."""
    adaptive_clipping: bool = True
    """Whether gradients are clipped relative to the size of the weights."""


class DiscreteAutoencoder(nn.Module, ABC):
    """An autoencoder of segments (batch, frame, feature) with codes (batch, token)."""

    discrete: ClassVar[bool] = True
    """False exempts continuous relatives from checks of codes."""
    shape: SegmentShape
    vocabulary: int
    tokens: int

    @abstractmethod
    def encode(self, x: Float[Tensor, "batch frame feature"], generator: torch.Generator) -> Codes:
        """Draw (or compute) one code sequence per segment."""

    @abstractmethod
    def decode(self, indices: Int[Tensor, "batch token"]) -> Independent:
        """Distribution over standardised segments: ``.mean`` (batch, frame, feature), ``.log_prob`` (batch,) [nat]."""

    @abstractmethod
    def embed(self, indices: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token feature"]:
        """Look codes up in the codebook."""

    @property
    @abstractmethod
    def codebook(self) -> Float[Tensor, "code feature"]:
        """Embedding of every code as the generative network sees it."""

    @abstractmethod
    def loss(
        self, x: Float[Tensor, "batch frame feature"], generator: torch.Generator, *, progress: float
    ) -> LossTerms:
        """Evaluate the objective; ``progress`` is step / schedule_steps and drives annealing."""

    @abstractmethod
    def kl_to_prior(
        self, x: Float[Tensor, "batch frame feature"], indices: Int[Tensor, "batch token"]
    ) -> Float[Tensor, " batch"]:
        """Divergence [nat] of q(z|x) from the uniform prior, by its conditionals along ``indices``."""

    @abstractmethod
    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """All trainable parameters, each in exactly one group."""

    @property
    @abstractmethod
    def final_beta(self) -> float | None:
        """Weight of the KL in the reported beta-ELBO; None where the objective has no ELBO."""

    def after_update(self) -> None:
        """Restore invariants after an optimiser step (clamps, moving averages); nothing by default."""


def fixed_variance_normal(mean: Float[Tensor, "batch frame feature"], variance: float) -> Independent:
    """Build the Gaussian over segments whose ``log_prob`` sums over frames and features."""
    return Independent(Normal(mean, variance**0.5, validate_args=False), 2, validate_args=False)


@runtime_checkable
class SegmentSampler(Protocol):
    """Where the trainer gets its batches: motionlex.data.segments.SegmentSource is one."""

    def sample(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch frame feature"]:
        """Draw standardised segments."""
        ...


@dataclass(frozen=True, kw_only=True)
class OptimisationConfig:
    """How a method is trained."""

    batch: int = 256
    """Segments per step."""
    steps: int = 250_000
    """Total steps to reach, and the annealing horizon unless --schedule-steps says otherwise."""
    hz: float = 100.0
    """Frame rate of the motion [1/s]."""
    learning_rate: float = 3e-4
    """AdamW, at the first step."""
    learning_rate_end: float | None = None
    """AdamW at the end of the schedule, reached exponentially; None keeps the rate constant."""
    weight_decay: float = 1e-4
    """AdamW."""
    adaptive_clipping: float = 1.0
    """Largest allowed ratio of gradient norm to weight norm, per output unit."""

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "hz", "learning_rate", "adaptive_clipping"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.learning_rate_end is not None and not self.learning_rate_end > 0.0:
            raise ValueError(f"learning_rate_end must be positive, got {self.learning_rate_end}")
        if self.weight_decay < 0.0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")


MethodConfig = TypeVar("MethodConfig")


@dataclass(frozen=True, kw_only=True)
class Preset(Generic[MethodConfig]):
    """A complete recipe."""

    method: MethodConfig
    """Configuration of the method."""
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    """How it is trained."""


@dataclass(frozen=True, kw_only=True)
class Method(Generic[MethodConfig]):
    """One member of the registry; a file in methods/ exposes a tuple of these as METHODS."""

    name: str
    """What the user types."""
    summary: str
    """One line for --help and tables."""
    config_class: type[MethodConfig]
    """Frozen dataclass of the method."""
    build: Callable[[MethodConfig, SegmentShape], DiscreteAutoencoder]
    """Makes an untrained model; weights come from torch's global generator (see registry.build_model)."""
    presets: Mapping[str, Callable[[], Preset[MethodConfig]]]
    """At least ``paper`` and ``small``."""
