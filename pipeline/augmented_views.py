"""Draws and renders deterministic augmented views (crop, flips, colours) of images and labels.

A view is a set of explicit parameters. They are drawn from (seed, sample digest, view number) alone, so adding or
removing images changes no other view. A view is rendered again from its stored parameters, not from the seed, and the
digest of the rendered pixels proves that it is the same view. View 0 is the whole image, resized and not augmented.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from pipeline.types import Size
from sward import seeds
from sward.contracts import Config

GENERATOR = 1  # increase it when draw() changes: old stores can still be read, but no longer extended
RESIZE = "pillow-bilinear-antialias/nearest"


class ViewsConfig(Config):
    """Distribution of the views. Ranges are inclusive; a factor range r means uniform in [1 - r, 1 + r]."""

    count: int = Field(1, ge=1, le=100_000, description="Views per training image (K); view 0 is the whole image.")
    seed: int = Field(0, ge=0, description="Base seed of all views.")
    zoom: tuple[float, float] = Field((1.0, 1.5), description="Range of the magnification; the box is base / zoom.")
    base: Literal["image", "native"] = Field(
        "image", description="Box at zoom 1: the whole image, or `size` source pixels (Cityscapes crops)."
    )
    hflip: bool = Field(True, description="Mirror left-right with probability 1/2.")
    vflip: bool = Field(True, description="Mirror top-bottom with probability 1/2.")
    rot90: bool = Field(False, description="Rotate by a random multiple of 90 degrees (square sizes only).")
    brightness: float = Field(0.2, ge=0, lt=1, description="Range of the brightness factor.")
    contrast: float = Field(0.2, ge=0, lt=1, description="Range of the contrast factor.")
    saturation: float = Field(0.2, ge=0, lt=1, description="Range of the saturation factor.")
    photometric: Literal["shared", "student"] = Field(
        "shared",
        description="Colour changes. shared: part of the view, seen by the teacher too; student: drawn again every "
        "epoch of stage 2, seen by the student only.",
    )

    @field_validator("zoom")
    @classmethod
    def _ordered(cls, zoom: tuple[float, float]) -> tuple[float, float]:
        if not 0 < zoom[0] <= zoom[1]:
            raise ValueError(f"zoom must be 0 < low <= high, found {zoom}")
        return zoom


@dataclass(frozen=True)
class View:
    """Parameters of one view, applied in this order: crop box, resize, flips, rotation, colours.

    Attributes:
        number: number of the view of its image; 0 is the whole image.
        top: upper edge of the box in source pixels.
        left: left edge of the box in source pixels.
        height: height of the box in source pixels.
        width: width of the box in source pixels.
        hflip: mirror left-right.
        vflip: mirror top-bottom.
        rot90: counter-clockwise quarter turns, 0 to 3.
        brightness: factor of the brightness; 1 changes nothing.
        contrast: factor of the contrast about the mean grey; 1 changes nothing.
        saturation: factor of the saturation; 1 changes nothing.
    """

    number: int
    top: int
    left: int
    height: int
    width: int
    hflip: bool = False
    vflip: bool = False
    rot90: int = 0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(config: ViewsConfig, size: Size, image_size: Size, digest: str, number: int) -> View:
    """Draw view ``number`` of the sample with this ``digest``.

    Args:
        config: distribution of the views.
        size: (height, width) of the rendered view in pixels.
        image_size: (height, width) of the source image in pixels.
        digest: digest of the sample's files.
        number: number of the view; 0 is the whole image.
    """
    if number == 0:
        return View(0, 0, 0, *image_size)
    u = seeds.uniforms(6, "view", GENERATOR, config.seed, digest, number)
    low, high = config.zoom
    height, width = _box_size(config.base, size, image_size, low + (high - low) * u[0])
    top, left = int(u[1] * (image_size[0] - height + 1)), int(u[2] * (image_size[1] - width + 1))
    hflip, vflip = bool(config.hflip and u[3] < 0.5), bool(config.vflip and u[4] < 0.5)
    turns = int(u[5] * 4) if config.rot90 else 0
    shared = config.photometric == "shared"
    colours = photometric_factors(config, digest, number) if shared else (1.0, 1.0, 1.0)
    return View(number, top, left, height, width, hflip, vflip, turns, *colours)


def _box_size(base: str, size: Size, image_size: Size, zoom: float) -> Size:
    """(height, width) of the box in source pixels, shrunk to fit into the image with its aspect ratio kept."""
    full = image_size if base == "image" else size
    zoom = max(zoom, full[0] / image_size[0], full[1] / image_size[1])
    return max(1, round(full[0] / zoom)), max(1, round(full[1] / zoom))


def photometric_factors(config: ViewsConfig, digest: str, number: int, *when: int) -> tuple[float, ...]:
    """Draw the factors (brightness, contrast, saturation); ``when`` is (run seed, epoch) for draws in stage 2."""
    u = seeds.uniforms(3, "photometric", GENERATOR, config.seed, digest, number, *when)
    ranges = (config.brightness, config.contrast, config.saturation)
    return tuple(round(1 + r * (2 * float(x) - 1), 6) for r, x in zip(ranges, u, strict=True))


def render(image: np.ndarray, label: np.ndarray, view: View, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Render a view of ``image`` (H, W, 3) uint8 and ``label`` (H, W) uint8 at ``size`` (height, width)."""
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    pixels = _bilinear(Image.fromarray(image), box, size)
    classes = np.asarray(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST, box=box))
    pixels = adjust_colours(_orient(pixels, view), view.brightness, view.contrast, view.saturation)
    return np.ascontiguousarray(pixels), np.ascontiguousarray(_orient(classes, view))


def _bilinear(image: Image.Image, box: tuple[int, int, int, int], size: Size) -> np.ndarray:
    """Resize the box to ``size`` (height, width), bilinear with antialiasing: first the width, then the height.

    There are two calls because Pillow 13 chooses the order of its passes by shape, which changes pixels by one grey
    level compared with older versions. ``sward.pixels.resize`` does the same arithmetic for tensors.
    """
    left, top, right, bottom = box
    wide = image.resize((size[1], image.height), Image.Resampling.BILINEAR, box=(left, 0, right, image.height))
    return np.asarray(wide.resize(size[::-1], Image.Resampling.BILINEAR, box=(0, top, size[1], bottom)))


def _orient(array: np.ndarray, view: View) -> np.ndarray:
    array = array[:, ::-1] if view.hflip else array
    array = array[::-1] if view.vflip else array
    return np.rot90(array, view.rot90)


def adjust_colours(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Change brightness, contrast (about the mean grey) and saturation (about each pixel's grey) of an image.

    The image is (H, W, 3) uint8; factors of 1 change nothing.
    """
    if (brightness, contrast, saturation) == (1.0, 1.0, 1.0):
        return image
    x = np.minimum(image.astype(np.float64) * brightness, 255)
    x = (x - _grey(x).mean()) * contrast + _grey(x).mean()
    grey = _grey(x)[..., None]
    return np.clip(np.rint(grey + (x - grey) * saturation), 0, 255).astype(np.uint8)


def _grey(x: np.ndarray) -> np.ndarray:
    return 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]


def pixel_digest(image: np.ndarray, label: np.ndarray) -> str:
    """sha256 of a rendered view: shapes and bytes of image (H, W, 3) and label (H, W)."""
    h = hashlib.sha256(repr((image.shape, label.shape)).encode())
    h.update(image.tobytes())
    h.update(label.tobytes())
    return h.hexdigest()
