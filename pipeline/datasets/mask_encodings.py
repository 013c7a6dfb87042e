"""Mask files to train ids: binary, indexed and palette masks. What an encoding does not name is an error.

Labels are uint8 (H, W): 0..K-1 in the order of the card's classes, 255 where nothing is learnt or counted.
"""

from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from sward.contracts import IGNORE, Config

Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]

NEAR = 0.125  # a value within this share of the range of black or white counts as such: noise of a JPEG
AMBIGUOUS = 0.01  # share of an image that may be neither (antialiased borders: up to 0.0004 in CVC-ClinicDB)


class MaskError(ValueError):
    """A mask holds what its encoding does not name."""


class Binary(Config):
    """Black background, one foreground class: 0/255, 0/1, 16 bits, antialiased or saved as JPEG.

    White is 1 where the file holds nothing greater (and is not a JPEG), else 255, else 65535, unless given.
    Pixels are cut at half of white; more values far from both than a border has are an error.
    """

    kind: Literal["binary"] = "binary"
    foreground: int | Literal["auto"] = Field(default="auto", description="Grey value of the foreground.")

    def decode(self, mask: Image.Image) -> np.ndarray:
        """(H, W) uint8 of 0 and 1.

        Raises:
            MaskError: coloured, or grey in between on too many pixels, or too dark to tell from noise.
        """
        grey = _grey(mask)
        white = _white(grey, mask.format == "JPEG") if self.foreground == "auto" else self.foreground
        share = grey / white
        between = (share > NEAR) & (share < 1 - NEAR)
        surely = int((share >= 1 - NEAR).sum())
        if between.mean() > AMBIGUOUS or between.sum() > surely + 16:
            values = ", ".join(map(str, np.unique(grey[between])[:5]))
            raise MaskError(
                f"{between.mean():.1%} of the pixels are neither 0 nor {white}, e.g. {values}; "
                "expected two values: use encoding indexed or palette, or state encoding.foreground"
            )
        if not surely and grey.max() > 1 and mask.format != "JPEG":
            raise MaskError(f"values 0 to {grey.max()} and nothing near {white}; state encoding.foreground")
        return (share >= 0.5).astype(np.uint8)


class Indexed(Config):
    """Each grey value (or palette index) is a label of the set; ``labels`` maps it to a train id."""

    kind: Literal["indexed"] = "indexed"
    labels: dict[Annotated[int, Field(ge=0, le=65535)], Annotated[int, Field(ge=0, lt=IGNORE)]] = Field(
        min_length=2, description="Value in the file -> train id."
    )
    ignore: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = Field(default=(), description="Values to leave out.")

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := set(self.labels) & set(self.ignore):
            raise ValueError(f"values {sorted(both)} are both labels and ignored; keep each in one")
        return self

    def decode(self, mask: Image.Image) -> np.ndarray:
        """(H, W) uint8 train ids, 255 for ignored values.

        Raises:
            MaskError: a value that is neither a label nor ignored; all such values are named.
        """
        values = np.asarray(mask).astype(np.int64) if mask.mode == "P" else _grey(mask, exact=True)
        if values.min() < 0 or values.max() > 65535:
            raise MaskError(f"values {values.min()} to {values.max()}; expected labels in 0..65535")
        table = {**self.labels, **dict.fromkeys(self.ignore, IGNORE)}
        counts = np.bincount(values.ravel())
        if unknown := [int(v) for v in counts.nonzero()[0] if int(v) not in table]:
            listed = ", ".join(f"{v} ({counts[v]} pixels)" for v in unknown[:5])
            raise MaskError(f"unknown label {listed}; expected {sorted(table)}")
        lookup = np.full(len(counts), IGNORE, np.uint8)
        for value, label in table.items():
            if value < len(lookup):
                lookup[value] = label
        return lookup[values]


class Palette(Config):
    """Each colour is a class; a colour must match exactly."""

    kind: Literal["palette"] = "palette"
    colours: dict[str, Colour] = Field(min_length=2, description="Class -> colour (red, green, blue).")
    ignore: tuple[Colour, ...] = Field(default=(), description="Colours to leave out.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        every = [*self.colours.values(), *self.ignore]
        if len(set(every)) != len(every):
            raise ValueError("a colour is named twice; expected one class for each colour")
        return self

    def decode(self, mask: Image.Image) -> np.ndarray:
        """(H, W) uint8 train ids in the order of ``colours``, 255 for ignored colours.

        Raises:
            MaskError: a colour without a class; all such colours are named.
        """
        codes = _codes(np.asarray(_opaque(mask).convert("RGB")))
        label = np.full(codes.shape, -1, np.int16)
        for train_id, colour in enumerate(self.colours.values()):
            label[codes == _codes(np.array(colour))] = train_id
        for colour in self.ignore:
            label[codes == _codes(np.array(colour))] = IGNORE
        if (label < 0).any():
            unknown, counts = np.unique(codes[label < 0], return_counts=True)
            pairs = sorted(zip(counts, unknown, strict=True), reverse=True)[:5]
            listed = ", ".join(f"({c >> 16}, {c >> 8 & 255}, {c & 255}) on {n} pixels" for n, c in pairs)
            raise MaskError(f"unknown colour {listed}; expected one of {dict(self.colours)}")
        return label.astype(np.uint8)


Encoding = Annotated[Binary | Indexed | Palette, Field(discriminator="kind")]


def _codes(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 0].astype(np.int32) << 16 | rgb[..., 1].astype(np.int32) << 8 | rgb[..., 2].astype(np.int32)


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    return image.has_transparency_data and int(np.asarray(image.convert("RGBA"))[..., 3].min()) < 255


def _opaque(mask: Image.Image) -> Image.Image:
    if is_transparent(mask):
        raise MaskError("has transparent pixels; save it without an alpha channel")
    return mask


def _grey(mask: Image.Image, exact: bool = False) -> np.ndarray:
    """(H, W) int64 grey values; a mask saved as RGB must be grey (noise of a JPEG is averaged)."""
    if mask.mode in ("1", "L") or mask.mode.startswith("I"):
        return np.asarray(mask).astype(np.int64)
    rgb = np.asarray(_opaque(mask).convert("RGB")).astype(np.int64)
    spread = int((rgb.max(-1) - rgb.min(-1)).max())
    if spread > (0 if exact else 32):
        raise MaskError(f"is coloured (channels differ by up to {spread}); expected grey: use encoding palette")
    return rgb[..., 0] if exact else rgb.mean(-1).round().astype(np.int64)


def _white(grey: np.ndarray, lossy: bool) -> int:
    ceilings = (255, 65535) if lossy else (1, 255, 65535)
    return next(c for c in ceilings if grey.max() <= c)
