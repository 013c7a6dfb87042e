"""Makes the samples of a split and checks their files: bytes, and on request pixels."""

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.datasets.card import Card, by_subset
from pipeline.datasets.card_checks import is_annotation_file
from pipeline.datasets.formats.large import few_at_a_time
from pipeline.datasets.image_files import Picture, Reading, decode_picture, explain
from pipeline.datasets.masks.choose import THREADS, MaskChoice
from pipeline.datasets.masks.none import NoMask
from pipeline.datasets.problems import Problem
from pipeline.datasets.samples import Sample, sample_digest
from pipeline.datasets.split_lists import Membership
from sward.contracts import IGNORE


def pair_up(members: Membership, choice: MaskChoice, sequences: dict[str, str]) -> tuple[list[Sample], list[Problem]]:
    """Samples without digests of all ids that have one image and a mask, and the problems of the others."""
    card, pairs = choice.card, choice.pairs
    reading = Reading(card.value_range, card.orientation == "stored")
    samples, problems = [], []
    for subset, i in members:
        images, masks = pairs.images.get(i, []), pairs.masks.get(i, [])
        one_mask = len(masks) == 1 or (bool(masks) and _parts(choice, masks))
        for files, kind, single in ((images, "image", len(images) < 2), (masks, "mask", one_mask or not masks)):
            if not files:
                problems.append(Problem(f"missing {kind}", i, f"no {_expected(card, kind, i)} ({subset})"))
            elif not single:
                problems.append(Problem("ambiguous", i, f"{kind}s {', '.join(f.name for f in files)}"))
        if len(images) == 1 and one_mask:
            sequence = sequences.get(i, "") if card.sequences else i
            samples.append(Sample(i, subset, images[0], choice.mask(i), sequence, "", reading))
    return samples, problems


def without_masks(images: dict[str, Path], card: Card, sequences: dict[str, str]) -> list[Sample]:
    """Training samples without digests of the images that have no mask, in the order of their ids."""
    reading = Reading(card.value_range, card.orientation == "stored")
    return [
        Sample(i, "train", path, NoMask(path, reading), sequences.get(i, i), "", reading)
        for i, path in sorted(images.items())
    ]


def _parts(choice: MaskChoice, masks: list[Path]) -> bool:
    """Whether several mask files are parts of one label: the card unites them, or each is of another class."""
    classes = [choice.pairs.classes.get(path) for path in masks if path not in choice.pairs.parts]
    if len(classes) == 1:
        return True
    return choice.card.several_masks == "union" or (None not in classes and len(set(classes)) == len(classes))


def _expected(card: Card, kind: str, i: str) -> str:
    """What was looked for: a file's name, or an entry of annotations."""
    patterns = by_subset(card.images if kind == "image" else card.masks)
    prefix, pattern = next(((p, q) for p, q in patterns if i.startswith(p)), patterns[0])
    if is_annotation_file(pattern):
        return f"entry in {pattern}"
    return "file " + pattern.replace("{id}", i.removeprefix(prefix))


@dataclass(frozen=True)
class Inspected:
    """A sample with its digest, and what was found in its files.

    Attributes:
        counts: pixels of each class, then of what is ignored; None where the files were not decoded.
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
    problems = [choice.problems[path] for path in sample.mask.paths if path in choice.problems]
    try:
        image = sample.image_path.read_bytes()
    except OSError as error:
        return Inspected(sample, "", [*problems, explain(Path(error.filename or sample.image_path), error)])
    digest = hashlib.sha256(image).hexdigest()
    try:
        mask = sample.mask.contents()
    except Exception as error:  # annotations are converted here, and can be broken in any way
        place = Path(getattr(error, "filename", None) or sample.mask_path)
        return Inspected(sample, digest, [*problems, explain(place, error)])
    sample = replace(sample, digest=sample_digest(image, *mask))
    plain = Inspected(sample, digest, problems)
    if not decode:
        return plain
    with few_at_a_time(image, *mask):
        return _decode(plain, image, mask, choice.card)


def _decode(read: Inspected, image: bytes, mask: tuple[bytes, ...], card: Card) -> Inspected:
    """What was read, with what its pixels show."""
    sample, problems = read.sample, list(read.problems)
    picture = label = None
    try:
        picture = decode_picture(image, sample.reading)
    except Exception as error:  # whatever a decoder throws at broken bytes belongs in the report
        problems.append(explain(sample.image_path, error))
    try:
        label = None if read.problems else sample.mask.label(mask)
    except Exception as error:
        problems.append(explain(sample.mask_path, error))
    if picture is None or label is None:
        return replace(read, problems=problems)
    problems += _misfits(sample, picture, label, card)
    counts = np.array([*((label == k).sum() for k in range(len(card.classes))), (label == IGNORE).sum()])
    return replace(read, problems=problems, counts=counts, transparent=picture.transparent)


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
