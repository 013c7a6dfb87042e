"""Suggests what the values in masks mean: two values, labels, colours or annotations, with what a person must check."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets.annotations.labelme import names_in
from pipeline.datasets.image_files import open_mask
from pipeline.datasets.mask_encodings import Binary
from pipeline.datasets.masks.binary import facts_of
from pipeline.datasets.masks.decision import decide
from pipeline.datasets.masks.values import MaskError, grey_values
from pipeline.datasets.problems import DatasetError, Problem

MOST_FILES = 200  # masks that are read, spread evenly over the set
MOST_CLASSES = 64
VOID = 255  # of labels: what nothing is learnt from, by a common convention
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Suggestion:
    """Classes and encoding of a card. checks: sentences for the person who knows the set."""

    classes: tuple[str, ...]
    encoding: dict[str, Any]
    checks: list[str] = field(default_factory=list)


def suggest(files: list[Path], folders: tuple[str, ...] = ()) -> Suggestion:
    """What a card would say of these masks.

    Args:
        files: the masks.
        folders: classes that are known from folder names.

    Raises:
        DatasetError: a mask cannot be read, or has more colours than a set has classes.
    """
    chosen = files[:: max(1, len(files) // MOST_FILES)]
    if all(p.suffix.lower() == ".json" for p in chosen):
        names = sorted({name for p in chosen for name in names_in(p.read_bytes())} - {"background"})
        return Suggestion(("background", *names), {"kind": "annotated"})
    if folders:
        return Suggestion(folders, {"kind": "binary"})
    masks = {path: _opened(path) for path in chosen}
    return _two_valued(masks) or _labelled(masks) or _coloured(masks)


def _opened(path: Path) -> Image.Image:
    try:
        return open_mask(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(str(path), [Problem("unreadable", str(path), str(error))]) from error


def _two_valued(masks: dict[Path, Image.Image]) -> Suggestion | None:
    """Black and white, as the loader itself decides it; grey borders of resized masks by a threshold."""
    try:
        facts = [facts_of(str(path), mask) for path, mask in masks.items()]
    except (MaskError, ValueError):
        return None
    two = ("background", "object")
    if all(isinstance(cut, int) for cut in decide(facts)):
        return Suggestion(two, {"kind": "binary"}, [] if any(f.maximum for f in facts) else ["no mask has an object"])
    values = {v for f in facts for v in f.values.tolist()}
    if len(values) <= MOST_CLASSES:
        return None
    cut = (max(f.maximum for f in facts) + 1) // 2
    told = f"masks hold {len(values)} grey values; those from {cut} on are taken as the object (a resized mask?)"
    return Suggestion(two, Binary(threshold=cut).model_dump(exclude_defaults=True) | {"kind": "binary"}, [told])


def _labelled(masks: dict[Path, Image.Image]) -> Suggestion | None:
    """Grey values or palette indices as labels, in their order; 255 beside smaller ones is left out."""
    try:
        found = [np.unique(np.asarray(m) if m.mode == "P" else grey_values(m, exact=True)) for m in masks.values()]
    except MaskError:
        return None
    values = sorted({int(v) for of in found for v in of})
    if values[0] < 0 or values[-1] > 65535 or len(values) > MOST_CLASSES:
        return None
    if values == [1, 2, 3]:
        told = "values 1, 2, 3 are read as a trimap: 1 the object, 2 background, 3 a border that is left out"
        return Suggestion(("background", "object"), {"kind": "indexed", "labels": {2: 0, 1: 1}, "ignore": [3]}, [told])
    void = [v for v in values if v == VOID and len(values) > 2]
    kept = [v for v in values if v not in void]
    names = tuple("background" if v == 0 else f"class-{v}" for v in kept)
    checks = ["the names of the classes are made up from the values: write their real ones"]
    checks += ["255 is taken as void: nothing is learnt or counted there"] if void else []
    checks += ["0 is taken as background; if it means void, move it from labels to ignore"] if kept[0] == 0 else []
    encoding: dict[str, Any] = {"kind": "indexed", "labels": {v: k for k, v in enumerate(kept)}}
    return Suggestion(names, encoding | ({"ignore": void} if void else {}), checks) if len(kept) > 1 else None


def _coloured(masks: dict[Path, Image.Image]) -> Suggestion:
    """A colour for each class."""
    colours: set[Colour] = set()
    for path, mask in masks.items():
        colours |= set(_colours(mask))
        if len(colours) > MOST_CLASSES:
            found = f"more than {MOST_CLASSES} colours or values; expected one for each class: masks saved as JPEG or"
            raise DatasetError(str(path), [Problem("mask values", str(path), f"{found} drawn over the image?")])
    ordered = sorted(colours, key=lambda c: (sum(c) > 0, c[::-1]))
    names = tuple("background" if c == (0, 0, 0) else "class-{:02x}{:02x}{:02x}".format(*c) for c in ordered)
    told = "the names of the classes are made up from the colours: write their real ones, in both places"
    pairs = {name: list(colour) for name, colour in zip(names, ordered, strict=True)}
    return Suggestion(names, {"kind": "palette", "colours": pairs}, [told])


def _colours(mask: Image.Image) -> Iterable[Colour]:
    rgb = np.unique(np.asarray(mask.convert("RGB")).reshape(-1, 3), axis=0)[: MOST_CLASSES + 1]
    return [(int(r), int(g), int(b)) for r, g, b in rgb]
