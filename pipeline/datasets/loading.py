"""Loads a data set by its name or card, and a split, as checked samples.

dataset = load_dataset("cvc-clinicdb", "sequence")
image, label = read_image(dataset.samples[0]), read_label(dataset.samples[0])
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline import paths
from pipeline.datasets.card import Card, Files, by_subset, find_card, read_card
from pipeline.datasets.card_checks import is_annotation_file
from pipeline.datasets.checks import Inspected, inspect_files, pair_up, without_masks
from pipeline.datasets.file_listing import read_sequences, same_name, start_of
from pipeline.datasets.folds import in_folds
from pipeline.datasets.masks.choose import choose_masks
from pipeline.datasets.masks.shares import Counted, class_notes, class_problems
from pipeline.datasets.pairing import Pairs, find_pairs
from pipeline.datasets.problems import DatasetError, Problem, shortened
from pipeline.datasets.procedural.config import ensure
from pipeline.datasets.samples import Sample
from pipeline.datasets.split_lists import Membership, NameIndex
from pipeline.datasets.split_rules import SUBSETS, Folds, Subset
from pipeline.datasets.splits import check_membership, resolve


@dataclass(frozen=True)
class Dataset:
    """The samples of one split, ordered by subset and id. notes: what a user should know, but is no mistake."""

    card: Card
    split: str
    samples: list[Sample]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.card.classes

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """The subsets there are, of train, val and test."""
        present = {sample.subset for sample in self.samples}
        return tuple(subset for subset in SUBSETS if subset in present)

    @property
    def evaluation(self) -> Subset:
        """The subset that results are reported on: test, or val where test has no labels (Cityscapes)."""
        return "test" if "test" in self.subsets else "val"

    def subset(self, name: Subset) -> list[Sample]:
        """The samples of one subset."""
        return [sample for sample in self.samples if sample.subset == name]

    @property
    def split_digest(self) -> str:
        """sha256 of the sorted lines "<subset> <id>", with the fold, where there are folds, and "unlabelled"."""
        folds = {s.id: "" if s.fold is None else f" {s.fold}" for s in self.samples}
        folds |= {s.id: " unlabelled" for s in self.samples if not s.labelled}
        lines = sorted(f"{sample.subset} {sample.id}{folds[sample.id]}" for sample in self.samples)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def card_digest(self) -> str:
        """sha256 of what turns mask files into labels: classes and encoding."""
        return self.card.digest


def load_dataset(dataset: str | Path, split: str) -> Dataset:
    """Read and hash a split's files, without decoding them (``check_all`` does).

    Args:
        dataset: name under ``data/``, or path to a ``card.yaml``.
        split: one of the card's splits.

    Raises:
        DatasetError: anything wrong with card, split, pairs or bytes, all of it in one message.
    """
    return _raise_or_return(dataset, *_scan(dataset, split, decode=False))


def check_all(dataset: str | Path, split: str) -> Dataset:
    """As ``load_dataset``, and decode every image and mask in full.

    Raises:
        DatasetError: anything wrong with card, split, pairs, bytes or pixels, all of it in one message.
    """
    return _raise_or_return(dataset, *_scan(dataset, split, decode=True))


def check(dataset: str | Path, split: str) -> list[Problem]:
    """All that is wrong with a split, every file decoded; empty if it is sound."""
    try:
        return _scan(dataset, split, decode=True)[1]
    except DatasetError as error:
        return error.problems


def _raise_or_return(dataset: str | Path, loaded: Dataset, problems: list[Problem]) -> Dataset:
    if problems:
        raise DatasetError(f"{dataset}, split {loaded.split}", problems)
    return loaded


def _scan(dataset: str | Path, split: str, decode: bool) -> tuple[Dataset, list[Problem]]:
    card, folder = read_card(dataset), find_card(dataset).parent
    if split not in card.splits:
        found = f"unknown split {split!r}; known: {', '.join(card.splits)}"
        raise DatasetError(str(dataset), [Problem("split", card.name, found)])
    files = folder if isinstance(card.source, Files) else ensure(card.source, paths.write_path(folder))
    pairs = find_pairs(card, files)
    if (absent := _absent(card, files, pairs)) or not pairs.masks:
        raise DatasetError(str(dataset), absent + pairs.problems)
    sequences, problems = _sequences(card, files, pairs)
    problems += pairs.problems
    try:
        members = resolve(split, card.splits[split], folder, pairs.images, pairs.masks, sequences)
    except DatasetError as error:
        raise DatasetError(str(dataset), problems + error.problems) from error
    # unlabelled frames count as training images here: those of a test sequence would leak
    frames: Membership = [("train", i) for i in pairs.unlabelled if i in sequences]
    problems += check_membership([*members, *frames], split, card, sequences)
    choice = choose_masks(card, pairs)
    samples, unpaired = pair_up(members, choice, sequences)
    samples += without_masks(pairs.unlabelled, card, sequences)
    inspected, broken = inspect_files(samples, decode, choice)
    counted: list[Counted] = [
        (one.sample.subset, one.sample.id, one.counts)
        for one in inspected
        if one.counts is not None and one.sample.labelled
    ]
    problems += unpaired + broken + class_problems(counted)
    notes = [*pairs.notes, *choice.notes, *class_notes(card.classes, counted), *_transparency(inspected)]
    kept = [one.sample for one in inspected]
    if isinstance(rule := card.splits[split], Folds):
        kept = [*in_folds([s for s in kept if s.labelled], rule, sequences), *(s for s in kept if not s.labelled)]
    return Dataset(card, split, kept, tuple(notes)), problems


def _transparency(inspected: list[Inspected]) -> list[str]:
    names = [one.sample.id for one in inspected if one.transparent]
    told = "images with transparent pixels, which are put over black as in sward predict"
    return [f"{told} ({len(names)}): {shortened(names)}"] if names else []


def _sequences(card: Card, folder: Path, pairs: Pairs) -> tuple[dict[str, str], list[Problem]]:
    """Id -> sequence, where the table may name files, or compose letters in another way than their names."""
    if not card.sequences:
        return {}, []
    table, problems = read_sequences(paths.read_path(folder / card.sequences))
    composed = {same_name(frame): sequence for frame, sequence in table.items()}
    ids = {*pairs.images, *pairs.masks, *pairs.unlabelled}
    table |= {i: composed[same_name(i)] for i in ids - set(table) if same_name(i) in composed}
    exact = ids & set(table)
    index = NameIndex(pairs.images | {i: [path] for i, path in pairs.unlabelled.items()}, pairs.masks)
    for frame, sequence in [row for row in table.items() if row[0] not in ids]:
        found = index.ids(frame, "")
        if exact.intersection(found) and not index.has_folder_of(frame):
            continue  # a file of another folder and the same name
        if len(found) == 1 and table.setdefault(found[0], sequence) != sequence:
            text = f"{frame} is of sequence {sequence}, another line says {table[found[0]]}; keep one"
            problems.append(Problem("sequences", found[0], text))
    return table, problems


def frame_sequences(dataset: str | Path) -> dict[str, str]:
    """Frame -> sequence of a card's table, without looking at any image; empty if the card has none.

    Raises:
        DatasetError: card or table cannot be read.
    """
    card = read_card(dataset)
    place = paths.read_path(find_card(dataset).parent / card.sequences)
    table, problems = read_sequences(place) if card.sequences else ({}, [])
    if problems:
        raise DatasetError(str(dataset), problems)
    return table


def _absent(card: Card, folder: Path, pairs: Pairs) -> list[Problem]:
    """Told instead of thousands of missing files when no pattern matches anything at all."""
    problems = []
    home = getattr(card.source, "homepage", "")
    told = {problem.subject for problem in pairs.problems}
    for kind, patterns, found in (("image", card.images, pairs.images), ("mask", card.masks, pairs.masks)):
        for pattern in [] if found else [p for _, p in by_subset(patterns)]:
            place = start_of(folder, pattern)
            if is_annotation_file(pattern) and str(place / Path(pattern).name) in told:
                continue  # it cannot be read, so nothing is known of its entries
            there = shortened(sorted(p.name for p in place.iterdir()), 3) if place.is_dir() else ""
            state = f"it has {there or 'no files'}" if place.is_dir() else "no such folder"
            what = (
                f"{kind}s: {pattern} has no entry of any image"
                if is_annotation_file(pattern)
                else f"nothing matches {pattern}"
            )
            state += "; folders are divided by /" if "\\" in pattern else ""
            text = f"{what} ({state}); correct it, put the files there or set SWARD_DATA"
            problems.append(Problem(f"missing {kind}", str(place), text + (f"; files: {home}" if home else "")))
    return problems
