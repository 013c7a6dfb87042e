"""Picture of a report: an image with semi-transparent layers that the reader can fade and switch."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from pipeline.drawing.masks import Layer

LONGEST = 320  # pixels of the longer side, in the page


@dataclass(frozen=True)
class Picture:
    """An image and the layers over it.

    Attributes:
        title: first part of the caption.
        note: second part of the caption; may be empty.
        image: (H, W, 3) uint8.
        layers: name -> layer; the first one is printed and written to files.
        row: number of the row that the picture belongs to and hides with; None if it belongs to all rows.
    """

    title: str
    note: str
    image: np.ndarray
    layers: Mapping[str, Layer] = field(default_factory=dict)
    row: int | None = None

    @property
    def uri(self) -> str:
        """The image as a data: URI of a JPEG, about 15 kB."""
        return address(shrunk(Image.fromarray(self.image), Image.Resampling.BILINEAR), "jpeg", quality=85)

    @property
    def layer_uris(self) -> dict[str, str]:
        """The layers as data: URIs of PNGs, about 1 kB each."""
        return {name: address(layer_picture(layer), "png", transparency=0) for name, layer in self.layers.items()}

    @property
    def flat(self) -> np.ndarray:
        """The image with its first layer over it, (H, W, 3) uint8."""
        return next(iter(self.layers.values())).over(self.image) if self.layers else self.image


def layer_picture(layer: Layer) -> Image.Image:
    """Converts a layer to an indexed picture; index 0 is meant to be transparent."""
    picture = Image.fromarray(layer.which, "P")
    picture.putpalette(layer.colours.astype(np.uint8).tobytes())
    return shrunk(picture, Image.Resampling.NEAREST)


def shrunk(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    """Shrinks a picture to at most ``LONGEST`` pixels per side; smaller ones stay as they are."""
    factor = LONGEST / max(picture.size)
    if factor >= 1:
        return picture
    return picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), how)


def address(picture: Image.Image, kind: str, **options: int) -> str:
    """Encodes a picture as a data: URI."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
