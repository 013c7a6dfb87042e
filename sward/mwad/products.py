"""Precision of MWAD's matrix products on a CPU: float32, or factors in bfloat16 with sums and results in float32.

Processors with bfloat16 instructions multiply such factors at a multiple of float32's rate. oneDNN rounds the factors
itself, so everything else stays as it is. On other processors, and on GPUs, products stay in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@cache
def fast_bfloat16() -> bool:
    """Whether this processor has bfloat16 products (avx512_bf16 or amx_bf16), and torch can be told to use them."""
    if _setting() is None or not hasattr(torch.cpu, "get_capabilities"):
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """Context in which products of float32 matrices on a CPU have factors of ``precision``, float32 or bfloat16."""
    setting = _setting()
    if setting is None or device.type != "cpu" or (precision == "bfloat16" and not fast_bfloat16()):
        yield
        return
    before = setting.fp32_precision
    setting.fp32_precision = "bf16" if precision == "bfloat16" else "ieee"
    try:
        yield
    finally:
        setting.fp32_precision = before


def precision_of_products() -> str:
    """Precision of the factors at present, for a backward pass that has that of its forward pass."""
    setting = _setting()
    return "bfloat16" if setting is not None and setting.fp32_precision == "bf16" else "float32"


def _setting() -> Any:
    """Torch's setting of oneDNN's products; None before torch 2.9."""
    return getattr(torch.backends.mkldnn, "matmul", None)
