"""Parts of a cross-validation: what a store's units are for in one fold.

Part k tests in fold k, the part after it (the first after the last) validates, the others train. A part has units of
training views and units of evaluation views, so every image can play each role.
"""

from collections.abc import Iterable
from itertools import accumulate

from pipeline.cache.manifest.records import Unit


def count_folds(units: Iterable[Unit]) -> int:
    """Number of parts; 0 in a store of any other split."""
    return 1 + max((r.fold for unit in units for r in unit.records if r.fold is not None), default=-1)


def role(unit: Unit, fold: int | None, count: int) -> str | None:
    """``train``, ``val`` or ``test``: what the unit's records are for; None where the fold has no use for them.

    Args:
        unit: its records are of one part.
        fold: which of ``count``; None sees every unit as its subset says.
        count: of parts.
    """
    part = unit.records[0].fold
    if fold is None or part is None:
        return unit.subset
    wanted = {fold: "test", (fold + 1) % count: "val"}.get(part, "train")
    return wanted if (wanted == "train") == (unit.subset == "train") else None


def training_units(units: list[Unit], fold: int | None, count: int, first: int = 0) -> list[Unit]:
    """Units of training records in store order; ``first`` takes as many as hold so many records, 0 all."""
    training = [unit for unit in units if role(unit, fold, count) == "train"]
    held = accumulate(len(unit.records) for unit in training)
    return training[: 1 + sum(total < first for total in held)] if first else training
