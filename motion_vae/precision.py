"""Arithmetic of the networks' bodies: float32, TF32 or bfloat16; what they are compared by stays in float32."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from motionlex.data.errors import UserError

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16")


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that the device has not.

    Raises:
        UserError: If TF32 is wanted elsewhere than on CUDA, or bfloat16 on a GPU without it.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"precision tf32 needs a CUDA device, got {device.type!r}: take float32 or bf16")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(f"{torch.cuda.get_device_name(device)} has no bf16: take float32 or tf32")


@contextlib.contextmanager
def float32_arithmetic(precision: Precision) -> Iterator[None]:
    """Choose the arithmetic of float32 tensors, by settings of the process; backward passes, too, must run within.

    Args:
        precision: Of the body. tf32: matrix products and convolutions in TF32; float32: neither; bf16: products in
            float32 (what autocast leaves to them needs it), convolutions as cuDNN likes.
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Run matrix products in the precision of their factors, whatever that of the body: neither autocast nor TF32.

    Args:
        device: Where the factors are.
    """
    products = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)


@contextlib.contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run matrix products and convolutions of the body in this precision; weights stay in float32.

    It is for forward passes. A backward pass runs in :func:`float32_arithmetic`: autocast has chosen its types already.

    The cache of cast weights is off: before torch 2.10 it kept casts made under ``no_grad`` (by a sampler) and handed
    them to the pass with gradients, which then lost those of the weights. The sampler turns it on for itself.

    Args:
        precision: float32; tf32 (CUDA only); bf16, by autocast.
        device: Where the networks are.
    """
    with float32_arithmetic(precision):
        if precision == "bf16":
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                yield
        else:
            yield


@contextlib.contextmanager
def cached_casts(device: torch.device) -> Iterator[None]:
    """Cast each weight once while the same networks run many times without gradient; nothing outside autocast."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=True):
        try:
            yield
        finally:
            torch.clear_autocast_cache()
