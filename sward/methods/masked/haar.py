"""Haar wavelet transform of feature maps: a low band, and three bands of detail at each scale.

Orthonormal, so the sum of squares stays. Odd sides get one zero row or column at the end, at every level. Orders, signs
and padding are those of pytorch_wavelets (``DWTForward(wave="haar", mode="zero")``).
"""

# B batch, C channels, h w the sides at one level, 3 orientations of detail

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(f_BCHW: Tensor, levels: int) -> tuple[Tensor, list[Tensor]]:
    """Transform a map, by blocks of four cells (a b / c d).

    Returns:
        low band (B, C, h, w) of the coarsest level, (a + b + c + d) / 2; and the details (B, C, 3, h, w) from the
        finest level to the coarsest: (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2.
    """
    low, details = f_BCHW, []
    for _ in range(levels):
        low = F.pad(low, (0, low.shape[-1] % 2, 0, low.shape[-2] % 2))
        top, bottom = low[..., ::2, :], low[..., 1::2, :]
        a, b, c, d = top[..., ::2], top[..., 1::2], bottom[..., ::2], bottom[..., 1::2]
        low = (a + b + c + d) / 2
        details.append(torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=2) / 2)
    return low, details


def inverse(low: Tensor, details: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Map (B, C, *size) whose ``forward`` gave ``low`` and ``details``; padding is cut off."""
    finer = [size, *((d.shape[-2], d.shape[-1]) for d in details[:-1])]
    for detail, (H, W) in zip(reversed(details), reversed(finer), strict=True):
        x, y, z = detail.unbind(2)
        top = torch.stack([low + x + y + z, low + x - y - z], dim=-1)  # a, b
        bottom = torch.stack([low - x + y - z, low - x - y + z], dim=-1)  # c, d
        low = (torch.stack([top, bottom], dim=-3) / 2).flatten(-2).flatten(-3, -2)[..., :H, :W]
    return low
