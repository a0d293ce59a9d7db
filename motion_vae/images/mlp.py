"""Fully connected networks between all pixels and all tokens (generator of DAPS on MNIST, both of the tutorial)."""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from motionlex.motion_vae import domain
from motionlex.motion_vae.likelihoods import LikelihoodHead


def dense_layers(sizes: Sequence[int]) -> nn.Sequential:
    """Dense layers from the first to the last size with a ReLU between any two."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.ReLU(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers[1:])


class MLPEncoder(domain.Encoder):
    """All values of the image -> hidden layers -> all features of all tokens.

    Args:
        hidden: Sizes of the hidden layers.
        values: Pixels times colours.
        tokens: Codes per image.
        width: Features per token.
    Source: Tutorial, 784-512-256-(4 latents x 8).
    """

    def __init__(self, hidden: Sequence[int], *, values: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.layers = dense_layers((values, *hidden, tokens * width))

    def forward(self, x: Float[Tensor, "batch item feature"]) -> Float[Tensor, "batch token width"]:
        """Encode pixels."""
        return self.layers(x.flatten(1)).unflatten(1, (self.tokens, -1))


class MLPDecoder(domain.Decoder):
    """Embeddings of all tokens, concatenated -> hidden layers -> all pixels.

    That the embeddings are concatenated follows from the authors' parameter count on MNIST: 256 x 64 (codebook) +
    (8 * 64 + 1) * 64 + 65 * 256 + 257 * 784 = 267,344.

    Args:
        hidden: Sizes of the hidden layers.
        pixels: Items of the image.
        tokens: Codes per image.
        width: Features per token.
        likelihood: Head on the outputs.
    Source: DAPS, appendix I.3 (hidden layers 64, 256); tutorial, (4 x 8)-256-512-784.
    """

    def __init__(
        self, hidden: Sequence[int], *, pixels: int, tokens: int, width: int, likelihood: LikelihoodHead
    ) -> None:
        super().__init__()
        self.pixels, self.likelihood = pixels, likelihood
        self.layers = dense_layers((tokens * width, *hidden, pixels * likelihood.channels))

    def forward(self, embeddings: Float[Tensor, "*batch token width"]) -> Distribution:
        """Decode code embeddings to a distribution over pixels."""
        return self.likelihood(self.layers(embeddings.flatten(-2)).unflatten(-1, (self.pixels, -1)))
