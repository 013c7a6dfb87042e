"""What is wrong with a split: by its listing alone, or by opening every file."""

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.datasets.card import Card, Drawn, Folds, Listed, Matched
from pipeline.datasets.file_listing import Found
from pipeline.datasets.image_files import Sample, decode_image, decode_label, explain, sample_digest
from pipeline.datasets.problems import Problem
from pipeline.datasets.splits import Membership
from sward.contracts import IGNORE

THREADS = 8  # decoding and hashing release the GIL; more threads only help slow disks


def pair_up(
    pairs: Membership, images: Found, masks: Found, sequences: dict[str, str], card: Card
) -> tuple[list[Sample], list[Problem]]:
    """Samples without digests of all ids that have one image and one mask, and the problems of the others."""
    samples, problems = [], []
    for subset, i in pairs:
        found = images.get(i, []), masks.get(i, [])
        for files, kind, pattern in zip(found, ("image", "mask"), (card.images, card.masks), strict=True):
            if not files:
                name = pattern.replace("{id}", i)
                problems.append(Problem(f"missing {kind}", i, f"no file {name} ({subset})"))
            if len(files) > 1:
                problems.append(Problem("ambiguous", i, f"{kind}s {', '.join(f.name for f in files)}"))
        if len(found[0]) == len(found[1]) == 1:
            sequence = sequences.get(i, "") if card.sequences else i
            samples.append(Sample(i, subset, found[0][0], found[1][0], sequence, "", card.encoding))
    return samples, problems


def check_membership(pairs: Membership, split: str, card: Card, sequences: dict[str, str]) -> list[Problem]:
    """Empty subsets, ids that stand twice, frames without a sequence, sequences in two subsets."""
    rule = card.splits[split]
    wanted = tuple(rule.patterns) if isinstance(rule, Matched) else ("train", "val", "test")
    wanted = ("train",) if isinstance(rule, Folds) else wanted
    subsets = defaultdict(list)
    for subset, i in pairs:
        subsets[i].append(subset)
    empty = [subset for subset in wanted if subset not in {s for s, _ in pairs}]
    problems = [Problem("empty", subset, f"no ids in split {split}") for subset in empty]
    problems += [Problem("two subsets", i, " and ".join(s)) for i, s in subsets.items() if len(s) > 1]
    if card.sequences:
        problems += [Problem("sequences", i, "has no sequence") for i in subsets if i not in sequences]
        if split == "sequence" or _whole_sequences(rule):
            problems += _leaks(pairs, sequences)
    return problems


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


@dataclass(frozen=True)
class _Inspected:
    sample: Sample
    image_digest: str
    problems: list[Problem]


def inspect_files(samples: list[Sample], decode: bool) -> tuple[list[Sample], list[Problem]]:
    """The samples with their digests, and what is wrong with their bytes (``decode``: and pixels)."""
    with ThreadPoolExecutor(THREADS) as pool:
        inspected = list(pool.map(lambda sample: _inspect(sample, decode), samples))
    problems = [problem for one in inspected for problem in one.problems] + _same_bytes(inspected)
    return [one.sample for one in inspected], problems


def _inspect(sample: Sample, decode: bool) -> _Inspected:
    try:
        image, mask = sample.image_path.read_bytes(), sample.mask_path.read_bytes()
    except OSError as error:
        return _Inspected(sample, "", [explain(Path(error.filename), error)])
    sample = replace(sample, digest=sample_digest(image, mask))
    problems = _decode(sample, image, mask) if decode else []
    return _Inspected(sample, hashlib.sha256(image).hexdigest(), problems)


def _decode(sample: Sample, image: bytes, mask: bytes) -> list[Problem]:
    problems, arrays = [], []
    for path, decoded in (
        (sample.image_path, lambda: decode_image(image)),
        (sample.mask_path, lambda: decode_label(mask, sample.encoding)),
    ):
        try:
            arrays.append(decoded())
        except Exception as error:  # whatever a decoder throws at broken bytes belongs in the report
            problems.append(explain(path, error))
    if len(arrays) < 2:
        return problems
    (h, w), (mask_h, mask_w) = (array.shape[:2] for array in arrays)
    if (h, w) != (mask_h, mask_w):
        found = f"image {w}x{h}, mask {sample.mask_path.name} {mask_w}x{mask_h} (width x height)"
        problems.append(Problem("sizes differ", str(sample.image_path), found))
    if sample.subset != "train" and (arrays[1] == IGNORE).all():
        problems.append(Problem("nothing labelled", str(sample.mask_path), f"every pixel is ignored ({sample.subset})"))
    return problems


def _same_bytes(inspected: list[_Inspected]) -> list[Problem]:
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
