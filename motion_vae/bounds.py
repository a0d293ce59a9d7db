"""Importance-weighted bounds on log p(x) for any method with a stochastic encoder."""

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.contract import DiscreteAutoencoder
from motionlex.motion_vae.metrics import importance_weighted_bound

LARGEST_ROWS = 1024
"""Examples times samples that are encoded and decoded at once; bounds the memory."""


@torch.no_grad()
def log_importance_weights(
    model: DiscreteAutoencoder,
    x: Float[Tensor, "batch item feature"],
    samples: int,
    generator: torch.Generator,
    *,
    largest_rows: int = LARGEST_ROWS,
) -> Float[Tensor, "batch sample"] | None:
    """Draw codes and weigh them.

    Args:
        model: The autoencoder.
        x: Data.
        samples: K: codes per example.
        generator: Source of the codes, on the model's device.
        largest_rows: Rows that the networks see at once; never less than the batch.

    Returns:
        ln p(x|z) + ln p(z) - ln q(z|x) [nat], float64; None for a deterministic encoder, which has no log q.
    """
    at_once = max(1, largest_rows // len(x))
    parts = []
    for first in range(0, samples, at_once):
        count = min(at_once, samples - first)
        repeated = x.repeat_interleave(count, dim=0)
        codes = model.encode(repeated, generator)
        if codes.log_prob is None or codes.log_prior is None:
            return None
        log_likelihood = model.decode(codes).log_prob(repeated)
        weights = log_likelihood.double() + codes.log_prior.double() - codes.log_prob.double()
        parts.append(weights.view(len(x), count))
    return torch.cat(parts, dim=1)


def iwae_bounds(
    model: DiscreteAutoencoder,
    x: Float[Tensor, "batch item feature"],
    samples: int,
    generator: torch.Generator,
    *,
    batch: int,
) -> Float[Tensor, " batch"] | None:
    """Estimate the K-sample bound [nat] of every example, a batch at a time; None for a deterministic encoder.

    Args:
        model: The autoencoder.
        x: Data, on the model's device.
        samples: K.
        generator: Source of the codes, on the model's device.
        batch: Examples at once.
    """
    bounds = []
    for part in x.split(batch):
        weights = log_importance_weights(model, part, samples, generator)
        if weights is None:
            return None
        bounds.append(importance_weighted_bound(weights).cpu())
    return torch.cat(bounds)
