"""Large pictures in overlapping tiles, each read at the student's size, probabilities blended where tiles overlap.

Tiles show a student its objects larger than a resized whole picture would: that is right where it was trained on
crops, or where the details of a large picture must not be lost, and it is never chosen silently. Memory holds
one row of tiles, however high the picture.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.types import Size

# K classes, H W height and width of the picture, h w of a tile
OVERLAP = 0.25  # of a tile, at least: a border sees no context, and is outweighed by the tile that does


def tile_size(pixels: int, size: Size) -> Size:
    """(height, width) of tiles whose shorter side has ``pixels``, in the aspect of the student's ``size``."""
    return round(pixels * size[0] / min(size)), round(pixels * size[1] / min(size))


def starts(length: int, tile: int) -> list[int]:
    """First pixels of the tiles along an axis: as few as overlap enough, evenly spread, covering all."""
    if length <= tile:
        return [0]
    count = math.ceil((length - tile) / (tile * (1 - OVERLAP))) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def ramp(length: int) -> Tensor:
    """Weight of a tile along an axis, (length,): 1 inside, falling linearly over the overlap, never 0."""
    place = torch.arange(length, dtype=torch.float32) + 1
    return torch.minimum(place, place.flip(0)).div(max(1.0, OVERLAP * length)).clamp(max=1)


def bands(ask: Callable[[np.ndarray], Tensor], image: np.ndarray, tile: Size) -> Iterator[tuple[int, Tensor]]:
    """(first row, blended probabilities (K, rows, W)) from top to bottom, every row once.

    Args:
        ask: picture (h, w, 3) uint8 -> probabilities (K, h, w), on the CPU.
        image: (H, W, 3) uint8.
        tile: (height, width) in pixels of the picture.
    """
    height, width = image.shape[:2]
    h, w = min(tile[0], height), min(tile[1], width)
    weight_hw = ramp(h)[:, None] * ramp(w)
    tops, left_over = starts(height, h), torch.zeros(0)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        total = torch.zeros(0)
        for left in starts(width, w):
            p_Khw = ask(image[top : top + h, left : left + w])
            if not len(total):
                total = torch.zeros(len(p_Khw) + 1, h, width)  # the last plane sums the weights
            total[:-1, :, left : left + w] += weight_hw * p_Khw
            total[-1, :, left : left + w] += weight_hw
        if len(left_over):
            total[:, : left_over.shape[1]] += left_over
        done = following - top
        yield top, total[:-1, :done] / total[-1, :done]
        left_over = total[:, done:]
