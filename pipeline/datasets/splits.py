"""Which ids train, validate and test: drawn by hash, listed in committed files, or matched by pattern.

A draw orders the ids by ``seeds.key("split", seed, id)`` (SHA-256) and cuts that order, so it is the same on
every machine, and a new image moves no other image except across a cut.
"""

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline import paths
from pipeline.datasets.card import SUBSETS, Drawn, Folds, Listed, Split, Subset
from pipeline.datasets.file_listing import Found
from pipeline.datasets.problems import DatasetError, Problem
from sward import seeds

Membership = list[tuple[Subset, str]]  # (subset, id), in order of subset, then id


def draw(ids: list[str], rule: Drawn, sequences: dict[str, str]) -> Membership:
    """Divide ``ids`` as ``rule`` says; ids without an entry in ``sequences`` are sequences of their own."""
    if rule.by == "sequence":
        return _draw_sequences(ids, rule, sequences)
    order = _shuffled(ids, rule.seed)[: None if rule.limit == "all" else rule.limit]
    first, second = (round(len(order) * sum(rule.fractions[:n])) for n in (1, 2))
    parts = (order[:first], order[first:second], order[second:])
    return [(subset, i) for subset, part in zip(SUBSETS, parts, strict=True) for i in sorted(part)]


def _draw_sequences(ids: list[str], rule: Drawn, sequences: dict[str, str]) -> Membership:
    """Whole sequences in hashed order, to test or val where that brings its frame count nearer its share.

    The one that misses more comes first. At first only sequences of at most half a share are taken, so that
    a subset isn't one long sequence, then any.
    """
    members: dict[str, list[str]] = {}
    for i in sorted(ids):
        members.setdefault(sequences.get(i, i), []).append(i)
    shares: dict[Subset, float] = {"test": rule.fractions[2] * len(ids), "val": rule.fractions[1] * len(ids)}
    counts, home = dict.fromkeys(shares, 0), dict[str, Subset]()
    for largest in (0.5, 1.0):
        for sequence in _shuffled(sorted(set(members) - set(home)), rule.seed):
            size = len(members[sequence])
            for subset in sorted(shares, key=lambda name: counts[name] - shares[name]):
                missing = shares[subset] - counts[subset]
                if abs(missing - size) < abs(missing) and (size <= largest * shares[subset] or largest == 1):
                    counts[subset] += size
                    home[sequence] = subset
                    break
    pairs = [(home.get(sequence, "train"), i) for sequence, of in members.items() for i in of]
    return sorted(pairs, key=lambda pair: (SUBSETS.index(pair[0]), pair[1]))


def _shuffled(names: list[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: seeds.key("split", seed, name))


def list_path(folder: Path, split: str, subset: Subset) -> Path:
    """The committed list of one subset, in ``data/...`` form."""
    return folder / "splits" / f"{split}.{subset}.txt"


def resolve(
    split: str, rule: Split, folder: Path, images: Found, masks: Found, sequences: dict[str, str]
) -> Membership:
    """The (subset, id) pairs of a split, out of the files found.

    Raises:
        DatasetError: a list of the split is absent.
    """
    ids = sorted({*images, *masks})
    if isinstance(rule, Drawn):
        return draw(distinct(ids, images) if rule.duplicates == "first" else ids, rule, sequences)
    if isinstance(rule, Folds):
        return [("train", i) for i in (distinct(ids, images) if rule.duplicates == "first" else ids)]
    if isinstance(rule, Listed):
        return _read_lists(split, folder)
    return [(s, i) for s, pattern in rule.patterns.items() for i in ids if fnmatchcase(i, pattern)]


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
    for name in sorted(_shuffled(list(members), rule.seed), key=lambda name: -len(members[name])):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(members[name])
        folds |= dict.fromkeys(members[name], smallest)
    return folds


def distinct(ids: list[str], images: Found) -> list[str]:
    """``ids`` without those whose image has the same bytes as that of an earlier id (in text order)."""
    first: dict[str, str] = {}
    for i in sorted(ids):
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in images.get(i, [])]
        first.setdefault(digests[0] if digests else i, i)
    return sorted(first.values())


def _read_lists(split: str, folder: Path) -> Membership:
    lists = {subset: paths.read_path(list_path(folder, split, subset)) for subset in SUBSETS}
    if absent := [path for path in lists.values() if not path.is_file()]:
        raise DatasetError(str(folder), [Problem("split", str(path), "does not exist") for path in absent])
    text = {subset: path.read_text(encoding="utf-8") for subset, path in lists.items()}
    return [(subset, line) for subset in SUBSETS for line in text[subset].splitlines() if line.strip()]
