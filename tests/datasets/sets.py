"""Data sets written from a table: relative path -> picture, array, bytes or text; and what they are read as."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pictures import picture
from PIL import Image

from pipeline.datasets import check_all, read_label

CARD: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "citation": "none",
    "licence": "none",
    "classes": ["background", "polyp"],
    "encoding": {"kind": "binary"},
    "splits": {"random": {"kind": "drawn"}},
}
OFFICIAL = {"official": {"kind": "matched", "patterns": {"train": "*train*", "val": "*val*"}}}
IDS = ("train-a", "train-b", "val-a")
SIZE = (24, 32)


def truth(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A block of ones on zeros."""
    label = np.zeros(size, np.uint8)
    label[6:18, 8:20] = 1
    return label


def write(path: Path, content: Any) -> None:
    """Write one file in the form that its content and name ask for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npy":
        np.save(path, content)
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)


def write_set(folder: Path, files: dict[str, Any], **card: Any) -> Path:
    """The files and their card; returns the card's path."""
    for name, content in files.items():
        write(folder / name, content)
    content = {**CARD, "splits": OFFICIAL, **card}
    (folder / "card.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return folder / "card.yaml"


def images(pattern: str = "images/{}.png", ids: tuple[str, ...] = IDS) -> dict[str, Any]:
    """An image for every id."""
    return {pattern.format(i): picture(i, SIZE) for i in ids}


def masks(pattern: str = "masks/{}.png", ids: tuple[str, ...] = IDS, value: int = 255) -> dict[str, Any]:
    """The same mask for every id."""
    return {pattern.format(i): truth() * np.uint8(value) for i in ids}


def labels(card: Path, split: str = "official") -> dict[str, np.ndarray]:
    """Id -> label, of a set that must be accepted."""
    return {sample.id: read_label(sample) for sample in check_all(card, split).samples}


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def jpeg(values: np.ndarray, quality: int = 75) -> Image.Image:
    """What a JPEG makes of a mask."""
    return Image.open(io.BytesIO(encoded(Image.fromarray(values), "JPEG", quality=quality)))
