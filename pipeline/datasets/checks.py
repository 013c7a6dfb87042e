"""Checks a split: by its listing alone, or by opening every file."""

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.card import Card
from pipeline.datasets.image_files import Picture, decode_picture, explain
from pipeline.datasets.masks.choose import THREADS, MaskChoice
from pipeline.datasets.problems import Problem
from pipeline.datasets.samples import Sample, sample_digest
from pipeline.datasets.split_lists import Membership
from pipeline.datasets.split_rules import SUBSETS, Drawn, Listed, Matched
from sward.contracts import IGNORE


def check_membership(pairs: Membership, split: str, card: Card, sequences: dict[str, str]) -> list[Problem]:
    """Empty subsets, ids that stand twice, frames without a sequence, sequences in two subsets."""
    subsets = defaultdict(list)
    for subset, i in pairs:
        subsets[i].append(subset)
    present = {subset for subset, _ in pairs}
    empty = [subset for subset in _wanted(card, split) if subset not in present]
    problems = [Problem("empty", subset, f"no ids in split {split}") for subset in empty]
    problems += [Problem("two subsets", i, " and ".join(s)) for i, s in subsets.items() if len(s) > 1]
    if card.sequences:
        problems += [Problem("sequences", i, "has no sequence") for i in subsets if i not in sequences]
        if split == "sequence" or _whole_sequences(card.splits[split]):
            problems += _leaks(pairs, sequences)
    return problems


def _wanted(card: Card, split: str) -> tuple[str, ...]:
    """The subsets that a split promises."""
    rule = card.splits[split]
    if isinstance(rule, Matched):
        return tuple(rule.patterns)
    if isinstance(rule, Drawn):
        return rule.subsets
    if isinstance(rule, Listed):
        return ("train", "val", *(s for s in rule.files if s == "test"))
    return tuple(card.images) if isinstance(card.images, dict) else SUBSETS


def _whole_sequences(rule: Any) -> bool:
    drawn = rule.drawn if isinstance(rule, Listed) else rule
    return isinstance(drawn, Drawn) and drawn.by == "sequence"


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


@dataclass(frozen=True)
class Inspected:
    """A sample with its digest, and what was found in its files.

    Attributes:
        counts: pixels of each train id (256,), 255 is ignored; None where the files were not decoded.
        transparent: whether the image has pixels that were put over black.
    """

    sample: Sample
    image_digest: str
    problems: list[Problem]
    counts: np.ndarray | None = None
    transparent: bool = False


def inspect_files(samples: list[Sample], decode: bool, choice: MaskChoice) -> tuple[list[Inspected], list[Problem]]:
    """The samples with their digests, and what is wrong with their bytes (``decode``: and pixels)."""
    with ThreadPoolExecutor(THREADS) as pool:
        inspected = list(pool.map(lambda sample: _inspect(sample, decode, choice), samples))
    return inspected, [problem for one in inspected for problem in one.problems] + _same_bytes(inspected)


def _inspect(sample: Sample, decode: bool, choice: MaskChoice) -> Inspected:
    try:
        image = sample.image_path.read_bytes()
    except OSError as error:
        return Inspected(sample, "", [explain(Path(error.filename or sample.image_path), error)])
    digest = hashlib.sha256(image).hexdigest()
    try:
        mask = sample.mask.contents()
    except Exception as error:  # annotations are converted here, and can be broken in any way
        return Inspected(sample, digest, [explain(Path(getattr(error, "filename", None) or sample.mask_path), error)])
    sample = replace(sample, digest=sample_digest(image, *mask))
    return _decode(sample, image, mask, digest, choice) if decode else Inspected(sample, digest, [])


def _decode(sample: Sample, image: bytes, mask: tuple[bytes, ...], digest: str, choice: MaskChoice) -> Inspected:
    problems = [choice.problems[p] for p in sample.mask.paths if p in choice.problems]
    picture = label = None
    try:
        picture = decode_picture(image, sample.reading)
    except Exception as error:  # whatever a decoder throws at broken bytes belongs in the report
        problems.append(explain(sample.image_path, error))
    try:
        label = None if problems and sample.mask_path in choice.problems else sample.mask.label(mask)
    except Exception as error:
        problems.append(explain(sample.mask_path, error))
    if picture is None or label is None:
        return Inspected(sample, digest, problems)
    problems += _misfits(sample, picture, label, choice.card)
    counts = np.bincount(label.ravel(), minlength=256)
    return Inspected(sample, digest, problems, counts, picture.transparent)


def _misfits(sample: Sample, picture: Picture, label: np.ndarray, card: Card) -> list[Problem]:
    """Sizes that differ, an orientation that the mask's size does not settle, masks without any label."""
    problems = []
    (h, w), (mask_h, mask_w) = picture.pixels.shape[:2], label.shape
    stored = (w, h) if picture.orientation >= 5 and not sample.reading.stored else (h, w)
    if (h, w) != (mask_h, mask_w):
        found = f"image {w}x{h}, mask {sample.mask_path.name} {mask_w}x{mask_h} (width x height)"
        if picture.orientation > 1:
            found += f"; the image is turned by its EXIF orientation {picture.orientation}"
            found += ", the mask fits it as stored: orientation: stored" if stored == (mask_h, mask_w) else ""
        problems.append(Problem("sizes differ", str(sample.image_path), found))
    elif picture.orientation > 1 and card.orientation == "auto" and stored == (h, w):
        found = (
            f"EXIF orientation {picture.orientation}, and the mask fits the image upright and as stored; say on "
            "the card how the masks were painted: orientation: turned, or orientation: stored"
        )
        problems.append(Problem("unsupported", str(sample.image_path), found))
    if sample.subset != "train" and (label == IGNORE).all():
        text = f"every pixel is ignored ({sample.subset})"
        problems.append(Problem("nothing labelled", str(sample.mask_path), text))
    return problems


def _same_bytes(inspected: list[Inspected]) -> list[Problem]:
    same = defaultdict(list)
    for one in inspected:
        if one.image_digest:
            same[one.image_digest].append(one.sample)
    return [
        Problem("same bytes", first.id, f"({first.subset}) has the image of " + _places(others))
        for first, *others in same.values()
        if any(other.id != first.id for other in others)
    ]


def _places(samples: list[Sample]) -> str:
    return ", ".join(f"{sample.id} ({sample.subset})" for sample in samples)
