"""Splits maps into blocks and packs 4- and 6-bit integers into bytes, for the codecs int4 and int6."""

# B batch, C channels, H W height and width, h w blocks down and across, G leading axes, n values of a block

import numpy as np
import torch
from torch import Tensor

SIDE = 8  # values: largest side of a block


def group_side(height: int, width: int) -> int:
    """Side of the square blocks: 8, or the largest smaller power of two that divides height and width."""
    return int(np.gcd(np.gcd(height, width), SIDE))


def to_groups(f_CHW: np.ndarray, side: int) -> np.ndarray:
    """Cuts a map into blocks: (C, H, W) -> (C, H/side, W/side, side*side)."""
    C, H, W = f_CHW.shape
    blocks = f_CHW.reshape(C, H // side, side, W // side, side).transpose(0, 1, 3, 2, 4)
    return blocks.reshape(C, H // side, W // side, side * side)


def from_groups(groups: Tensor, side: int) -> Tensor:
    """Inverse of ``to_groups``, for a batch: (B, C, h, w, side*side) -> (B, C, h*side, w*side)."""
    B, C, h, w, _ = groups.shape
    return groups.view(B, C, h, w, side, side).permute(0, 1, 2, 4, 3, 5).reshape(B, C, h * side, w * side)


def pack(codes_Gn: np.ndarray, bits: int) -> np.ndarray:
    """Packs integers below 2**bits along the last axis into bytes, lowest bits first; zeros fill the last byte."""
    ones = np.unpackbits(codes_Gn[..., None], axis=-1, bitorder="little", count=bits)
    return np.packbits(ones.reshape(*codes_Gn.shape[:-1], -1), axis=-1, bitorder="little")


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of ``pack``: bytes along the last axis -> ``count`` integers, uint8, on any device."""
    span = {4: 1, 6: 3}[bits]  # fewest bytes that hold whole integers: 1 holds two of 4 bits, 3 hold four of 6
    missing = -packed.shape[-1] % span
    data = torch.nn.functional.pad(packed, (0, missing)) if missing else packed
    a = data.unflatten(-1, (-1, span)).unbind(-1)
    numbers: tuple[Tensor, ...] = (a[0] & 15, a[0] >> 4)
    if bits == 6:
        numbers = (a[0] & 63, (a[0] >> 6) | ((a[1] & 15) << 2), (a[1] >> 4) | ((a[2] & 3) << 4), a[2] >> 2)
    return torch.stack(numbers, -1).flatten(-2)[..., :count]
