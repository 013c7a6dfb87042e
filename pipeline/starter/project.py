"""Writes a project for a folder of images and masks: card.yaml, cache.yaml, train.yaml and compare.yaml, commented.

Nothing that exists is replaced: if one of the four names is taken, none is written.
"""

import os
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets.formats.wide import is_wide, wide_values
from pipeline.datasets.image_files import open_picture
from pipeline.datasets.loading import check
from pipeline.datasets.problems import DatasetError, Problem, describe
from pipeline.files import write_atomic
from pipeline.own_files import ForeignFileError, refusal
from pipeline.paths import expand
from pipeline.starter.mask_values import Suggestion, suggest
from pipeline.starter.pairs import Pairing, find_pairing, subsets_of
from pipeline.yaml_files import dump_yaml

NAMES = ("card.yaml", "cache.yaml", "train.yaml", "compare.yaml")
LOOKED_AT = 50  # images whose size and depth are read
LARGEST_SIDE = 512  # pixels; larger images are made smaller for the teacher
TEACHER = """\
teacher:
  architecture: pocket                     # comes with the program: good for a first run, weak on real images
  weights: data/pocket-teacher/trunk.safetensors
# A real one (extra `teacher`), in place of the three lines above:
# teacher:
#   architecture: tiny                     # tiny, small, base_plus or large
#   weights: hub:facebook/sam2.1-hiera-tiny/sam2.1_hiera_tiny.pt
"""


@dataclass(frozen=True)
class Project:
    """What was written. files: the four of them. lines: what was found, for people. problems: of the data set."""

    files: list[Path]
    lines: list[str]
    problems: str


def write_project(folder: str | Path) -> Project:
    """Looks at a folder, writes the four files into it, and loads the set by the new card.

    Raises:
        DatasetError: there are no pairs of images and masks, or their values cannot be understood.
        ForeignFileError: one of the files exists.
    """
    place = Path(expand(folder))
    if not place.is_dir():
        raise DatasetError(
            str(place), [Problem("missing image", str(place), "is no folder; give the one of your images")]
        )
    for path in (place / name for name in NAMES):
        if os.path.lexists(path):
            raise ForeignFileError(refusal(path))
    pairing = find_pairing(place)
    meaning = suggest(pairing.mask_files, pairing.classes)
    height, width, bits = _sizes(pairing.image_files)
    name = re.sub(r"[^a-z0-9]+", "-", place.resolve().name.lower()).strip("-") or "my-set"
    texts = (
        card_text(name, place, pairing, meaning, bits),
        cache_text(name, place, (height, width)),
        train_text(name, place),
        compare_text(name, place),
    )
    for path, text in zip((place / n for n in NAMES), texts, strict=True):
        write_atomic(path, text)
    found = check(place / "card.yaml", "mine")
    lines = [
        f"{len(pairing.ids)} pairs: {_said(pairing.images)} with {_said(pairing.masks)}",
        f"images: {height} × {width} pixels (median)" + (f", {bits} bits" if bits else ""),
        f"masks: {meaning.encoding['kind']}, classes {', '.join(meaning.classes)}",
        *(f"check: {text}" for text in meaning.checks),
    ]
    return Project([place / n for n in NAMES], lines, describe(name, found) if found else "")


def _said(patterns: str | dict[str, str]) -> str:
    return patterns if isinstance(patterns, str) else ", ".join(patterns.values())


def _sizes(files: list[Path]) -> tuple[int, int, int]:
    """Median height and width of some images, and the bits of their values where that is more than 8, else 0."""
    heights, widths, largest = [], [], 0
    for path in files[:: max(1, len(files) // LOOKED_AT)]:
        try:
            content = path.read_bytes()
            image = open_picture(content)
            heights.append(image.height)
            widths.append(image.width)
            largest = max(largest, int(wide_values(image, content).max()) if is_wide(image) else 0)
        except (OSError, ValueError):
            continue  # told with its reason when the set is checked
    if not heights:
        text = "no image can be opened; expected PNG, JPEG, TIFF, BMP or WebP (others: write the card by hand)"
        raise DatasetError(str(files[0].parent), [Problem("unreadable", str(files[0]), text)])
    return round(statistics.median(heights)), round(statistics.median(widths)), largest and max(9, largest.bit_length())


def split_of(pairing: Pairing) -> tuple[dict[str, Any], str]:
    """The split of the card, and why."""
    if isinstance(pairing.images, dict):
        return {"kind": "given"}, "the folders say it"
    if named := subsets_of(pairing.ids):
        return {"kind": "matched", "patterns": named}, "the names say it"
    few = len(pairing.ids) < 40
    fractions = [0.6, 0.2, 0.2] if few else [0.8, 0.1, 0.1]
    why = "drawn; of images with the same bytes only the first is used. Frames of one video or patient must not be"
    return {"kind": "drawn", "fractions": fractions, "duplicates": "first"}, f"{why}\n  # divided: see `sequences`"


def card_text(name: str, place: Path, pairing: Pairing, meaning: Suggestion, bits: int) -> str:
    """The card, every entry with what to check."""
    rule, why = split_of(pairing)
    parts = [
        "# What this data set is. Written by `sward init` from the files; correct what it could not know.",
        _yaml({"name": name, "title": place.resolve().name, "citation": "unknown", "licence": "unknown"}),
        "# Names of the classes, in the order of their labels.",
        *(f"# Check: {text}." for text in meaning.checks),
        _yaml({"classes": list(meaning.classes)}),
        "# {id} is a sample's name; the rest of a pattern is the same for all.",
        _yaml({"images": pairing.images, "masks": pairing.masks}),
        *([_yaml({"several_masks": "union"})] if pairing.several else []),
        *(
            ["# Values of the images use so many bits: check the camera's or scanner's.", _yaml({"bits": bits})]
            if bits
            else []
        ),
        "# What the values in the masks mean.",
        _yaml({"encoding": meaning.encoding}),
        f"splits:\n  # {why}.\n  mine: {dump_yaml(rule, default_flow_style=True, width=1000).strip()}",
    ]
    return "\n".join(parts) + "\n"


def cache_text(name: str, place: Path, size: tuple[int, int]) -> str:
    """The cache config: the teacher, the size of a view, and how many."""
    scale = min(1.0, LARGEST_SIDE / max(size))
    rounded = [max(64, 32 * round(side * scale / 32)) for side in size]
    return (
        "# Stage 1: `sward plan` estimates it, `sward extract` makes the store. All keys: `sward config extract`.\n"
        + _yaml({"dataset": str(place / "card.yaml"), "split": "mine"})
        + "\n"
        + TEACHER
        + f"size: {rounded}  # height and width of a view, multiples of 32; the median image has {list(size)}\n"
        + "views: {count: 4}  # augmented views of each training image\n"
        + _yaml({"store": f"data/{name}/caches/{name}.zarr"})
        + "\n"
    )


def train_text(name: str, place: Path) -> str:
    """The train config: a small student with SWARD."""
    return (
        "# Stage 2: `sward train` trains one student. All keys: `sward config train`; methods: `sward list methods`.\n"
        + _yaml({"name": name, "runs": f"runs/{name}", "cache": str(place / "cache.yaml")})
        + "\nstudent: {kind: unext}\nmethod: {kind: sward, pdr: {features: penultimate}}\noptimizer: {lr: 2.0e-3}\n"
        + "steps: 1000\nbatch_size: 4\n"
    )


def compare_text(name: str, place: Path) -> str:
    """The comparison: the student alone and with SWARD, two seeds each."""
    return (
        "# `sward compare` trains all rows and seeds, writes table and report. All keys: `sward config compare`.\n"
        + _yaml({"name": f"{name}-compare", "train": str(place / "train.yaml")})
        + "\nmethods:\n  student alone: {kind: plain}\n  SWARD: {kind: sward, pdr: {features: penultimate}}\n"
        + "seeds: [0, 1]  # more seeds: narrower intervals\nteacher: {steps: 300}  # the teacher's own row\n"
    )


def _yaml(values: dict[str, Any]) -> str:
    """One line a key, values in one line."""
    flows = (dump_yaml({k: v}, default_flow_style=True, width=1000).strip()[1:-1] for k, v in values.items())
    return "\n".join(flows)
