"""Smooth random fields and soft shapes, of which the procedural scenes are composed.

Lengths are in units of the shorter image side, so a scene looks the same at every resolution.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

Draw = Callable[[str, int], np.ndarray]  # (what for, how many) -> uniform numbers in [0, 1)


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """y (H, 1) and x (1, W) of the pixel centres."""
    short = min(size)
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) / short for n in size)
    return y[:, None], x[None, :]


def field(draw: Draw, what: str, size: tuple[int, int], cells: float) -> np.ndarray:
    """(H, W) smooth noise, mean 0, deviation about 0.7: a cubic B-spline with ``cells`` knots a side."""
    (rows, down), (columns, across) = (_spline(n, min(size), cells) for n in size)
    shape = rows[-1] + 4, columns[-1] + 4
    knots = 5.0 * draw(what, shape[0] * shape[1]).reshape(shape).astype(np.float32) - 2.5
    # Four taps a side instead of a matrix product, whose threads and rounding differ from machine to machine.
    lines = sum(weight[:, None] * knots[rows + k] for k, weight in enumerate(down))
    return sum(weight * lines[:, columns + k] for k, weight in enumerate(across))


@lru_cache(maxsize=64)
def _spline(length: int, short: int, cells: float) -> tuple[np.ndarray, np.ndarray]:
    """First knot (length,) and weights (4, length) of the uniform cubic B-spline at the pixel centres."""
    position = (np.arange(length) + 0.5) / short * cells
    first = np.floor(position).astype(int)
    t = position - first
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    return first, np.array(weights, np.float32) / np.float32(6)


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high`` (or the other way round if low > high), smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blob(
    size: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    stretch: float,
    angle: float,
    wobble: np.ndarray,
) -> np.ndarray:
    """(H, W) distance from a blob's centre in units of its radius: 1 on the outline.

    ``stretch`` is the ratio of the axes, ``wobble`` (3,) in [0, 1) bends the outline by up to about 20 %.
    """
    y, x = grid(size)
    dy, dx = y - centre[0], x - centre[1]
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / (radius * np.sqrt(stretch))
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / (radius / np.sqrt(stretch))
    distance = np.hypot(along, across)
    turn = np.arctan2(across, along)
    bend = sum((0.16 / (k + 1)) * a * np.cos((k + 2) * turn + 44 * a) for k, a in enumerate(wobble))
    return distance * (1 + bend * smoothstep(distance, 0.2, 1.0))


def dome(distance: np.ndarray, steepness: float) -> np.ndarray:
    """Height of a rounded bump over its ``blob`` distance: 1 in the middle, 0 outside."""
    return np.clip(1 - distance**2, 0, None) ** steepness
