"""Tiny pictures and masks for the data set tests."""

import numpy as np
from PIL import Image

from sward import seeds


def picture(name: str, size: tuple[int, int] = (12, 16)) -> Image.Image:
    """An RGB picture that depends on ``name`` alone; ``size`` is (height, width)."""
    return Image.fromarray(seeds.integers(size[0] * size[1] * 3, 256, name).reshape(*size, 3).astype(np.uint8))


def half_mask(size: tuple[int, int] = (12, 16), value: int = 255) -> np.ndarray:
    """Left half background, right half ``value``."""
    mask = np.zeros(size, np.uint8)
    mask[:, size[1] // 2 :] = value
    return mask
