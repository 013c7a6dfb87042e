"""LabelMe JSON, one file an image: polygons, rectangles, circles and masks, painted as LabelMe paints them."""

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipeline.datasets.annotations.names import Names, as_contents, from_contents, read_object, require_object
from pipeline.datasets.image_files import PLAIN, Reading, picture_size
from pipeline.datasets.masks.files import Overlap, Part, paint
from pipeline.datasets.masks.values import MaskError

LARGEST = 178_956_970  # pixels; what Pillow opens at most
OUTLINES = ("polygon", "oriented_rectangle", "rotation")  # given by their corners; X-AnyLabeling's name is the last
KINDS = (*OUTLINES, "rectangle", "circle", "line", "linestrip", "point", "points")
EXPECTED = "LabelMe's shapes, imageHeight and imageWidth"


@dataclass(frozen=True)
class LabelMeMask:
    """One LabelMe file. image, reading: what it annotates, whose size it has where the file does not say it."""

    path: Path
    names: Names
    overlap: Overlap
    image: Path
    reading: Reading = PLAIN

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def contents(self) -> tuple[bytes, ...]:
        """The label that the file is converted to."""
        found = parse(self.path.read_bytes())
        sizes = [found.get(key) for key in ("imageHeight", "imageWidth")]
        if sizes == [None, None] and "shapes" in found:  # so LabelMe wrote its files before version 3; later, null
            height, width = picture_size(self.image.read_bytes(), self.reading)
            found |= {"imageHeight": height, "imageWidth": width}
        return as_contents(convert(found, self.names, self.overlap))

    def label(self, contents: tuple[bytes, ...]) -> np.ndarray:
        return from_contents(contents)

    def absolute(self) -> "LabelMeMask":
        return replace(self, path=self.path.absolute(), image=self.image.absolute())


def convert(found: dict[str, Any], names: Names, overlap: Overlap) -> np.ndarray:
    """(H, W) uint8 train ids of what ``parse`` gives of a LabelMe file.

    Raises:
        MaskError: not LabelMe's, an unknown name, a shape without an area, or overlapping classes.
    """
    size = [found.get("imageHeight"), found.get("imageWidth")]
    size = [int(n) if isinstance(n, float) and n.is_integer() else n for n in size]
    if not all(isinstance(n, int) and n > 0 for n in size) or not isinstance(found.get("shapes"), list):
        coco = "; a COCO file has all images, name it alone: masks: annotations.json" if "annotations" in found else ""
        raise MaskError(f"is JSON with {', '.join(sorted(found)[:6]) or 'nothing in it'}; expected {EXPECTED}{coco}")
    height, width = int(size[0] or 0), int(size[1] or 0)
    if height * width > LARGEST:
        raise MaskError(f"says it is {width}x{height} pixels large; expected at most {LARGEST} pixels")
    shapes = [require_object(shape, EXPECTED) for shape in found["shapes"]]
    parts = [_part(shape, (height, width), names) for shape in shapes]
    return paint((height, width), names.background, parts, overlap)


def parse(content: bytes) -> dict[str, Any]:
    """The JSON of a file.

    Raises:
        MaskError: it is no JSON.
    """
    return read_object(content, EXPECTED)


def names_in(content: bytes) -> set[str]:
    """The names that a file's shapes use; empty where it cannot be read."""
    try:
        return {str(shape["label"]) for shape in parse(content)["shapes"]}
    except (MaskError, KeyError, TypeError):
        return set()


def _part(shape: dict[str, Any], size: tuple[int, int], names: Names) -> Part:
    name = str(shape.get("label"))
    number = int(name) if name.isdecimal() else None
    try:
        return _area(shape, size), names.train_id(name, number)
    except (TypeError, ValueError, KeyError, IndexError, OSError) as error:
        if isinstance(error, MaskError):
            raise
        raise MaskError(
            f"shape {name!r} is damaged ({type(error).__name__}: {error}); expected LabelMe's points"
        ) from error


def _area(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of one shape, in LabelMe's way (`labelme.utils.shape_to_mask`)."""
    kind = shape.get("shape_type") or "polygon"
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if not np.isfinite(points).all():
        raise ValueError("coordinates that are no finite numbers")
    if kind == "mask":
        return _pasted(shape["mask"], points, size)
    area = Image.new("1", size[::-1], 0)
    pen = ImageDraw.Draw(area)
    if kind in OUTLINES and len(points) > 2:
        pen.polygon(points, outline=1, fill=1)
    elif kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        pen.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], outline=1, fill=1)
    elif kind == "circle" and len(points) == 2:
        (x, y), edge = points[0], points[1]
        r = float(np.hypot(edge[0] - x, edge[1] - y))
        pen.ellipse([x - r, y - r, x + r, y + r], outline=1, fill=1)
    else:
        why = "which has no area" if kind in KINDS else "a shape that is not read"
        raise MaskError(
            f"shape {shape.get('label')!r} is a {kind} of {len(points)} points, {why}; "
            "expected polygons, rectangles, circles or masks: draw its outline"
        )
    return np.array(area, bool)


def _pasted(packed: str, points: list[tuple[float, float]], size: tuple[int, int]) -> np.ndarray:
    """A picture packed into the file, at its place."""
    inner = np.asarray(Image.open(io.BytesIO(base64.b64decode(packed))).convert("L")) > 0
    left, top = (round(value) for value in points[0])
    area = np.zeros(size, bool)
    target = area[max(top, 0) : top + inner.shape[0], max(left, 0) : left + inner.shape[1]]
    cut = inner[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]
    target[:] = cut
    return area
