"""What a method asks of the kind of data it encodes: networks between data and tokens, and a likelihood.

A method never knows whether it encodes motion or images. Data are always (batch, item, feature): frames of a segment
with their features, or pixels of an image with their colours. A domain is a frozen dataclass that is saved with the
run; every sub-package of ``motionlex.motion_vae`` with a module ``domain`` exposing ``DOMAIN`` adds one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from motionlex.motion_vae.likelihoods import LikelihoodHead
from motionlex.motion_vae.networks.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the networks on both sides of the codes."""

    width: int = 128
    """Features per token."""
    heads: int = 4
    """Attention heads; must divide the width."""
    layers: int = 2
    """Blocks of the recognition network (and of its autoregressive decoder, where there is one)."""
    mlp_ratio: int = 4
    """Hidden units of the MLP per feature."""
    generator_layers: int = 2
    """Blocks of the generative network, where the domain's has transformer blocks."""

    def __post_init__(self) -> None:
        if self.generator_layers < 1:
            raise ValueError(f"generator_layers must be at least 1, got {self.generator_layers}")
        _ = self.recognition  # TransformerConfig checks the other fields

    @property
    def recognition(self) -> TransformerConfig:
        """Shape of the recognition network's stacks."""
        return TransformerConfig(width=self.width, heads=self.heads, layers=self.layers, mlp_ratio=self.mlp_ratio)

    @property
    def generator(self) -> TransformerConfig:
        """Shape of the generative network's stack."""
        return TransformerConfig(
            width=self.width, heads=self.heads, layers=self.generator_layers, mlp_ratio=self.mlp_ratio
        )


class Encoder(nn.Module, ABC):
    """Data -> one vector per token."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token width"]:
        """Encode."""


class Decoder(nn.Module, ABC):
    """Embeddings of a token sequence -> distribution over data; leading axes are kept."""

    @abstractmethod
    def forward(self, embeddings: Float[Tensor, "*batch token width"]) -> Distribution:
        """Decode; the distribution's ``mean`` is (*batch, item, feature), its ``log_prob`` (*batch,) [nat]."""


class Domain(ABC):
    """A kind of data, with its networks. Subclasses are frozen dataclasses of plain values."""

    kind: ClassVar[str]
    """Name in saved configurations."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Arrangement of the items: (frames,) or (height, width); convolutional methods work on it."""

    @property
    @abstractmethod
    def features(self) -> int:
        """Values per item."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Codes per example, as :meth:`encoder` and :meth:`decoder` arrange them."""

    @abstractmethod
    def encoder(self, config: NetworkConfig) -> Encoder:
        """Build the network from data to tokens."""

    @abstractmethod
    def decoder(self, config: NetworkConfig) -> Decoder:
        """Build the network from tokens of ``config.width`` features to a distribution over data."""

    @abstractmethod
    def likelihood(self) -> LikelihoodHead:
        """Build the head alone, for methods with generative networks of their own."""
