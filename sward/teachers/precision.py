"""Precision in which a teacher runs: float32 without TF32, or bfloat16 autocast in all but its small, sensitive layers.

Measured with SAM 2's Hiera-T on colonoscopy frames, relative to float32, autocast changes s4, s8, s16, s32 by 1.0, 2.3,
3.1 and 3.8 %; with patch embedding and the projections between stages in float32 (about 1 % of the FLOPs) by 0.4, 1.2,
1.7 and 2.0 %; with the first half of the blocks in float32 too by 0, 0, 0.6 and 0.8 %. TF32, which cuDNN uses in
convolutions unless told otherwise, would change a float32 teacher's s32 by 0.3 %, more than a half-precision store's
tolerance, for a patch embedding that takes 0.2 % of the FLOPs.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from sward.cpu_products import onednn_is_faster, products_in
from sward.teachers.rounded_products import RoundedProducts, slow_bfloat16

AUTOCAST = ("cpu", "cuda")  # device types with bfloat16 autocast; others, like `meta` for shapes, compute as they are


@contextmanager
def teacher_precision(device: torch.device, bfloat16: bool) -> Iterator[None]:
    """Context of a teacher's forward pass: no TF32, and bfloat16 autocast if asked for, on CPUs as on GPUs."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        if bfloat16 and device.type in AUTOCAST:
            products = RoundedProducts() if slow_bfloat16(device) else nullcontext()
            with torch.autocast(device.type, torch.bfloat16), products:
                yield
        else:
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def prepare_layers(net: Any) -> None:
    """Chooses the precision of every teacher's layers, and the library of their products, in place."""
    use_faster_products(net)
    keep_sensitive_layers(net)


def keep_sensitive_layers(net: Any) -> None:
    """Keeps patch embedding and the projections between stages in float32 under autocast, in place."""
    blocks = [block for block in getattr(net, "blocks", ()) if isinstance(getattr(block, "proj", None), nn.Module)]
    layers = [getattr(net, "patch_embed", None), *(block.proj for block in blocks)]
    for layer in layers:
        if isinstance(layer, nn.Module):
            keep_float32(layer)


def keep_first_half(net: Any) -> None:
    """Keeps the first half of a Hiera's blocks in float32 under autocast, in place."""
    for block in net.blocks[: len(net.blocks) // 2]:
        keep_float32(block.attn)
        keep_float32(block.mlp)


class FasterLinear(nn.Linear):
    """A linear layer in the context of ``products_in``: float32 products by the faster library."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with products_in("float32", input.device):
            return super().forward(input)


def use_faster_products(net: nn.Module) -> None:
    """Lets oneDNN multiply in the linear layers where it is faster, in place; small windows of attention would lose."""
    if onednn_is_faster():
        for layer in net.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = FasterLinear


def keep_float32(layer: nn.Module) -> None:
    """Makes a layer compute in float32 also under autocast, in place."""
    forward = layer.forward

    def wide(x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if x.device.type not in AUTOCAST or not torch.is_autocast_enabled(x.device.type):
            return forward(x, *rest, **named)
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float(), *rest, **named)

    layer.forward = wide
