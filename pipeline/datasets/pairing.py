"""Finds a card's images and masks, and pairs them by id."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.datasets.annotations.coco import CocoFile, read_coco
from pipeline.datasets.card import Card, by_subset
from pipeline.datasets.card_checks import is_annotation_file
from pipeline.datasets.file_listing import (
    PICTURES,
    Found,
    Match,
    Tree,
    is_skipped,
    list_tree,
    match_files,
    passed_over,
    same_name,
    start_of,
)
from pipeline.datasets.image_files import explain
from pipeline.datasets.mask_encodings import Indexed
from pipeline.datasets.masks.values import MaskError
from pipeline.datasets.problems import Problem, shortened

NUMBERED = re.compile(r"[ _-]*(\d+|\(\d+\))")  # what the name of a further part has more than that of the first mask


@dataclass
class Pairs:
    """What a card's patterns find.

    Attributes:
        images: id -> image files.
        masks: id -> mask files; an id of a COCO file has that file.
        classes: mask file -> the class of its folder, where the pattern has {class}.
        parts: mask files beyond the first of an id, taken for parts of its label by their names.
        entries: id -> its COCO file and the entry there.
        unlabelled: id -> image of which no mask is expected.
        notes: what was passed over.
        problems: what is wrong with the listing itself.
    """

    images: Found
    masks: Found
    classes: dict[Path, str] = field(default_factory=dict)
    parts: set[Path] = field(default_factory=set)
    entries: dict[str, tuple[CocoFile, str]] = field(default_factory=dict)
    unlabelled: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def find_pairs(card: Card, folder: Path) -> Pairs:
    """List the images and masks of a card whose files lie below ``folder``."""
    trees: dict[Path, Tree] = {}
    images = [_matches(card, folder, trees, *p) for p in by_subset(card.images)]
    files = [p for p in by_subset(card.masks) if not is_annotation_file(p[1])]
    masks = [_matches(card, folder, trees, *p) for p in files]
    kept = _without_overlap(images, [p for _, p in by_subset(card.images)], masks, [p for _, p in files])
    found = Pairs(_by_id(kept[0]), {})
    found.masks = _by_id(_named_as(kept[1], found.images))
    found.classes = {m.path: m.class_name for m in kept[1] if m.class_name}
    if card.several_masks == "parts" and not found.classes:
        _take_parts(_unmatched(card, folder, trees.values(), set()), found)
    _read_annotations(card, folder, found)
    _set_unlabelled(card, folder, trees, found)
    matched = {m.path for of in (*images, *masks) for m in of} | set(found.unlabelled.values()) | found.parts
    unmatched = _unmatched(card, folder, trees.values(), matched)
    found.notes += passed_over([p for tree in trees.values() for p in tree.hidden], unmatched, paths_root(folder))
    found.problems += [explain(Path(e.filename), e) for tree in trees.values() for e in tree.errors]
    found.problems += [_told_second(*second) for second in _second_masks(unmatched, found.masks)]
    found.problems += _unknown_classes(card, found.classes)
    found.problems += _undecodable([*found.images.values(), *found.masks.values()])
    return found


def paths_root(folder: Path) -> Path:
    """Where the card's folder is read from."""
    return start_of(folder, "{id}")


def _matches(card: Card, folder: Path, trees: dict[Path, Tree], id_prefix: str, pattern: str) -> list[Match]:
    start = start_of(folder, pattern)
    if start not in trees:
        trees[start] = list_tree(start, pattern)
    found = match_files(trees[start], pattern)
    root = paths_root(folder)
    return [replace(m, id=id_prefix + m.id) for m in found if not is_skipped(m.path, root, card.skip)]


def _set_unlabelled(card: Card, folder: Path, trees: dict[Path, Tree], found: Pairs) -> None:
    """Take the images of the card's pattern ``unlabelled`` that have no mask, also out of ``images``."""
    own = {path: i for i, files in found.images.items() for path in files}
    labels = {path for files in found.masks.values() for path in files}
    for match in _matches(card, folder, trees, "", card.unlabelled) if card.unlabelled else ():
        i = own.get(match.path, match.id)
        if match.path in labels or (match.path in own and i in found.masks):
            continue  # a mask, or an image that has one
        if i in found.unlabelled or (match.path not in own and i in {*found.images, *found.masks}):
            found.problems.append(
                Problem("ambiguous", i, f"{match.path.name} of `unlabelled` has the id of another file")
            )
            continue
        found.unlabelled[i] = match.path
        found.images.pop(i, None)
    if card.unlabelled and not found.unlabelled:
        place, what = start_of(folder, card.unlabelled), f"nothing without a mask matches {card.unlabelled}"
        found.problems.append(Problem("missing image", str(place), f"{what}; correct `unlabelled`, or leave it out"))


def _without_overlap(
    images: list[list[Match]], image_patterns: list[str], masks: list[list[Match]], mask_patterns: list[str]
) -> tuple[list[Match], list[Match]]:
    """All images and all masks; a file that both match belongs to the pattern with more fixed text."""
    weights = {m.path: _weight(p) for p, of in zip(mask_patterns, masks, strict=True) for m in of}
    image_weights = {m.path: _weight(p) for p, of in zip(image_patterns, images, strict=True) for m in of}
    return (
        [m for of in images for m in of if weights.get(m.path, -1) <= image_weights[m.path]],
        [m for of in masks for m in of if image_weights.get(m.path, -1) <= weights[m.path]],
    )


def _weight(pattern: str) -> int:
    for placeholder in ("{id}", "{class}", "*"):
        pattern = pattern.replace(placeholder, "")
    return len(pattern)


def _named_as(masks: list[Match], images: Found) -> list[Match]:
    """The masks with the ids of their images, where only the composition of letters differs (NFC, NFD)."""
    known = {same_name(i): i for i in images}
    return [m if m.id in images else replace(m, id=known.get(same_name(m.id), m.id)) for m in masks]


def _by_id(matches: list[Match]) -> Found:
    found: Found = {}
    for match in matches:
        found.setdefault(match.id, []).append(match.path)
    return found


def _unmatched(card: Card, folder: Path, trees: Iterable[Tree], matched: set[Path]) -> list[Path]:
    """Pictures that no pattern matches and that ``skip`` does not name."""
    root = paths_root(folder)
    others = {p for tree in trees for p in tree.files if p.suffix.lower() in PICTURES} - matched
    return sorted(p for p in others if not is_skipped(p, root, card.skip))


def _second_masks(pictures: list[Path], masks: Found) -> list[tuple[Path, Path, str]]:
    """(picture, mask beside it, id) where the name of a picture continues that of a mask: ``x_mask_1``, ``x_mask``."""
    stems = {(p.parent, p.stem): (p, i) for i, of in masks.items() for p in of}
    seconds = []
    for path in pictures:
        starts = ((path.parent, path.stem[:n]) for n in range(len(path.stem) - 1, 0, -1))
        if first := next((stems[start] for start in starts if start in stems), None):
            seconds.append((path, *first))
    return seconds


def _told_second(path: Path, first: Path, i: str) -> Problem:
    found = f"no pattern of the card matches it; beside it {first.name} is the mask of {i}"
    return Problem("second mask", str(path), found)


def _take_parts(pictures: list[Path], found: Pairs) -> None:
    """Add numbered pictures beside masks (``x_mask_1.png``) to these; out of ``images`` where they have no mask."""
    with_mask = {p for i, of in found.images.items() if i in found.masks for p in of}
    free = [p for p in pictures if p not in with_mask.union(*found.masks.values())]
    own = {path: i for i, files in found.images.items() for path in files}
    for path, first, i in _second_masks(free, found.masks):
        if path.suffix == first.suffix and NUMBERED.fullmatch(path.stem.removeprefix(first.stem)):
            found.masks[i].append(path)
            found.parts.add(path)
            found.images.pop(own.get(path, ""), None)
    if found.parts:
        told = "numbered masks, united with the first of their image (several_masks: parts)"
        found.notes.append(f"{told} ({len(found.parts)}): {shortened(sorted(p.name for p in found.parts))}")


def _unknown_classes(card: Card, classes: dict[Path, str]) -> list[Problem]:
    unknown = {name: path for path, name in classes.items() if name not in card.classes}
    expected = f"expected one of {list(card.classes)}: add it to classes or to skip"
    return [Problem("mask values", str(p.parent), f"folder of class {n!r}; {expected}") for n, p in unknown.items()]


def _undecodable(files: Iterable[list[Path]]) -> list[Problem]:
    """A problem for every file whose name is no line of text: no list could hold it, and it could not be printed."""
    names = sorted({os.fsencode(path) for of in files for path in of})
    broken = [n for n in names if n.decode(errors="ignore").encode() != n]
    several = [repr(n)[1:-1] for n in (n.decode() for n in names if n not in broken) if len(n.splitlines()) > 1]
    return [
        *(Problem("name", name.decode(errors="backslashreplace"), "the name is not UTF-8") for name in broken),
        *(Problem("name", name, "the name has a line break") for name in several),
    ]


def _read_annotations(card: Card, folder: Path, found: Pairs) -> None:
    """Give each image of a COCO file its entry."""
    for id_prefix, pattern in by_subset(card.masks):
        if not is_annotation_file(pattern):
            continue
        path = start_of(folder, pattern) / Path(pattern).name
        try:
            coco = read_coco(path)
        except (MaskError, OSError) as error:
            missing = Problem("missing mask", str(path), "does not exist")
            found.problems.append(missing if isinstance(error, FileNotFoundError) else explain(path, error))
            continue
        _match_entries(coco, found, id_prefix, paths_root(folder))
    if isinstance(card.encoding, Indexed):
        found.problems += _renumbered(found)


def _renumbered(found: Pairs) -> list[Problem]:
    """A problem for every category that two COCO files give one number, but other names: its number is no label."""
    first: dict[int, tuple[CocoFile, str]] = {}
    problems = []
    for coco in {coco.path: coco for coco, _ in found.entries.values()}.values():
        for number, title in coco.titles.items():
            other, known = first.setdefault(number, (coco, title))
            if known != title:
                text = f"category {number} is {title!r}, in {other.path.name} {known!r}"
                problems.append(Problem("mask values", str(coco.path), f"{text}; use encoding annotated, by names"))
    return problems


def _match_entries(coco: CocoFile, found: Pairs, id_prefix: str, root: Path) -> None:
    used = set()
    for i, images in found.images.items():
        entry = coco.find(images[0], root) if i.startswith(id_prefix) else None
        if entry is not None:
            found.entries[i], found.masks[i] = (coco, entry), [coco.path]
            used.add(entry)
    if absent := sorted(set(coco.images) - used):
        found.notes.append(f"{coco.path.name} lists {len(absent)} images that no file is: {shortened(absent)}")
