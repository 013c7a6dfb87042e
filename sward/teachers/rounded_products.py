"""Bfloat16 autocast on processors without bfloat16 instructions: factors are rounded, products are computed in float32.

Torch's own bfloat16 products are several times slower than float32's there (5 to 7 times for Hiera-T at 512², AVX2);
these take a third more than float32 and differ from a bfloat16 processor's by the order of their sums, as two such
processors do. So a store that was begun on one machine can be continued on another.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_ATEN = torch.ops.aten
SLOW = {  # what torch computes slowly in bfloat16 there, and a teacher is made of
    _ATEN.addmm.default,
    _ATEN.mm.default,
    _ATEN.bmm.default,
    _ATEN.baddbmm.default,
    _ATEN.convolution.default,
    _ATEN.gelu.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
}


def slow_bfloat16(device: torch.device) -> bool:
    """Whether torch computes bfloat16 products on this device without oneDNN: on CPUs without AVX-512."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # the question torch's products ask
    return device.type == "cpu" and supported is not None and not supported()


class RoundedProducts(TorchDispatchMode):
    """Context in which products of bfloat16 tensors are computed in float32 and their results rounded to bfloat16."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation of torch."""
        named = kwargs or {}
        if torch.is_inference_mode_enabled() and op not in SLOW:  # linear and conv2d arrive undivided there
            with self:
                parts = op.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        if op not in SLOW or not any(isinstance(x, Tensor) and x.dtype == torch.bfloat16 for x in args):
            return op(*args, **named)
        return tree_map(_rounded, op(*tree_map(_widened, args), **tree_map(_widened, named)))


def _widened(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x


def _rounded(x: Any) -> Any:
    return x.bfloat16() if isinstance(x, Tensor) and x.dtype == torch.float32 else x
