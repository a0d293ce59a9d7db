"""Data-parallel training with torch.distributed: what must be averaged over ranks, and where."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def world_size() -> int:
    """Return the number of ranks; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank; 0 without torchrun."""
    return dist.get_rank() if world_size() > 1 else 0


def synchronised_sum(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Sum a tensor over ranks, without gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def synchronised_mean(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Average a batch statistic over ranks, keeping the gradient of the local one.

    A loss f(m) of a batch mean m = mean_r m_r has the gradient f'(m) mean_r dm_r. With the value of m and the gradient
    of m_r on rank r, gradients averaged over ranks are exactly those of the whole batch, whatever f is.

    Args:
        value: m_r, the mean over this rank's part of the batch; the parts are of equal size.

    Returns:
        m, with the gradient of m_r.
    """
    if world_size() == 1:
        return value
    return value + (synchronised_sum(value) / world_size() - value.detach())


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks; one message carries them all."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


def broadcast_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
