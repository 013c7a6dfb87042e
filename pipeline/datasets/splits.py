"""Divides ids into subsets: drawn by hash, listed in committed files, or matched by pattern; and checks the result.

A draw orders the ids by ``seeds.key("split", seed, id)`` (SHA-256) and cuts that order, so it is the same on
every machine, and a new image moves no other image except across a cut.
"""

import hashlib
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.datasets.card import Card
from pipeline.datasets.file_listing import Found
from pipeline.datasets.problems import DatasetError, Problem
from pipeline.datasets.split_lists import Membership, read_lists
from pipeline.datasets.split_rules import SUBSETS, Drawn, Folds, Given, Listed, Matched, Split, Subset
from sward import seeds


def draw(ids: list[str], rule: Drawn, sequences: dict[str, str]) -> Membership:
    """Divide ``ids`` as ``rule`` says; ids without an entry in ``sequences`` are sequences of their own."""
    if rule.by == "sequence":
        return _draw_sequences(ids, rule, sequences)
    order = shuffled(ids, rule.seed)[: None if rule.limit == "all" else rule.limit]
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
        for sequence in shuffled(sorted(set(members) - set(home)), rule.seed):
            size = len(members[sequence])
            for subset in sorted(shares, key=lambda name: counts[name] - shares[name]):
                missing = shares[subset] - counts[subset]
                if abs(missing - size) < abs(missing) and (size <= largest * shares[subset] or largest == 1):
                    counts[subset] += size
                    home[sequence] = subset
                    break
    pairs = [(home.get(sequence, "train"), i) for sequence, of in members.items() for i in of]
    return sorted(pairs, key=lambda pair: (SUBSETS.index(pair[0]), pair[1]))


def shuffled(names: list[str], seed: int) -> list[str]:
    """Names in the order of their hash under ``seed``."""
    return sorted(names, key=lambda name: seeds.key("split", seed, name))


def resolve(
    split: str, rule: Split, folder: Path, images: Found, masks: Found, sequences: dict[str, str]
) -> Membership:
    """The (subset, id) pairs of a split, out of the files found.

    Raises:
        DatasetError: a list of the split is absent or no text, or a pattern can be understood in two ways.
    """
    ids = sorted({*images, *masks})
    if isinstance(rule, Drawn):
        return draw(distinct(ids, images) if rule.duplicates == "first" else ids, rule, sequences)
    if isinstance(rule, Folds):
        return [("train", i) for i in (distinct(ids, images) if rule.duplicates == "first" else ids)]
    if isinstance(rule, Listed):
        return read_lists(split, rule, folder, images, masks)
    if isinstance(rule, Given):
        return [(s, i) for s in SUBSETS for i in ids if i.startswith(f"{s}/")]
    return _match(split, rule, ids)


def _match(split: str, rule: Matched, ids: list[str]) -> Membership:
    """Ids by pattern; brackets are meant literally where an id has them, else as a choice of letters."""
    pairs, problems = [], []
    for subset, patterns in rule.patterns.items():
        chosen: set[str] = set()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            literal = {i for i in ids if fnmatchcase(i, pattern.replace("[", "[[]"))}
            choice = {i for i in ids if fnmatchcase(i, pattern)}
            if literal and choice - literal:
                found = f"{pattern} fits {min(literal)}, and as a choice of letters {min(choice - literal)}"
                problems.append(Problem("split", split, f"{found}; use a pattern without brackets"))
            chosen |= literal or choice
        pairs += [(subset, i) for i in ids if i in chosen]
    if problems:
        raise DatasetError(split, problems)
    return pairs


def distinct(ids: list[str], images: Found) -> list[str]:
    """``ids`` without those whose image has the same bytes as that of an earlier id (in text order)."""
    first: dict[str, str] = {}
    for i in sorted(ids):
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in images.get(i, [])]
        first.setdefault(digests[0] if digests else i, i)
    return sorted(first.values())


def check_membership(pairs: Membership, split: str, card: Card, sequences: dict[str, str]) -> list[Problem]:
    """Empty subsets, ids that stand twice, frames without a sequence, sequences in two subsets."""
    subsets = defaultdict(list)
    for subset, i in pairs:
        subsets[i].append(subset)
    present = {subset for subset, _ in pairs}
    empty = [subset for subset in _wanted(card, split) if subset not in present]
    problems = [Problem("empty", subset, f"no ids in split {split}") for subset in empty]
    problems += [Problem("two subsets", i, _told_places(s)) for i, s in subsets.items() if len(s) > 1]
    if card.sequences:
        problems += [Problem("sequences", i, "has no sequence") for i in subsets if i not in sequences]
        if split == "sequence" or _whole_sequences(card.splits[split]):
            problems += _leaks(pairs, sequences)
    return problems


def _told_places(subsets: list[Subset]) -> str:
    """The subsets that an id stands in, or how often it stands in the only one."""
    return " and ".join(subsets) if len(set(subsets)) > 1 else f"{len(subsets)} times in {subsets[0]}"


def _wanted(card: Card, split: str) -> tuple[str, ...]:
    """The subsets that a split promises."""
    rule = card.splits[split]
    if isinstance(rule, Matched):
        return tuple(rule.patterns)
    if isinstance(rule, Drawn):
        return rule.subsets
    if isinstance(rule, Folds):
        return ("train",)
    if isinstance(rule, Listed):
        return ("train", "val", *(s for s in rule.files if s == "test"))
    return tuple(card.images) if isinstance(card.images, dict) else SUBSETS


def _whole_sequences(rule: Any) -> bool:
    drawn = rule.drawn if isinstance(rule, Listed) else rule
    return isinstance(drawn, Drawn | Folds) and drawn.by == "sequence"


def _leaks(pairs: Membership, sequences: dict[str, str]) -> list[Problem]:
    members: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for subset, i in pairs:
        if i in sequences:
            members[sequences[i]][subset].append(i)
    told = {
        name: "; ".join(f"{subset}: {', '.join(ids[:5])}" for subset, ids in sorted(of.items()))
        for name, of in members.items()
        if len(of) > 1
    }
    return [Problem("leak", f"sequence {name}", text) for name, text in told.items()]
