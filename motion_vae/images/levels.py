"""What every level of an RRVQ-VAE carries: bits of its codes under the prior, images from the coarsest levels alone.

Levels are counted as they are drawn and sent, the coarsest first.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from motionlex.motion_vae.losses import gathered_log_prob
from motionlex.motion_vae.methods.rrvq import RRVQ


@torch.no_grad()
def most_probable_codes(model: RRVQ, x: Float[Tensor, "batch item feature"]) -> Int[Tensor, "batch token"]:
    """Encode without chance: the most probable code of q for every token, level by level.

    Args:
        model: In evaluation mode.
        x: Data.

    Returns:
        Codes in the order of the method, the coarsest level first.
    """
    chosen: list[Tensor] = []

    def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
        assert posterior is not None
        chosen.append(model.responsibilities(layer, posterior).argmax(dim=-1))
        return model.means[layer][chosen[-1]]

    model.walk(model.ladder.bottom_up(x), len(x), choose)
    return torch.cat(chosen, dim=1)


@torch.no_grad()
def level_bits(model: RRVQ, indices: Int[Tensor, "batch token"]) -> Float[Tensor, "batch level"]:
    r"""Information of the codes of every level under the learned prior.

    .. math:: -\log_2 p(z_\ell | z_{>\ell})

    Args:
        model: In evaluation mode.
        indices: Codes, the coarsest level first.

    Returns:
        Bits, the coarsest level first; their sum is what an ideal entropy coder spends on the codes.
    """
    parts = model.by_layer(indices)
    bits: list[Tensor] = []

    def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
        logits = model.prior_logits(layer, prior)
        embedded = model.means[layer][parts[layer]]
        if logits is None:
            bits.append(embedded.new_full((len(indices),), parts[layer].shape[1] * math.log2(model.vocabulary)))
        else:
            bits.append(gathered_log_prob(logits, parts[layer]) / -math.log(2.0))
        return embedded

    model.ancestors(len(indices), choose)
    return torch.stack(bits, dim=1)


@torch.no_grad()
def decode_levels(model: RRVQ, indices: Int[Tensor, "batch token"], kept: int) -> Distribution:
    """Decode the coarsest levels; every finer one takes the most probable code of p given those above it.

    Args:
        model: In evaluation mode.
        indices: Codes of all levels, the coarsest first.
        kept: Levels that are used, at least one: the topmost p is uniform.

    Returns:
        Distribution over data.
    Source: progressive decoding as in Gregor et al. 2016, who draw the finer levels from p.
    """
    assert 1 <= kept <= model.layers, f"kept must be 1 to {model.layers}, got {kept}"
    parts = model.by_layer(indices)

    def choose(layer: int, posterior: Tensor | None, prior: Tensor | None) -> Tensor:
        if layer >= model.layers - kept:
            return model.means[layer][parts[layer]]
        logits = model.prior_logits(layer, prior)
        assert logits is not None
        return model.means[layer][logits.argmax(dim=-1)]

    return model.likelihood(model.ancestors(len(indices), choose))
