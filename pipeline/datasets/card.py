"""A data set's card: what the set is, where its pairs lie, what the mask values mean, how it is split.

A folder of paired images and masks needs a ``card.yaml`` and no code. Paths are relative to the card's
folder; ``{id}`` in a pattern is the sample's name within the set and may contain slashes, ``*`` matches
within one name, ``{class}`` (of masks) is a class's name. Upper and lower case of a file's extension are the same.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline import paths
from pipeline.config import is_too_large, mistake_line
from pipeline.datasets.card_checks import pattern_mistakes, reading_mistakes, value_mistakes
from pipeline.datasets.mask_encodings import Encoding
from pipeline.datasets.problems import DatasetError, Problem
from pipeline.datasets.procedural import Procedural
from pipeline.datasets.split_rules import Split, Subset
from pipeline.datasets.text_files import TextError, read_text
from pipeline.plain_text import did_you_mean
from pipeline.yaml_files import read_yaml_text
from sward.contracts import Config

Patterns = str | dict[Subset, str]
LATER = {
    "threshold": None
}  # encoding fields that came after the first stores, with their defaults: left out of digests


class Files(Config):
    """The pairs lie beside the card (or in the same folder of the data root)."""

    kind: Literal["files"] = "files"
    homepage: str = Field(default="", description="Where to get the files; shown when they are absent.")


Source = Annotated[Files | Procedural, Field(discriminator="kind")]


class Card(Config):
    """What ``card.yaml`` says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Short name; the folder's name in data/.")
    title: str = Field(min_length=1, description="Name in full.")
    citation: str = Field(description="What to cite when using the set.")
    licence: str = Field(min_length=1, description="Terms of use of the files.")
    classes: tuple[str, ...] = Field(min_length=2, max_length=255, description="Names, in label order.")
    images: Patterns = Field(default="images/{id}.png", description="Pattern of the images, with {id}; or per subset.")
    masks: Patterns = Field(
        default="masks/{id}.png",
        description="Pattern of the masks, with {id} (and {class}: a folder a class); or a COCO .json; or per subset.",
    )
    unlabelled: str = Field(
        default="", description="Pattern of images without masks, for training, e.g. frames/*.png; empty: none."
    )
    encoding: Encoding = Field(description="What the values in the masks mean.")
    several_masks: Literal["parts", "error", "union"] = Field(
        default="parts",
        description="Several masks of one image: an error; united in any case (union); or united if they are numbered "
        "(x_mask.png, x_mask_1.png) and do not overlap (parts).",
    )
    overlap: Literal["error", "ignore", "last"] = Field(
        default="error",
        description="A pixel in two classes (several masks, annotations): an error, ignored, or of the last one.",
    )
    bits: int | None = Field(
        default=None, ge=9, le=32, description="Bits that the images' values use: with 12, 0..4095 becomes 0..255."
    )
    window: tuple[float, float] | None = Field(
        default=None, description="Values of the images that become 0 and 255 (more than 8 bits, DICOM, floats)."
    )
    orientation: Literal["auto", "turned", "stored"] = Field(
        default="auto",
        description="Images with an EXIF orientation: turned upright or as stored; auto: as the mask's size shows.",
    )
    skip: tuple[str, ...] = Field(
        default=(), description="Patterns of files to leave out (* also matches slashes), relative to the card."
    )
    sequences: str = Field(default="", description="CSV with columns frame,sequence; empty: each image is its own.")
    splits: dict[str, Split] = Field(min_length=1, description="Split name -> how it is made.")
    source: Source = Field(default=Files(), description="Where the files come from.")
    notes: str = Field(default="", description="What else a user should know.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if wrong := [*pattern_mistakes(self), *value_mistakes(self), *reading_mistakes(self)]:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The values of the images that become 0 and 255; None: the images have 8 bits."""
        return (0.0, float(2**self.bits - 1)) if self.bits else self.window

    @cached_property
    def digest(self) -> str:
        """sha256 of what turns files into labels and images: classes, encoding, and what differs from the defaults."""
        values = self.encoding.model_dump(mode="json")
        encoding = {k: v for k, v in values.items() if k not in LATER or v != LATER[k]}
        content: dict[str, Any] = {"classes": self.classes, "encoding": encoding}
        if self.value_range:
            content["window"] = self.value_range
        if self.orientation == "stored":
            content["orientation"] = self.orientation
        if self.overlap != "error":
            content["overlap"] = self.overlap
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def by_subset(patterns: Patterns) -> list[tuple[str, str]]:
    """(prefix of the ids, pattern): ids of patterns per subset begin with the subset's name."""
    return [("", patterns)] if isinstance(patterns, str) else [(f"{s}/", p) for s, p in patterns.items()]


def find_card(dataset: str | Path) -> Path:
    """Path of the card, still in ``data/...`` form: a name means ``data/<name>/card.yaml``.

    Raises:
        DatasetError: no such card; the message lists the known names.
    """
    named = "/" not in str(dataset) and Path(dataset).suffix not in (".yaml", ".yml")
    path = Path("data", dataset, "card.yaml") if named else Path(dataset)
    if paths.read_path(path / "card.yaml").is_file():
        path = path / "card.yaml"
    if not paths.read_path(path).is_file():
        known = {p.parent.name for root in (paths.CATALOGUE, paths.data_root()) for p in root.glob("*/card.yaml")}
        meant = did_you_mean(str(dataset), sorted(known), most=1)
        found = (
            f"no card at {paths.read_path(path)}; {meant + ' ' if meant else ''}known names: {', '.join(sorted(known))}"
        )
        raise DatasetError(str(dataset), [Problem("card", str(dataset), found)])
    return path


def read_card(dataset: str | Path) -> Card:
    """The checked card of a data set's name or of a path to a ``card.yaml``.

    Raises:
        DatasetError: the card is absent, is not UTF-8 or YAML, or does not check; every mistake is named.
    """
    path = paths.read_path(find_card(dataset))
    try:
        values = read_yaml_text(read_text(path))
        if is_too_large(values):
            raise yaml.YAMLError("its aliases (*name), written out, are too many values; remove them")
        return Card.model_validate(values)
    except TextError as error:
        raise DatasetError(str(dataset), [Problem("card", str(path), str(error).partition(": ")[2])]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise DatasetError(str(dataset), [Problem("card", str(path), f"is not YAML: {error}")]) from error
    except ValidationError as error:
        places = [e["loc"][:-1] for e in error.errors()]
        problems = [
            Problem("card", str(path), mistake_line(e, Card).strip() if e["loc"] and values else e["msg"])
            for e in error.errors()
            if e["type"] != "too_short" or e["loc"] not in places  # entries that do not check are not counted
        ]
        raise DatasetError(str(dataset), problems) from error
