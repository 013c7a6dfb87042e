"""Blocks of a map, and few-bit numbers packed into bytes: what the grouped codecs are made of."""

# C channels, H W height and width, G groups, n values of a group

import numpy as np
import torch
from torch import Tensor

SIDE = 8


def group_side(height: int, width: int) -> int:
    """Side of the square blocks: 8, or the largest smaller power of two that divides both sides."""
    return int(np.gcd(np.gcd(height, width), SIDE))


def to_groups(f_CHW: np.ndarray, side: int) -> np.ndarray:
    """(C, H, W) -> (C, H/side, W/side, side*side)."""
    C, H, W = f_CHW.shape
    blocks = f_CHW.reshape(C, H // side, side, W // side, side).transpose(0, 1, 3, 2, 4)
    return blocks.reshape(C, H // side, W // side, side * side)


def from_groups(groups: Tensor, side: int) -> Tensor:
    """(B, C, h, w, side*side) -> (B, C, h*side, w*side)."""
    B, C, h, w, _ = groups.shape
    return groups.view(B, C, h, w, side, side).permute(0, 1, 2, 4, 3, 5).reshape(B, C, h * side, w * side)


def pack(levels_Gn: np.ndarray, bits: int) -> np.ndarray:
    """Numbers below 2**bits in the last axis -> bytes, lowest bits first, the last byte filled with zeros."""
    ones = np.unpackbits(levels_Gn[..., None], axis=-1, bitorder="little", count=bits)
    return np.packbits(ones.reshape(*levels_Gn.shape[:-1], -1), axis=-1, bitorder="little")


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of ``pack``: bytes in the last axis -> ``count`` numbers, uint8, on any device."""
    span = {4: 1, 6: 3}[bits]  # bytes that hold whole numbers
    missing = -packed.shape[-1] % span
    data = torch.nn.functional.pad(packed, (0, missing)) if missing else packed
    a = data.unflatten(-1, (-1, span)).unbind(-1)
    numbers: tuple[Tensor, ...] = (a[0] & 15, a[0] >> 4)
    if bits == 6:
        numbers = (a[0] & 63, (a[0] >> 6) | ((a[1] & 15) << 2), (a[1] >> 4) | ((a[2] & 3) << 4), a[2] >> 2)
    return torch.stack(numbers, -1).flatten(-2)[..., :count]
