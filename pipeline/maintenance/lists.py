"""Writes the committed split lists of a data set again, from the rules on its card.

SWARD_DATA=../shared/datasets python -m pipeline.maintenance.lists cvc-clinicdb
"""

import sys
from pathlib import Path

from pipeline import paths
from pipeline.datasets.card import Card, find_card, read_card
from pipeline.datasets.file_listing import read_sequences
from pipeline.datasets.pairing import find_pairs
from pipeline.datasets.problems import DatasetError, Problem
from pipeline.datasets.split_lists import list_path
from pipeline.datasets.split_rules import SUBSETS, Listed
from pipeline.datasets.splits import resolve


def write_lists(dataset: str | Path) -> list[Path]:
    """Write the lists of every split that states how it is drawn, next to the card; return their paths.

    Raises:
        DatasetError: the card is invalid, or the images or sequences it names are not there.
    """
    card, folder = read_card(dataset), find_card(dataset).parent
    target = paths.read_path(find_card(dataset)).parent
    return [
        path
        for split, rule in card.splits.items()
        if isinstance(rule, Listed) and rule.drawn
        for path in _write(split, _draw(split, rule, card, folder), target)
    ]


def _draw(split: str, rule: Listed, card: Card, folder: Path) -> list[tuple[str, str]]:
    pairs = find_pairs(card, folder)
    images, masks = pairs.images, pairs.masks
    sequences, problems = read_sequences(paths.read_path(folder / card.sequences)) if card.sequences else ({}, [])
    if problems or not images:
        raise DatasetError(card.name, problems or [Problem("empty", str(folder), f"nothing matches {card.images}")])
    assert rule.drawn
    return list(resolve(split, rule.drawn, folder, images, masks, sequences))


def _write(split: str, pairs: list[tuple[str, str]], target: Path) -> list[Path]:
    written = []
    for subset in SUBSETS:
        path = list_path(target, split, subset)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{i}\n" for s, i in pairs if s == subset), encoding="utf-8")
        written.append(path)
    return written


def main(arguments: list[str]) -> None:
    """Write the lists of one data set (a name or the path of a card) and print their lengths."""
    if len(arguments) != 1:
        sys.exit("usage: python -m pipeline.maintenance.lists <name or card.yaml>")
    for path in write_lists(arguments[0]):
        print(f"{path}: {len(path.read_text(encoding='utf-8').splitlines())} ids")


if __name__ == "__main__":
    main(sys.argv[1:])
