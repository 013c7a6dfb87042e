"""Statistics of the features of one unit, for its receipt."""

from typing import Any

import numpy as np


class LevelTally:
    """Per level: count, minimum, maximum, and per-channel sums, in float64, over the records of one unit."""

    def __init__(self) -> None:
        self.levels: dict[str, dict[str, Any]] = {}

    def add(self, level: str, f: np.ndarray) -> None:
        flat = f.reshape(len(f), -1).astype(np.float64)
        new = {
            "count": flat.shape[1],
            "min": float(f.min()),
            "max": float(f.max()),
            "sum": flat.sum(1),
            "sum_squares": (flat**2).sum(1),
        }
        old = self.levels.get(level)
        merge = {"min": min, "max": max}
        self.levels[level] = new if old is None else {k: merge.get(k, lambda a, b: a + b)(old[k], new[k]) for k in new}

    def to_json(self) -> dict[str, Any]:
        return {
            level: {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in facts.items()}
            for level, facts in self.levels.items()
        }
