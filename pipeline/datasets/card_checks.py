"""Mistakes of a card that concern several fields at once, each as a sentence."""

from typing import TYPE_CHECKING

from pipeline.datasets.mask_encodings import Annotated, Binary, Indexed, Palette
from pipeline.datasets.split_rules import Given

if TYPE_CHECKING:
    from pipeline.datasets.card import Card


def pattern_mistakes(card: "Card") -> list[str]:
    """Patterns without exactly one {id}, or per subset for one of images and masks alone."""
    images, masks = ([p] if isinstance(p, str) else [*p.values()] for p in (card.images, card.masks))
    named = [("images", p) for p in images] + [("masks", p) for p in masks if not is_annotation_file(p)]
    wrong = [
        f"{key} is {pattern!r}; expected exactly one {{id}} in it"
        for key, pattern in named
        if pattern.count("{id}") != 1
    ]
    if "{id}" in card.unlabelled or (card.unlabelled and "*" not in card.unlabelled):
        wrong.append(f"unlabelled is {card.unlabelled!r}; expected a pattern with * and without {{id}}")
    if any("{class}" in p for p in images):
        wrong.append("images have {class} in their pattern; expected it in masks only")
    wrong += [f"masks is {p!r}; expected {{class}} at most once" for p in masks if p.count("{class}") > 1]
    one_file = isinstance(card.masks, str) and is_annotation_file(card.masks)
    subsets = [set(p) if isinstance(p, dict) else set() for p in (card.images, card.masks)]
    if subsets[0] != subsets[1] and not one_file:
        wrong.append("images and masks name different subsets; give both per subset, with the same ones, or none")
    if isinstance(card.images, str) and any(isinstance(split, Given) for split in card.splits.values()):
        wrong.append("a split of kind given needs images per subset, e.g. images: {train: train/{id}.png, …}")
    return wrong


def value_mistakes(card: "Card") -> list[str]:
    """Classes and encoding that do not fit each other."""
    wrong = []
    if len(set(card.classes)) != len(card.classes):
        wrong.append(f"classes are {list(card.classes)}; expected each name once")
    if not all(map(str.strip, card.classes)):
        wrong.append(f"classes are {list(card.classes)}; expected a name for each")
    return wrong + (_layer_mistakes(card) if in_layers(card) else _encoding_mistakes(card))


def reading_mistakes(card: "Card") -> list[str]:
    """How images are read, said twice or impossible."""
    wrong = []
    if card.bits and card.window:
        wrong.append(f"bits is {card.bits} and window {list(card.window)}; expected one of them")
    if card.window and not card.window[0] < card.window[1]:
        wrong.append(f"window is {list(card.window)}; expected [low, high] with low < high")
    return wrong


def is_annotation_file(pattern: str) -> bool:
    """Whether a pattern of masks is one annotation file for all images (COCO)."""
    return pattern.lower().endswith(".json") and "{id}" not in pattern


def in_layers(card: "Card") -> bool:
    """Whether a label is made of several parts that each belong to one class."""
    patterns = [card.masks] if isinstance(card.masks, str) else [*card.masks.values()]
    return any("{class}" in p or p.lower().endswith(".json") for p in patterns)


def _layer_mistakes(card: "Card") -> list[str]:
    json = ".json" in str(card.masks).lower()
    if isinstance(card.encoding, Palette):
        return ["encoding is palette; masks of annotations or of a folder a class have no colours"]
    if not json:
        binary = isinstance(card.encoding, Binary)
        return [] if binary else [f"encoding is {card.encoding.kind} with {{class}} in masks; expected binary"]
    if not isinstance(card.encoding, Annotated):
        return _encoding_mistakes(card)
    unknown = sorted(set(card.encoding.names.values()) - set(card.classes))
    return [f"encoding.names leads to {unknown}; expected names of classes: {list(card.classes)}"] if unknown else []


def _encoding_mistakes(card: "Card") -> list[str]:
    encoding, classes = card.encoding, card.classes
    if isinstance(encoding, Annotated):
        return [
            "encoding is annotated; expected it with annotations only (masks: a COCO file, or {id}.json of LabelMe)"
        ]
    if isinstance(encoding, Indexed):
        found = set(encoding.labels.values())
        wanted = set(range(len(classes)))
        return [] if found == wanted else [f"labels map to {sorted(found)}; expected {sorted(wanted)}"]
    if isinstance(encoding, Palette):
        named = tuple(encoding.colours)
        return [] if named == classes else [f"colours name {list(named)}; expected {list(classes)}, in order"]
    if len(classes) == 2:
        return []
    ways = "a folder a class (masks/{class}/{id}.png), or for annotations encoding annotated"
    return [f"{len(classes)} classes with a binary mask; expected 2, {ways}"]
