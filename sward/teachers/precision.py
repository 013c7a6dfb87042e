"""Precision in which a teacher runs: float32 without TF32, or bfloat16 autocast in all but its small, sensitive layers.

Measured with SAM 2's Hiera-T on colonoscopy frames, relative to float32, autocast changes s4, s8, s16, s32 by 1.0, 2.3,
3.1 and 3.8 %; with patch embedding and the projections between stages in float32 (about 1 % of the FLOPs) by 0.4, 1.2,
1.7 and 2.0 %. TF32, which cuDNN uses in convolutions unless told otherwise, would change a float32 teacher's s32 by
0.3 %, more than a half-precision store's tolerance, for a patch embedding that takes 0.2 % of the FLOPs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def teacher_precision(device: torch.device, bfloat16: bool) -> Iterator[None]:
    """Context of a teacher's forward pass: no TF32, and bfloat16 autocast if asked for, on CPUs as on GPUs."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        if bfloat16 and device.type in ("cpu", "cuda"):
            with torch.autocast(device.type, torch.bfloat16):
                yield
        else:
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def keep_sensitive_layers(net: Any) -> None:
    """Keeps patch embedding and the projections between stages in float32 under autocast, in place."""
    blocks = [block for block in getattr(net, "blocks", ()) if isinstance(getattr(block, "proj", None), nn.Module)]
    layers = [getattr(net, "patch_embed", None), *(block.proj for block in blocks)]
    for layer in layers:
        if isinstance(layer, nn.Module):
            keep_float32(layer)


def keep_float32(layer: nn.Module) -> None:
    """Makes a layer compute in float32 also under autocast, in place."""
    forward = layer.forward

    def wide(x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if not torch.is_autocast_enabled(x.device.type):
            return forward(x, *rest, **named)
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float(), *rest, **named)

    layer.forward = wide
