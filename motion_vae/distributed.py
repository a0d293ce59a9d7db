"""Data-parallel training with torch.distributed: what must be averaged over ranks, and where.

Every rank draws the same batch and keeps its own rows, so that data do not depend on the number of ranks.
"""

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from motionlex.data.errors import UserError

Item = TypeVar("Item")


def launched_ranks() -> int:
    """Return how many ranks torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """Return which of them this process is, before they have found each other; 0 without torchrun."""
    return int(os.environ.get("RANK", "0")) if launched_ranks() > 1 else 0


def local_device(name: str) -> str:
    """Give every rank of a machine its own GPU.

    Args:
        name: What the user asked for.

    Returns:
        ``cuda:<local rank>`` for ``cuda`` under torchrun, else ``name``.

    Raises:
        UserError: If the ranks would have to share one numbered GPU.
    """
    if launched_ranks() == 1 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise UserError(f"--device {name} under torchrun would put all ranks on one GPU: take --device cuda")
    return f"cuda:{os.environ['LOCAL_RANK']}"


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the ranks that torchrun started: nccl between GPUs, gloo between CPUs; nothing without torchrun.

    torch.distributed.nn takes the group of all ranks as a default argument when it is imported, which dynamo does at
    some later moment. Imported while there is a group, it keeps that group and its threads beyond the end, where one
    that still gives back a tensor aborts the process. So it comes first.
    """
    if launched_ranks() == 1:
        yield
        return
    importlib.import_module("torch.distributed.nn.functional")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


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


def own_rows(batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "part ..."]:
    """Return this rank's contiguous share of a batch; the number of ranks must divide it."""
    part = len(batch) // world_size()
    return batch[rank() * part : (rank() + 1) * part]


def gather(item: Item) -> list[Item]:
    """Collect a (small, picklable) object of every rank, in order; every rank must call it."""
    if world_size() == 1:
        return [item]
    items: list[Item] = [item] * world_size()
    dist.all_gather_object(items, item)
    return items


def on_any(said: bool, device: torch.device) -> bool:
    """Return on every rank whether at least one says so; every rank must call it."""
    if world_size() == 1:
        return said
    return synchronised_sum(torch.tensor(float(said), device=device)).item() > 0.0


def wait_for_all() -> None:
    """Let all ranks come to this point."""
    synchronised_sum(torch.zeros(1))


def from_first(value: float, device: torch.device) -> float:
    """Return rank 0's value on every rank."""
    if world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(shared, src=0)
    return shared.item()
