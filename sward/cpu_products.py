"""Matrix products on a CPU: the library that computes them, and the precision of their factors.

Factors in bfloat16, with sums and results in float32: processors with bfloat16 tiles (AMX) multiply these at a multiple
of float32's rate. oneDNN rounds the factors itself, so everything else stays as it is. On other processors, and on
GPUs, products stay in float32.

float32: torch gives them to MKL, which does not use AVX-512 on AMD's processors. oneDNN does, and is there twice as
fast. Torch asks it for products of float32 matrices only where their factors may be rounded; without tiles it does not
round them, which is checked once. The setting is the process's, so one thread at a time is in the context.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from threading import RLock
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

SETTING: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # set when it is imported; of oneDNN's products
ONE_THREAD = RLock()  # two would put back each other's setting
AVX512 = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq")  # what torch wants before it asks oneDNN


@cache
def fast_bfloat16() -> bool:
    """Whether this processor has tiles of bfloat16 (amx_bf16), and torch can use them for float32 matrices."""
    return bool(_processor().get("amx_bf16"))


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies float32 matrices faster than MKL here, and does not round their factors."""
    found = _processor()
    if "AMD" not in str(found.get("cpu_name")) or found.get("amx_bf16"):
        return False
    return all(found.get(name) for name in AVX512) and _factors_are_kept()


@contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """Context in which products of float32 matrices on a CPU have factors of ``precision``, float32 or bfloat16."""
    if device.type != "cpu":
        yield
        return
    with _set("bf16" if onednn_is_faster() or (precision == "bfloat16" and fast_bfloat16()) else "ieee"):
        yield


def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The dot product of two vectors on a CPU, never by oneDNN: it takes twelve times as long for it."""
    with _set("ieee"):
        return torch.dot(x, y)


def precision_of_products() -> str:
    """Precision of the factors at present, for a backward pass that has that of its forward pass."""
    return "bfloat16" if SETTING.fp32_precision == "bf16" and fast_bfloat16() else "float32"


def _factors_are_kept() -> bool:
    """Whether oneDNN gives a product that has other values once a factor is rounded to bfloat16.

    It is computed also where the caller's tensors are without values (fake ones).
    """
    where: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    with _disable_current_modes(), _set("bf16"), torch.autocast("cpu", enabled=False):
        factor = torch.full((128, 128), 1 + 2**-12, **where)
        return bool((factor @ torch.eye(128, **where) == factor).all())


@contextmanager
def _set(value: str) -> Iterator[None]:
    with ONE_THREAD:
        before = SETTING.fp32_precision
        SETTING.fp32_precision = value
        try:
            yield
        finally:
            SETTING.fp32_precision = before


def _processor() -> Mapping[str, Any]:
    """Name and instruction sets of the processor, as torch knows them; empty in versions that do not."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
