"""One formula for numpy arrays and torch tensors: the CPU's threads and the GPU's worlds share every function."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import array_api_compat.numpy
import array_api_compat.torch
import numpy as np
import torch

Array = np.ndarray | torch.Tensor
"""What array-agnostic functions take and give back; all arguments of a call are of one kind."""


def namespace(x: Array | np.generic) -> ModuleType:
    """Return the array functions (Python array API standard) for the library of ``x``."""
    return array_api_compat.torch if isinstance(x, torch.Tensor) else array_api_compat.numpy


def like(x: Array, value: np.ndarray) -> Array:
    """Return a constant as an array of the library, kind and device of ``x``."""
    return value if isinstance(x, np.ndarray) else torch.as_tensor(value, dtype=x.dtype, device=x.device)


@functools.cache
def _index(places: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(places, device=device)


def pick(x: Array, places: tuple[int, ...]) -> Array:
    """Return ``x[:, places]``; a GPU keeps the places, where a list would be sent anew each time and waited for."""
    return x[:, list(places)] if isinstance(x, np.ndarray) else x[:, _index(places, x.device)]


def stack_last(parts: Sequence[Array | np.generic]) -> Array:
    """Stack components along a new last axis; each stays contiguous in memory, which makes later uses fast."""
    xp = namespace(parts[0])
    stacked = xp.stack(xp.broadcast_arrays(*parts), axis=0)
    return xp.permute_dims(stacked, (*range(1, stacked.ndim), 0))


def columns(x: Array) -> Array:
    """Return the same (row, column) array with every column contiguous in memory."""
    return np.ascontiguousarray(x.T).T if isinstance(x, np.ndarray) else x.T.contiguous().T


def single(x: Array) -> Array:
    """Return floating-point numbers in single precision."""
    return x.astype(np.float32, order="K") if isinstance(x, np.ndarray) else x.float()


def clamp(x: Array, low: Array | float, high: Array | float) -> Array:
    """Return x limited to [low, high]; the bounds broadcast."""
    if isinstance(x, np.ndarray):
        return np.minimum(np.maximum(x, low), high)
    if not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor):
        return x.clamp(low, high)  # numbers stay on the host; as tensors they would be sent to the device
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in (low, high))
    return torch.minimum(torch.maximum(x, low), high)
