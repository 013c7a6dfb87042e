"""From pixels to what a student reads, and from its logits back to the picture: tensors alone, on any device.

``resize`` is Pillow's bilinear with antialiasing, bit for bit (``Image.resize`` of 8-bit pictures: two passes in
fixed point, each rounded to 8 bits), because stage 1 renders views with Pillow and a student must see at
inference what it saw in training. torch's own ``interpolate(antialias=True)`` differs by a grey level here and there.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BITS = 22  # Pillow's fixed point for 8-bit pixels: 32 - 8 - 2
Size = tuple[int, int]  # (height, width)


def normaliser(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Callable[[Tensor], Tensor]:
    """The one way from pixels to network input: (…, 3, H, W) uint8 on ``device`` to float32, (x/255 - mean) / std."""
    m, s = (torch.tensor(v, device=device).view(3, 1, 1) for v in (mean, std))
    return lambda images: (images.float() / 255 - m) / s


def resize(images: Tensor, size: Size) -> Tensor:
    """(…, H, W) uint8 at ``size`` (height, width) pixels, as Pillow resizes: width first, then height."""
    for axis, length in ((-1, size[1]), (-2, size[0])):
        if images.shape[axis] != length:
            images = _resample(images.transpose(axis, -1), length).transpose(axis, -1)
    return images.contiguous()


def at_size(logits: Tensor, size: Size) -> Tensor:
    """Logits (B, K, h, w) at a picture's ``size`` (height, width): bilinear, corners not aligned."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _resample(images: Tensor, length: int) -> Tensor:
    """One pass along the last axis; the sum of a row of weights is 1, so 32 bits hold it."""
    index, weights = (torch.from_numpy(a).to(images.device) for a in _taps(images.shape[-1], length))
    total = torch.full((*images.shape[:-1], length), 1 << (BITS - 1), dtype=torch.int32, device=images.device)
    for i, w in zip(index, weights, strict=True):
        total += images[..., i].int() * w
    return (total >> BITS).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _taps(found: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """(index, weight), each (taps, wanted): which pixels make each new one, and their share in fixed point."""
    scale = found / wanted
    support = max(scale, 1.0)  # a triangle over one new pixel to each side, or over one old one when enlarging
    centre = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), found)
    index = first + np.arange(int(np.ceil(support)) * 2 + 1)[:, None]
    weight = np.maximum(1 - np.abs((index - centre + 0.5) * (1 / support)), 0) * (index < last)
    weight /= weight.cumsum(0)[-1]  # added in Pillow's order, so rounded like it
    return np.minimum(index, found - 1), (weight * (1 << BITS) + 0.5).astype(np.int32)
