"""Names and numbers of annotated categories to train ids."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.datasets.mask_encodings import Annotated, Encoding, Indexed
from pipeline.datasets.masks.values import MaskError
from pipeline.datasets.text_files import TextError, decode_text
from sward.contracts import IGNORE

REMEDY = "name it in encoding: {kind: annotated, names: {…: class}, ignore: […]}"


@dataclass(frozen=True)
class Names:
    """How a card reads names: its encoding, its classes, and all names that the set's annotations use."""

    encoding: Encoding
    classes: tuple[str, ...]
    used: tuple[str, ...] = ()

    @property
    def background(self) -> int:
        """The train id of what nothing covers.

        Raises:
            MaskError: an indexed encoding without the value 0.
        """
        if not isinstance(self.encoding, Indexed):
            return 0
        if 0 not in self.encoding.table:
            raise MaskError(
                "value 0 (pixels that nothing covers) has no label; expected it in encoding.labels or ignore"
            )
        return self.encoding.table[0]

    def train_id(self, name: str, number: int | None = None) -> int:
        """The train id of a category's name, or of its ``number`` where the encoding is indexed.

        Raises:
            MaskError: the card does not say what it is.
        """
        if isinstance(self.encoding, Indexed) and number is not None:
            if number not in self.encoding.table:
                raise MaskError(f"unknown label {number} ({name!r}); expected {sorted(self.encoding.table)}")
            return self.encoding.table[number]
        if isinstance(self.encoding, Annotated):
            if name in self.encoding.ignore:
                return IGNORE
            name = self.encoding.names.get(name, name)
        elif name not in self.classes and self.used == (name,) and len(self.classes) == 2:
            return 1  # the only name of a binary set is the object, whatever it is called
        if name not in self.classes:
            raise MaskError(f"unknown name {name!r}; expected one of {list(self.classes)}: {REMEDY}")
        return self.classes.index(name)


def as_contents(label: np.ndarray) -> tuple[bytes, ...]:
    """A converted label as the bytes that go into a digest: its size, then its train ids."""
    height, width = label.shape
    return (f"label {height} {width}\n".encode() + label.astype(np.uint8).tobytes(),)


def from_contents(contents: tuple[bytes, ...]) -> np.ndarray:
    """The label of ``as_contents``."""
    head, _, values = contents[0].partition(b"\n")
    height, width = (int(n) for n in head.split()[1:])
    return np.frombuffer(values, np.uint8).reshape(height, width)


def read_object(content: bytes, expected: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        MaskError: it is no text, no JSON, or something else.
    """
    try:
        found = json.loads(decode_text(content))
    except TextError as error:
        raise MaskError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise MaskError(f"is not JSON: {error}") from error
    return require_object(found, expected)


def require_object(value: Any, expected: str) -> dict[str, Any]:
    """``value`` as a JSON object.

    Raises:
        MaskError: it is something else.
    """
    if not isinstance(value, dict):
        raise MaskError(f"is JSON, but its top is a {type(value).__name__}; expected {expected}")
    return value
