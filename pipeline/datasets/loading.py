"""A data set's name or card, and a split, to checked samples.

dataset = load_dataset("cvc-clinicdb", "sequence")
image, label = read_image(dataset.samples[0]), read_label(dataset.samples[0])
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import paths
from pipeline.datasets.card import SUBSETS, Card, Files, Folds, Subset, find_card, read_card
from pipeline.datasets.checks import check_membership, inspect_files, pair_up
from pipeline.datasets.file_listing import Found, list_files, prefix, read_sequences
from pipeline.datasets.image_files import Sample
from pipeline.datasets.problems import DatasetError, Problem
from pipeline.datasets.procedural.config import ensure
from pipeline.datasets.splits import assign_folds, resolve


@dataclass(frozen=True)
class Dataset:
    """The samples of one split, ordered by subset and id."""

    card: Card
    split: str
    samples: list[Sample]

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
        """sha256 of the sorted lines "<subset> <id>", with a third word, the fold, where there are folds."""
        folds = {s.id: "" if s.fold is None else f" {s.fold}" for s in self.samples}
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
    images, masks = list_files(files, card.images), list_files(files, card.masks)
    if absent := _absent(card, files, images, masks):
        raise DatasetError(str(dataset), absent)
    sequences, problems = _sequences(card, files)
    pairs = resolve(split, card.splits[split], folder, images, masks, sequences)
    problems += check_membership(pairs, split, card, sequences)
    samples, unpaired = pair_up(pairs, images, masks, sequences, card)
    samples, broken = inspect_files(samples, decode)
    if isinstance(rule := card.splits[split], Folds):
        samples = _in_folds(samples, rule, sequences)
    return Dataset(card, split, samples), problems + unpaired + broken


def _in_folds(samples: list[Sample], rule: Folds, sequences: dict[str, str]) -> list[Sample]:
    """Every sample twice: for its training views, and for the view it is validated and tested on."""
    groups = {s.id: sequences.get(s.id, s.id) if rule.by == "sequence" else s.id for s in samples}
    folds = assign_folds(groups, rule)
    placed = [replace(s, fold=folds[s.id], group=groups[s.id]) for s in samples]
    placed.sort(key=lambda s: (folds[s.id], s.id))
    return [*placed, *(replace(sample, subset="test") for sample in placed)]


def _sequences(card: Card, folder: Path) -> tuple[dict[str, str], list[Problem]]:
    return read_sequences(paths.read_path(folder / card.sequences)) if card.sequences else ({}, [])


def _absent(card: Card, folder: Path, images: Found, masks: Found) -> list[Problem]:
    """Told instead of thousands of missing files when a pattern matches nothing at all."""
    problems = []
    for kind, pattern, found in (("image", card.images, images), ("mask", card.masks, masks)):
        if not found:
            place = paths.read_path(folder / prefix(pattern))
            there = sorted(p.name for p in place.iterdir())[:3] if place.is_dir() else []
            state = f"it has {', '.join(there) or 'no files'}" if place.is_dir() else "no such folder"
            text = f"nothing matches {pattern} ({state}); correct it, put the files there or set SWARD_DATA"
            home = getattr(card.source, "homepage", "")
            problems.append(Problem(f"missing {kind}", str(place), text + (f"; files: {home}" if home else "")))
    return problems
