"""Computes feature statistics of a unit, per level and channel, for its receipt."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Statistics = dict[str, Any]
AT_ONCE = 1 << 15  # float64 values converted at once, 256 KiB, so that they stay in the processor's cache


def statistics(f: np.ndarray) -> Statistics:
    """Statistics of one record's level ``f``, (C, H, W) float32, as a dict.

    "count" is the number of positions H * W, "min" and "max" are over all values, "sum" and "sum_squares" are (C,)
    float64. A few channels are processed at a time, so that they stay in the processor's cache.
    """
    flat = f.reshape(len(f), -1)
    sums, squares = np.empty(len(flat)), np.empty(len(flat))
    few = max(1, AT_ONCE // flat.shape[1])
    for start in range(0, len(flat), few):
        part = slice(start, start + few)
        wide = flat[part].astype(np.float64)
        sums[part] = wide.sum(1)
        squares[part] = np.square(wide, out=wide).sum(1)
    low, high = float(flat.min(1).min()), float(flat.max(1).max())
    return {"count": flat.shape[1], "min": low, "max": high, "sum": sums, "sum_squares": squares}


def finite(found: Statistics) -> bool:
    """Whether every value was finite: a NaN or infinity would show in the minimum or maximum."""
    return math.isfinite(found["min"]) and math.isfinite(found["max"])


class LevelTally:
    """Sums up the statistics of a unit's records per level, in the order of the records."""

    def __init__(self) -> None:
        self.levels: dict[str, Statistics] = {}

    def add(self, record: Mapping[str, Statistics]) -> None:
        merge = {"min": min, "max": max}
        for level, new in record.items():
            if old := self.levels.get(level):
                new = {k: merge.get(k, lambda a, b: a + b)(old[k], new[k]) for k in new}
            self.levels[level] = new

    def to_json(self) -> dict[str, Any]:
        return {
            level: {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in facts.items()}
            for level, facts in self.levels.items()
        }
