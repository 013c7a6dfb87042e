"""Resizes and normalises images for a student, and resizes its logits to the image; tensors only, on any device.

``resize`` equals Pillow's antialiased bilinear ``Image.resize`` of 8-bit images bit for bit: two passes in fixed
point, each rounded to 8 bits. Stage 1 renders views with Pillow, and a student must see the same pixels at inference
as in training. torch's own ``interpolate(antialias=True)`` differs by one grey level at some pixels.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BITS = 22  # fractional bits of Pillow's fixed point for 8-bit pixels: 32 - 8 - 2
Size = tuple[int, int]  # (height, width)


def normaliser(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Returns the function from pixels to network input, used everywhere: (x/255 - mean) / std.

    It maps (…, 3, H, W) uint8 on ``device`` to float32. ``mean`` and ``std`` are those of RGB in [0, 1].
    """
    m, s = (torch.tensor(v, device=device).view(3, 1, 1) for v in (mean, std))
    return lambda images: (images.float() / 255 - m) / s


def resize(images: Tensor, size: Size) -> Tensor:
    """Resizes (…, H, W) uint8 to ``size`` (height, width) pixels as Pillow does: width first, then height."""
    for axis, length in ((-1, size[1]), (-2, size[0])):
        if images.shape[axis] != length:
            images = _resample(images.transpose(axis, -1), length).transpose(axis, -1)
    return images.contiguous()


def at_size(logits: Tensor, size: Size) -> Tensor:
    """Resizes logits (B, K, h, w) to an image's ``size`` (height, width) in pixels: bilinear, corners not aligned."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _resample(images: Tensor, length: int) -> Tensor:
    """Resizes the last axis to ``length`` pixels. The weights of a new pixel sum to 1, so the sum fits 32 bits."""
    index, weights = (torch.from_numpy(a).to(images.device) for a in _taps(images.shape[-1], length))
    total = torch.full((*images.shape[:-1], length), 1 << (BITS - 1), dtype=torch.int32, device=images.device)
    for i, w in zip(index, weights, strict=True):
        total += images[..., i].int() * w
    return (total >> BITS).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _taps(found: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes source pixels and weights of every new pixel, for resizing ``found`` pixels to ``wanted``.

    Returns:
        (index int64, weight int32 in fixed point), each (taps, wanted).
    """
    scale = found / wanted
    support = max(scale, 1.0)  # half width of the triangle filter: one new pixel, or one old pixel when enlarging
    centre = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), found)
    index = first + np.arange(int(np.ceil(support)) * 2 + 1)[:, None]
    weight = np.maximum(1 - np.abs((index - centre + 0.5) * (1 / support)), 0) * (index < last)
    weight /= weight.cumsum(0)[-1]  # summed in Pillow's order, so that rounding is the same
    return np.minimum(index, found - 1), (weight * (1 << BITS) + 0.5).astype(np.int32)
