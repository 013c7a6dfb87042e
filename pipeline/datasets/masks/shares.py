"""Shares of the classes in a set's masks, and what about them a user should know before work starts."""

from collections.abc import Iterable

import numpy as np

from pipeline.datasets.problems import Problem, shortened

Counted = tuple[str, str, np.ndarray]  # subset, name of the sample, pixels of each class and last of what is ignored


def class_problems(counted: list[Counted]) -> list[Problem]:
    """Nothing can be learnt where every training mask is ignored."""
    train = [counts for subset, _, counts in counted if subset == "train"]
    if train and not any(counts[:-1].any() for counts in train):
        return [Problem("nothing labelled", "train", f"every pixel of all {len(train)} training masks is ignored")]
    return []


def class_notes(classes: tuple[str, ...], counted: list[Counted]) -> list[str]:
    """Training masks that are all ignored, and classes that no mask of a subset holds."""
    bare = [name for subset, name, counts in counted if subset == "train" and not counts[:-1].any()]
    notes = [f"training masks with every pixel ignored ({len(bare)}): {shortened(bare)}"] if bare else []
    sums = sum_by_subset(counted)
    for k, name in enumerate(classes):
        lacking = [subset for subset, counts in sums.items() if not counts[k]]
        if lacking and len(lacking) == len(sums):
            notes.append(f"class {name!r} is in no mask at all: it cannot be learnt, and its metrics are undefined")
            continue
        told = {"train": "it cannot be learnt"}
        notes += [
            f"class {name!r} is in no mask of {s}: {told.get(s, 'its metrics are undefined there')}" for s in lacking
        ]
    return notes


def sum_by_subset(counted: Iterable[Counted]) -> dict[str, np.ndarray]:
    """Subset -> pixels of each class, then of what is ignored."""
    sums: dict[str, np.ndarray] = {}
    for subset, _, counts in counted:
        sums[subset] = sums.get(subset, 0) + counts
    return sums
