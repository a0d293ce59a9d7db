"""The score by which a plateau of training is recognised: the beta-ELBO of fixed held-out examples."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from motionlex.motion_vae.contract import DiscreteAutoencoder


def held_out_score(
    model: DiscreteAutoencoder, x: Float[Tensor, "example item feature"], *, batch: int, seed: int
) -> Callable[[], float]:
    r"""Make a function that scores a model on the same examples with the same noise every time.

    .. math:: \frac{1}{N} \sum_x \ln p(x|z) - \beta\, D(q(z|x) \| p(z)), \quad z \sim q(z|x)

    with the beta at the end of the schedule, and without the divergence where the method has no ELBO.

    Args:
        model: Scored as it is when the function is called, on its own device.
        x: Held-out examples.
        batch: Examples at once.
        seed: Of the one code sample per example.

    Returns:
        A function that gives the mean over examples [nat], higher is better.
    """
    beta = model.final_beta or 0.0

    @torch.no_grad()
    def score() -> float:
        device = next(model.parameters()).device
        generator = torch.Generator(device=device).manual_seed(seed)
        total = 0.0
        for part in x.split(batch):
            part = part.to(device)
            codes = model.encode(part, generator)
            value = model.decode(codes).log_prob(part)
            if beta > 0.0:
                value = value - beta * model.kl_to_prior(part, codes)
            total += value.double().sum().item()
        return total / len(x)

    return score
