"""Mask values to train ids: binary, indexed, palette and annotated masks. Values without a meaning are errors.

Labels are uint8 (H, W): 0..K-1 in the order of the card's classes, 255 where nothing is learnt or counted.
"""

import re
from typing import Annotated as Checked
from typing import Any, Literal, Self

import numpy as np
from PIL import Image
from pydantic import BeforeValidator, Field, model_validator

from pipeline.datasets.masks.binary import Binary
from pipeline.datasets.masks.values import MaskError, count_values, grey_values, opaque
from sward.contracts import IGNORE, Config

Byte = Checked[int, Field(ge=0, le=255)]


def _from_hexadecimal(value: Any) -> Any:
    """``#ff8000`` as the numbers of red, green and blue; anything else as it is."""
    named = isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value)
    return tuple(bytes.fromhex(value[1:])) if named else value


Colour = Checked[tuple[Byte, Byte, Byte], BeforeValidator(_from_hexadecimal)]


class Indexed(Config):
    """Each grey value (or palette index) is a label of the set; ``labels`` maps it to a train id."""

    kind: Literal["indexed"] = "indexed"
    labels: dict[Checked[int, Field(ge=0, le=65535)], Checked[int, Field(ge=0, lt=IGNORE)]] = Field(
        min_length=2, description="Value in the file -> train id; in COCO files the value is the category's id."
    )
    ignore: tuple[Checked[int, Field(ge=0, le=65535)], ...] = Field(default=(), description="Values to leave out.")

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := set(self.labels) & set(self.ignore):
            raise ValueError(f"values {sorted(both)} are both labels and ignored; keep each in one")
        return self

    @property
    def table(self) -> dict[int, int]:
        """Value -> train id, 255 for ignored values."""
        return {**self.labels, **dict.fromkeys(self.ignore, IGNORE)}

    def decode(self, mask: Image.Image) -> np.ndarray:
        """(H, W) uint8 train ids, 255 for ignored values.

        Raises:
            MaskError: a value that is neither a label nor ignored; all such values are named.
        """
        values = np.asarray(mask) if mask.mode == "P" else grey_values(mask, exact=True)
        if values.min() < 0 or values.max() > 65535:
            raise MaskError(f"values {values.min()} to {values.max()}; expected labels in 0..65535")
        counts = {int(v): int(n) for v, n in zip(*count_values(values), strict=True)}
        if unknown := [v for v in counts if v not in self.table]:
            listed = ", ".join(f"{v} ({counts[v]} pixels)" for v in unknown[:5])
            raise MaskError(f"unknown label {listed}; expected {sorted(self.table)}")
        lookup = np.full(max(counts) + 1, IGNORE, np.uint8)
        for value, label in self.table.items():
            if value < len(lookup):
                lookup[value] = label
        return lookup[values]


class Palette(Config):
    """Each colour is a class; a colour must match exactly."""

    kind: Literal["palette"] = "palette"
    colours: dict[str, Colour] = Field(min_length=2, description="Class -> colour: red, green, blue, or '#ff8000'.")
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
        codes = _codes(np.asarray(opaque(mask).convert("RGB")))
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


class Annotated(Config):
    """Annotations (COCO, LabelMe) by the names of their categories; what nothing covers is the first class."""

    kind: Literal["annotated"] = "annotated"
    names: dict[str, str] = Field(
        default={}, description="Name in the annotations -> class; a class's own name needs no entry."
    )
    ignore: tuple[str, ...] = Field(default=(), description="Names whose areas are left out.")

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if both := set(self.names) & set(self.ignore):
            raise ValueError(f"names {sorted(both)} are both classes and ignored; keep each in one")
        return self

    def decode(self, mask: Image.Image) -> np.ndarray:
        """Raises MaskError: a picture has no names."""
        raise MaskError("is a picture; encoding annotated reads COCO and LabelMe files")


Encoding = Checked[Binary | Indexed | Palette | Annotated, Field(discriminator="kind")]


def _codes(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., 0].astype(np.int32) << 16 | rgb[..., 1].astype(np.int32) << 8 | rgb[..., 2].astype(np.int32)
