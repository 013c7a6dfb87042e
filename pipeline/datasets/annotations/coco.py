"""COCO JSON, one file for many images: polygons and run lengths, rasterised by pycocotools (extra ``annotations``)."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from pipeline.datasets.annotations.names import Names, as_contents, from_contents, read_object
from pipeline.datasets.file_listing import same_name
from pipeline.datasets.formats.errors import UnsupportedImageError
from pipeline.datasets.masks.files import Overlap, Part, paint
from pipeline.datasets.masks.values import MaskError
from pipeline.datasets.problems import shortened

EXTRA = "COCO annotations are read with pycocotools: pip install 'sward[annotations]'"
EXPECTED = "COCO's images, annotations and categories"
PANOPTIC = "export instances (polygons or run lengths), or masks of one value a class with encoding indexed"
LARGEST = 178_956_970  # pixels; what Pillow opens at most
FARTHEST = 1_000_000  # pixels from the corner; pycocotools counts in 32 bits


@dataclass(frozen=True)
class Segment:
    """One annotation: its number and name of the category, its area as COCO writes it, its id for messages."""

    number: int
    name: str
    area: Any
    title: str


@dataclass(frozen=True)
class CocoMask:
    """The annotations of one image."""

    path: Path
    size: tuple[int, int]
    segments: tuple[Segment, ...]
    names: Names
    overlap: Overlap

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def contents(self) -> tuple[bytes, ...]:
        """The label that the annotations are converted to."""
        parts = [self._part(segment) for segment in self.segments]
        return as_contents(paint(self.size, self.names.background, parts, self.overlap))

    def label(self, contents: tuple[bytes, ...]) -> np.ndarray:
        return from_contents(contents)

    def absolute(self) -> "CocoMask":
        return self

    def _part(self, segment: Segment) -> Part:
        return rasterise(segment, self.size), self.names.train_id(segment.name, segment.number)


@dataclass(frozen=True)
class CocoFile:
    """A COCO file by file name of the images. titles: number -> name of the categories that annotations use."""

    path: Path
    images: dict[str, tuple[tuple[int, int], tuple[Segment, ...]]]
    titles: dict[int, str]

    @cached_property
    def by_end(self) -> dict[str, list[str]]:
        """Entries by every end of their path and by that of their address (``a%20b.png``), in one way of writing."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            for written in dict.fromkeys((comparable(name), comparable(unquote(name)))):
                parts = written.split("/")
                for n in range(len(parts)):
                    found["/".join(parts[n:])].append(name)
        return found

    def find(self, image: Path, root: Path) -> str | None:
        """The entry of an image file: by its path below ``root``, by the end of it, or by its bare name."""
        place = image.relative_to(root) if image.is_relative_to(root) else image
        ends = ["/".join(place.parts[k:]) for k in range(len(place.parts))]
        if exact := next((end for end in ends if end in self.images), None):
            return exact
        alike = [self.by_end.get(comparable(end), []) for end in ends]
        return next((same[0] for same in alike if len(set(same)) == 1), None)


def comparable(name: str) -> str:
    """A path in the way of writing in which paths are compared: composed letters, the extension in lower case."""
    stem, dot, extension = same_name(name).rpartition(".")
    return stem + dot + extension.lower()


def read_coco(path: Path) -> CocoFile:
    """A COCO file.

    Raises:
        MaskError: not COCO's JSON; the message says what is there and what was expected.
        OSError: the file cannot be read.
    """
    found = read_object(path.read_bytes(), EXPECTED)
    if absent := [key for key in ("images", "annotations", "categories") if not isinstance(found.get(key), list)]:
        raise MaskError(f"has no list of {', '.join(absent)}; expected {EXPECTED}")
    if any("segments_info" in a for a in found["annotations"] if isinstance(a, dict)):
        raise MaskError(f"is COCO's panoptic form, whose areas are in PNG files; {PANOPTIC}")
    try:
        return _by_image(path, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, MaskError):
            raise
        raise MaskError(f"is damaged ({type(error).__name__}: {error}); expected {EXPECTED}") from error


def _by_image(path: Path, found: dict[str, Any]) -> CocoFile:
    titles: dict[int, str] = {}
    for category in found["categories"]:
        number, title = int(category["id"]), str(category["name"])
        if titles.setdefault(number, title) != title:
            raise MaskError(f"calls category {number} both {titles[number]!r} and {title!r}; give each id one name")
    if same := [i for i, count in Counter(_key(i["id"]) for i in found["images"]).items() if count > 1]:
        raise MaskError(f"has several images with the same id: {shortened(same)}; give each image its own")
    segments: dict[str, list[Segment]] = defaultdict(list)
    for a in found["annotations"]:
        number = int(a["category_id"])
        if number not in titles:
            raise MaskError(f"annotation {a.get('id')} has category {number}; expected one of {sorted(titles)}")
        segments[_key(a["image_id"])].append(Segment(number, titles[number], a.get("segmentation"), str(a.get("id"))))
    if lost := sorted(set(segments) - {_key(i["id"]) for i in found["images"]}):
        raise MaskError(f"has annotations of images that it does not list: image_id {', '.join(lost[:5])}")
    names = [str(i["file_name"]).replace("\\", "/").removeprefix("./") for i in found["images"]]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise MaskError(f"lists an image twice: {shortened(twice)}; keep one entry for each")
    images = {name: (_size(i), tuple(segments[_key(i["id"])])) for name, i in zip(names, found["images"], strict=True)}
    return CocoFile(path, images, {s.number: s.name for of in segments.values() for s in of})


def _key(number: Any) -> str:
    """An id as text; 1.0, as tables write a column with gaps, is 1."""
    return str(int(number) if isinstance(number, float) and number.is_integer() else number)


def _size(image: dict[str, Any]) -> tuple[int, int]:
    height, width = int(image["height"]), int(image["width"])
    if height < 1 or width < 1 or height * width > LARGEST:
        raise MaskError(f"says that {image['file_name']} is {width}x{height} pixels large")
    return height, width


def rasterise(segment: Segment, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of one annotation.

    Raises:
        UnsupportedImageError: pycocotools is not installed.
        MaskError: no area, or one that does not fit the image.
    """
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise UnsupportedImageError(EXTRA) from error
    area, title = segment.area, f"annotation {segment.title} ({segment.name!r})"
    if not area:
        raise MaskError(f"{title} has no segmentation (a box alone?); expected polygons or run lengths")
    if isinstance(area, list) and len(area) >= 6 and not any(isinstance(p, list) for p in area):
        area = [area]  # one polygon without the list around it
    if isinstance(area, list) and not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in area):
        raise MaskError(f"{title} has a polygon of fewer than three points; expected x, y of three or more")
    counts = area.get("counts") if isinstance(area, dict) else None
    if isinstance(area, dict) and list(area.get("size", ())) != list(size):
        raise MaskError(f"{title} has run lengths for {area.get('size')}, the image is {list(size)} (height, width)")
    try:
        if isinstance(area, list) and not (np.abs(np.array([v for p in area for v in p], float)) < FARTHEST).all():
            raise ValueError(f"coordinates that are no finite numbers below {FARTHEST:,}")  # pycocotools would crash
        if counts is not None:  # pycocotools would read past the end of what does not fit
            require_whole(unpacked(counts) if isinstance(counts, (str, bytes)) else counts, size)
        runs = area if isinstance(counts, (str, bytes)) else coco.frPyObjects(area, *size)
        decoded = coco.decode(coco.merge(runs) if isinstance(runs, list) else runs)
    except Exception as error:  # pycocotools raises plain Exceptions too
        raise MaskError(f"{title} is damaged ({type(error).__name__}: {error})") from error
    return decoded.astype(bool)


def unpacked(counts: str | bytes) -> list[int]:
    """COCO's packed run lengths as numbers: groups of 5 bits, lowest first, as differences to the last but one.

    Raises:
        ValueError: it is no such text.
    """
    found: list[int] = []
    value = shift = 0
    for code in counts.encode() if isinstance(counts, str) else counts:
        if not 0 <= (bits := code - 48) < 64:
            raise ValueError(f"the byte {code} in packed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("packed run lengths end within a number")
    return found


def require_whole(runs: list[int], size: tuple[int, int]) -> None:
    """Raises ValueError unless run lengths cover an image of ``size`` (height, width)."""
    if (lowest := min(runs, default=0)) < 0:
        raise ValueError(f"a run length of {lowest}")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"run lengths of {sum(runs)} pixels, the image has {size[0] * size[1]}")
