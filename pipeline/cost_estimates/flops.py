"""Counts a teacher's FLOPs per view on the meta device, without weights.

The count is taken by running sam2's own trunk on tensors that have a shape but no data.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from sward.contracts import Channels
from sward.teachers.hiera import ARCHITECTURES, make_trunk, trunk_channels

# Results of `count_flops`, stored because counting takes seconds; the tests count them again.
COUNTED: dict[tuple[str, tuple[int, int]], int] = {
    ("large", (512, 512)): 431_293_464_576,
    ("large", (512, 1024)): 877_082_443_776,
    ("large", (1024, 1024)): 1_812_146_946_048,
    ("large", (1024, 2048)): 3_856_222_126_080,
}


class Weightless(TorchFunctionMode):
    """Context in which `torch.empty` and `torch.zeros` allocate nothing: parameters have a shape and no memory.

    Other tensors are made as usual, because Hiera reads their values while it is built.
    """

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        where = {"device": "meta"} if func in (torch.empty, torch.zeros) else {}
        return func(*args, **(kwargs or {}) | where)


@lru_cache(maxsize=8)
def weightless(architecture: str) -> nn.Module:
    """The Hiera trunk of ``architecture`` with its parameters on the meta device."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"FLOPs are counted for Hiera trunks ({', '.join(ARCHITECTURES)}), not for {architecture}")
    with Weightless():
        return make_trunk(architecture).eval()


def channels_of(architecture: str) -> Channels:
    """Channels of the trunk's levels: level -> channels."""
    return trunk_channels(weightless(architecture))


def view_flops(architecture: str, size: tuple[int, int]) -> int:
    """FLOPs of the trunk for one view of ``size`` (height, width); a multiply-add counts as two."""
    return COUNTED.get((architecture, size)) or count_flops(architecture, size)


@lru_cache(maxsize=64)
def count_flops(architecture: str, size: tuple[int, int]) -> int:
    """FLOPs of the matrix products, attention and convolutions of a forward pass, by torch's FlopCounterMode."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        weightless(architecture)(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops()
