"""Segments of motion (batch, frame, feature): conv1d resampling between frames and tokens, and a transformer."""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from motionlex.motion_vae import domain
from motionlex.motion_vae.domain import NetworkConfig
from motionlex.motion_vae.likelihoods import Family, LikelihoodConfig, LikelihoodHead
from motionlex.motion_vae.networks.transformer import Encoder, TransformerConfig
from motionlex.motion_vae.options import check_positive

KERNEL, STRIDE, PADDING = 4, 2, 1
"""Resampling convolutions of DAPS, appendix J.1; this padding makes tokens = 2 * frames exactly."""
MOTION_FAMILIES: tuple[Family, ...] = ("gaussian", "learned_gaussian", "predicted_gaussian")


@dataclass(frozen=True, kw_only=True)
class TrajectoryDomain(domain.Domain):
    """Segments of standardised motion features."""

    kind: ClassVar[str] = "trajectory"

    frames: int = 32
    """Frames of a segment."""
    features: int = 121  # type: ignore[assignment]
    """Standardised features per frame."""
    likelihood_config: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """Distribution of a segment given its codes."""

    def __post_init__(self) -> None:
        check_positive(frames=self.frames, features=self.features)
        if self.likelihood_config.family not in MOTION_FAMILIES:
            raise ValueError(
                f"family of a motion likelihood must be one of {', '.join(MOTION_FAMILIES)} (features are unbounded), "
                f"got {self.likelihood_config.family!r}"
            )

    @property
    def grid(self) -> tuple[int, ...]:
        """(frames,)."""
        return (self.frames,)

    @property
    def tokens(self) -> int:
        """Codes per segment."""
        return STRIDE * self.frames

    def encoder(self, config: NetworkConfig) -> "TrajectoryEncoder":
        """Transposed conv1d, then encoder blocks."""
        return TrajectoryEncoder(self, config.recognition)

    def decoder(self, config: NetworkConfig) -> "TrajectoryDecoder":
        """Encoder blocks, conv1d, dense layers, likelihood."""
        return TrajectoryDecoder(self, config.generator)

    def likelihood(self) -> LikelihoodHead:
        """Head of the configured family."""
        return LikelihoodHead(self.likelihood_config, self.features)


class TrajectoryEncoder(domain.Encoder):
    """Segment -> one vector per token: transposed conv1d (frame -> 2 tokens), then encoder blocks."""

    def __init__(self, shape: TrajectoryDomain, config: TransformerConfig) -> None:
        super().__init__()
        self.resample = nn.ConvTranspose1d(shape.features, config.width, KERNEL, stride=STRIDE, padding=PADDING)
        self.transformer = Encoder(config, shape.tokens)

    def forward(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token width"]:
        """Encode standardised features."""
        return self.transformer(self.resample(x.transpose(1, 2)).transpose(1, 2))


class TrajectoryDecoder(domain.Decoder):
    """Code embeddings -> distribution over segments: encoder blocks, conv1d (2 tokens -> frame), two dense layers.

    The hidden dense layer is not in the paper's text; the authors' parameter count (624,633) contains it.
    """

    def __init__(self, shape: TrajectoryDomain, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer = Encoder(config, shape.tokens)
        self.resample = nn.Conv1d(config.width, config.width, KERNEL, stride=STRIDE, padding=PADDING)
        self.likelihood = shape.likelihood()
        self.output = nn.Sequential(
            nn.Linear(config.width, config.width), nn.ReLU(), nn.Linear(config.width, self.likelihood.channels)
        )

    def forward(self, embeddings: Float[Tensor, "*batch token width"]) -> Distribution:
        """Decode code embeddings to a distribution over standardised features."""
        tokens = self.transformer(embeddings.reshape(-1, *embeddings.shape[-2:]))
        raw = self.output(self.resample(tokens.transpose(1, 2)).transpose(1, 2))
        return self.likelihood(raw.view(*embeddings.shape[:-2], *raw.shape[1:]))


DOMAIN = TrajectoryDomain
