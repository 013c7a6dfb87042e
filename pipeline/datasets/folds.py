"""Folds of a cross-validation: which image belongs to which part."""

from dataclasses import replace

from pipeline.datasets.samples import Sample
from pipeline.datasets.split_rules import Folds
from pipeline.datasets.splits import shuffled


def assign_folds(groups: dict[str, str], rule: Folds) -> dict[str, int]:
    """Fold of every id: groups from large to small, each to the fold with the fewest images so far.

    Groups of one size come in the order of their hash, so the result does not depend on the order of the ids.

    Args:
        groups: id -> the group (sequence, or the image itself) that is kept whole.
        rule: number of folds and seed.
    """
    members: dict[str, list[str]] = {}
    for i in sorted(groups):
        members.setdefault(groups[i], []).append(i)
    folds: dict[str, int] = {}
    sizes = [0] * rule.count
    for name in sorted(shuffled(list(members), rule.seed), key=lambda name: -len(members[name])):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(members[name])
        folds |= dict.fromkeys(members[name], smallest)
    return folds


def in_folds(samples: list[Sample], rule: Folds, sequences: dict[str, str]) -> list[Sample]:
    """Every sample twice: for its training views, and for the view it is validated and tested on."""
    groups = {s.id: sequences.get(s.id, s.id) if rule.by == "sequence" else s.id for s in samples}
    folds = assign_folds(groups, rule)
    placed = [replace(s, fold=folds[s.id], group=groups[s.id]) for s in samples]
    placed.sort(key=lambda s: (folds[s.id], s.id))
    return [*placed, *(replace(sample, subset="test") for sample in placed)]
