"""The mask of a sample: one file, several files, or annotations; its bytes for the digest, and its label."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from pipeline.datasets.image_files import decode_label
from pipeline.datasets.mask_encodings import Encoding
from pipeline.datasets.masks.values import MaskError
from sward.contracts import IGNORE

Overlap = Literal["error", "ignore", "last"]
Part = tuple[np.ndarray, np.ndarray | int]  # (covered pixels, their train ids)


class Mask(Protocol):
    """Where a sample's label comes from; small, and the same on every machine that sees the files."""

    @property
    def path(self) -> Path:
        """The file, or the first of several."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""

    def contents(self) -> tuple[bytes, ...]:
        """The bytes that go into the sample's digest."""

    def label(self, contents: tuple[bytes, ...]) -> np.ndarray:
        """(H, W) uint8 train ids, made of ``contents``."""

    def absolute(self) -> "Mask":
        """The same with absolute paths."""


@dataclass(frozen=True)
class FileMask:
    """One mask file."""

    path: Path
    encoding: Encoding

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def contents(self) -> tuple[bytes, ...]:
        return (self.path.read_bytes(),)

    def label(self, contents: tuple[bytes, ...]) -> np.ndarray:
        return decode_label(contents[0], self.encoding)

    def absolute(self) -> "FileMask":
        return replace(self, path=self.path.absolute())


@dataclass(frozen=True)
class Layer:
    """One of several files. train_id: of a folder a class, the class; else -1 and the file holds train ids."""

    path: Path
    encoding: Encoding
    train_id: int = -1
    class_name: str = ""


@dataclass(frozen=True)
class LayeredMask:
    """Several mask files of one image, united. disjoint: they are parts of one label only if they do not overlap."""

    layers: tuple[Layer, ...]
    overlap: Overlap
    disjoint: bool = False

    @property
    def path(self) -> Path:
        """The first file."""
        return self.layers[0].path

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(layer.path for layer in self.layers)

    def contents(self) -> tuple[bytes, ...]:
        """Each file's class (where folders say it) and bytes."""
        pairs = [(layer.class_name.encode(), layer.path.read_bytes()) for layer in self.layers]
        return tuple(part for name, content in pairs for part in ([name] if name else []) + [content])

    def label(self, contents: tuple[bytes, ...]) -> np.ndarray:
        step = 2 if self.layers[0].class_name else 1
        decoded = [
            decode_label(content, layer.encoding)
            for layer, content in zip(self.layers, contents[step - 1 :: step], strict=True)
        ]
        if len({label.shape for label in decoded}) > 1:
            sizes = ", ".join(
                f"{layer.path.name} {w}x{h}"
                for layer, (h, w) in zip(self.layers, (d.shape for d in decoded), strict=True)
            )
            raise MaskError(f"the image's masks have different sizes: {sizes}")
        if self.disjoint and (twice := sum((label != 0).astype(int) for label in decoded) > 1).any():
            names = ", ".join(layer.path.name for layer in self.layers)
            raise MaskError(
                f"{twice.sum()} pixels lie in several of its masks ({names}), so that these are no parts of one label; "
                "to unite them all the same: several_masks: union; if one is the right one, name the others in skip"
            )
        parts = [
            (label != 0, label if layer.train_id < 0 else layer.train_id)
            for layer, label in zip(self.layers, decoded, strict=True)
        ]
        return paint(decoded[0].shape, 0, parts, self.overlap)

    def absolute(self) -> "LayeredMask":
        return replace(self, layers=tuple(replace(layer, path=layer.path.absolute()) for layer in self.layers))


def paint(shape: tuple[int, ...], background: int, parts: Iterable[Part], overlap: Overlap) -> np.ndarray:
    """(H, W) uint8 train ids of parts that cover an image; ``background`` where none does.

    Raises:
        MaskError: parts of different classes overlap and ``overlap`` is error.
    """
    label, covered = np.full(shape, background, np.uint8), np.zeros(shape, bool)
    clash = np.zeros(shape, bool)
    for area, values in parts:
        ids = np.broadcast_to(np.asarray(values, np.uint8), shape)
        clash |= area & covered & (ids != label)
        label[area] = ids[area]
        covered |= area
    if clash.any() and overlap == "error":
        raise MaskError(
            f"{clash.sum()} pixels belong to two classes; say on the card what they are: overlap: ignore or last"
        )
    if overlap == "ignore":
        label[clash] = IGNORE
    return label
