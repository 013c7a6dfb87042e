"""Recomputes the statistics in a store's receipts from its features.

Training normalises the teacher's features by these numbers, and their checksum only shows that a receipt is as it was
written, not that it is true. The numbers were taken before encoding, so they are compared within the error that the
codec allows: relative to the level's total energy, a bound that no true receipt exceeds.
"""

from typing import Any

import numpy as np

from pipeline.cache.extraction.statistics import LevelTally, statistics
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.manifest.identity import precisions
from pipeline.cache.manifest.records import Unit, receipt_path
from pipeline.cache.store import Store

FLOAT_ERROR = 1e-6  # relative, of sums that are added up in another order


def wrong_statistics(store: Store) -> list[str]:
    """One line per receipt whose statistics are not those of its features. Reads all features once."""
    limit = sum(CODECS[kind].tolerance for kind in precisions(store.identity))
    lines = []
    for unit in store.units:
        if wrong := [*differing_levels(store, unit, limit)]:
            path = receipt_path(store.path, unit.name)
            lines.append(
                f"wrong statistics: {path} says other {', '.join(wrong)} than its features have; delete it and run the "
                "command that made the store again, or fetch the store again from whoever made it"
            )
    return lines


def differing_levels(store: Store, unit: Unit, limit: float) -> list[str]:
    """Levels of a unit, each with the first value that differs, e.g. "s8 sum"."""
    tally, told = LevelTally(), store.receipts[unit.name].get("levels", {})
    sums: dict[str, None] = {}
    for record in unit.records:
        arrays = store.arrays(record)
        sums |= dict.fromkeys(store.first_reads.differing(record, arrays))
        tally.add({level: statistics(f.numpy()) for level, f in store.decoded(record, arrays, store.channels).items()})
    return [f"checksums of {name}" for name in sums] + [
        f"{level} {name}" for level, found in tally.levels.items() if (name := differing(told.get(level), found, limit))
    ]


def differing(told: Any, found: dict[str, Any], limit: float) -> str:
    """Name of the first value that is not as found within ``limit``, a relative error of features; empty if none."""
    energy, count = float(np.sum(found["sum_squares"])), found["count"]
    highest = max(abs(found["min"]), abs(found["max"]))
    bounds = {
        "count": 0.0,
        "min": 2 * limit * highest,
        "max": 2 * limit * highest,
        "sum": limit * (count * energy) ** 0.5,  # Cauchy-Schwarz, of the error's norm
        "sum_squares": (2 * limit + limit**2) * energy,
    }
    for name, bound in bounds.items():
        try:
            there = np.asarray(told[name], np.float64)
            off = np.abs(there - found[name])
        except (KeyError, TypeError, ValueError):
            return name
        if there.shape != np.shape(found[name]) or not (off <= bound + FLOAT_ERROR * np.abs(found[name])).all():
            return name
    return ""
