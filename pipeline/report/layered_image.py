"""A picture of the report: an image, and layers over it that the reader can fade and switch."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from pipeline.results.masks import Layer

LONGEST = 320  # pixels a side


@dataclass(frozen=True)
class Picture:
    """title, note: its caption. image: (H, W, 3) uint8. layers: by name; the first is the one printed.
    row: the row that it belongs to, None for all."""

    title: str
    note: str
    image: np.ndarray
    layers: Mapping[str, Layer] = field(default_factory=dict)
    row: int | None = None

    @property
    def uri(self) -> str:
        """The image as a data: address, JPEG: some 15 kB."""
        return address(shrunk(Image.fromarray(self.image), Image.Resampling.BILINEAR), "jpeg", quality=85)

    @property
    def layer_uris(self) -> dict[str, str]:
        """The layers as data: addresses, PNG: some 1 kB each."""
        return {name: address(layer_picture(layer), "png", transparency=0) for name, layer in self.layers.items()}

    @property
    def flat(self) -> np.ndarray:
        """(H, W, 3) uint8: the image under its first layer."""
        return next(iter(self.layers.values())).over(self.image) if self.layers else self.image


def layer_picture(layer: Layer) -> Image.Image:
    """Indexed; index 0 is to be transparent."""
    picture = Image.fromarray(layer.which, "P")
    picture.putpalette(layer.colours.astype(np.uint8).tobytes())
    return shrunk(picture, Image.Resampling.NEAREST)


def shrunk(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    """At most ``LONGEST`` pixels a side; never enlarged."""
    factor = LONGEST / max(picture.size)
    if factor >= 1:
        return picture
    return picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), how)


def address(picture: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
