"""Networks between motion segments (batch, frame, feature) and token sequences: conv1d resampling and a transformer."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from motionlex.motion_vae.networks.transformer import Encoder, TransformerConfig

KERNEL, STRIDE, PADDING = 4, 2, 1
"""Resampling convolutions of DAPS, appendix J.1; this padding makes tokens = 2 * frames exactly."""


@dataclass(frozen=True, kw_only=True)
class SegmentShape:
    """What a segment of motion looks like to the networks."""

    frames: int = 32
    """Frames of a segment."""
    features: int = 121
    """Standardised features per frame."""

    @property
    def tokens(self) -> int:
        """Codes per segment."""
        return STRIDE * self.frames


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    """Networks on both sides of the codes."""

    vocabulary: int = 1024
    """Number of codes."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Shape of every transformer stack."""

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise ValueError(f"vocabulary must be at least 2, got {self.vocabulary}")


class TrajectoryEncoder(nn.Module):
    """Segment -> one vector per token: transposed conv1d (frame -> 2 tokens), then encoder blocks."""

    def __init__(self, shape: SegmentShape, config: TransformerConfig) -> None:
        super().__init__()
        self.resample = nn.ConvTranspose1d(shape.features, config.width, KERNEL, stride=STRIDE, padding=PADDING)
        self.transformer = Encoder(config, shape.tokens)

    def forward(self, x: Float[Tensor, "batch frame feature"]) -> Float[Tensor, "batch token width"]:
        """Encode standardised features."""
        return self.transformer(self.resample(x.transpose(1, 2)).transpose(1, 2))


class TrajectoryDecoder(nn.Module):
    """Code embeddings -> mean of a segment: encoder blocks, conv1d (2 tokens -> frame), two dense layers.

    The hidden dense layer is not in the paper's text; the authors' parameter count (624,633) contains it.
    """

    def __init__(self, shape: SegmentShape, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer = Encoder(config, shape.tokens)
        self.resample = nn.Conv1d(config.width, config.width, KERNEL, stride=STRIDE, padding=PADDING)
        self.output = nn.Sequential(
            nn.Linear(config.width, config.width), nn.ReLU(), nn.Linear(config.width, shape.features)
        )

    def forward(self, embeddings: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch frame feature"]:
        """Decode code embeddings to standardised features."""
        tokens = self.transformer(embeddings)
        return self.output(self.resample(tokens.transpose(1, 2)).transpose(1, 2))
