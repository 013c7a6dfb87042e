"""A data set's card: what it is, where its pairs lie, what the mask values mean, how it is split.

A folder of paired images and masks needs a ``card.yaml`` and no code. Paths are relative to the card's
folder; ``{id}`` in a pattern is the sample's name within the set and may contain slashes, ``*`` matches
within one name.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline import paths
from pipeline.datasets.mask_encodings import Encoding, Indexed, Palette
from pipeline.datasets.problems import DatasetError, Problem
from pipeline.datasets.procedural import Procedural
from sward.contracts import Config

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "val", "test")


class Files(Config):
    """The pairs lie beside the card (or in the same folder of the data root)."""

    kind: Literal["files"] = "files"
    homepage: str = Field(default="", description="Where to get the files; shown when they are absent.")


class Drawn(Config):
    """Ids ordered by a hash of (seed, id) and cut at the fractions; ``sequence`` keeps sequences whole."""

    kind: Literal["drawn"] = "drawn"
    fractions: tuple[float, float, float] = Field(
        default=(0.8, 0.1, 0.1), description="Shares of train, val and test; they sum to 1."
    )
    seed: int = Field(default=0, ge=0, description="Key of the draw.")
    by: Literal["image", "sequence"] = Field(default="image", description="What is never divided between subsets.")
    limit: int | Literal["all"] = Field(default="all", description="Draw this many images only (by: image).")
    duplicates: Literal["error", "first"] = Field(
        default="error", description="Of images with the same bytes, draw only the first id (first), or stop (error)."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise ValueError(f"fractions are {self.fractions}; expected three shares that sum to 1")
        if self.limit != "all" and (self.limit < 3 or self.by == "sequence"):
            raise ValueError(f"limit is {self.limit} with by: {self.by}; expected all, or >= 3 by image")
        return self


class Listed(Config):
    """Ids in committed text files ``splits/<split>.<subset>.txt``, one a line."""

    kind: Literal["listed"] = "listed"
    drawn: Drawn | None = Field(default=None, description="How the lists were drawn; null: they come from elsewhere.")


class Matched(Config):
    """Ids by pattern, e.g. ``train: train/*`` (``*`` also matches slashes); a subset may be left out."""

    kind: Literal["matched"] = "matched"
    patterns: dict[Subset, str] = Field(min_length=1, description="Subset -> pattern of its ids.")


class Folds(Config):
    """Cross-validation: every image is tested in one fold; a run names its fold (``fold: 0``).

    A store of such a split holds each image's training views and its evaluation view. Fold k tests on part k, validates
    on part k + 1 (the first after the last) and trains on the others.
    """

    kind: Literal["folds"] = "folds"
    count: int = Field(default=5, ge=3, le=20, description="Number of parts; one tests, one validates.")
    by: Literal["image", "sequence"] = Field(default="sequence", description="What is never divided between parts.")
    seed: int = Field(default=0, ge=0, description="Key of the order in which equally large groups are dealt.")
    duplicates: Literal["error", "first"] = Field(
        default="error", description="Of images with the same bytes, take only the first id (first), or stop (error)."
    )


Split = Annotated[Drawn | Listed | Matched | Folds, Field(discriminator="kind")]
Source = Annotated[Files | Procedural, Field(discriminator="kind")]


class Card(Config):
    """What ``card.yaml`` says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Short name; the folder's name in data/.")
    title: str = Field(min_length=1, description="Name in full.")
    citation: str = Field(description="What to cite when using the set.")
    licence: str = Field(min_length=1, description="Terms of use of the files.")
    classes: tuple[str, ...] = Field(min_length=2, max_length=255, description="Names, in label order.")
    images: str = Field(default="images/{id}.png", description="Pattern of the images, with {id}.")
    masks: str = Field(default="masks/{id}.png", description="Pattern of the masks, with {id}.")
    encoding: Encoding = Field(description="What the values in the masks mean.")
    sequences: str = Field(default="", description="CSV with columns frame,sequence; empty: each image is its own.")
    splits: dict[str, Split] = Field(min_length=1, description="Split name -> how it is made.")
    source: Source = Field(default=Files(), description="Where the files come from.")
    notes: str = Field(default="", description="What else a user should know.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong = [
            f"{key} is {value!r}; expected exactly one {{id}} in it"
            for key, value in (("images", self.images), ("masks", self.masks))
            if value.count("{id}") != 1
        ]
        if len(set(self.classes)) != len(self.classes):
            wrong.append(f"classes are {list(self.classes)}; expected each name once")
        wrong += _encoding_mistakes(self.encoding, self.classes)
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @cached_property
    def digest(self) -> str:
        """sha256 of what turns mask files into labels: classes and encoding."""
        content = {"classes": self.classes, "encoding": self.encoding.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _encoding_mistakes(encoding: Encoding, classes: tuple[str, ...]) -> list[str]:
    if isinstance(encoding, Indexed):
        found = set(encoding.labels.values())
        wanted = set(range(len(classes)))
        return [] if found == wanted else [f"labels map to {sorted(found)}; expected {sorted(wanted)}"]
    if isinstance(encoding, Palette):
        named = tuple(encoding.colours)
        return [] if named == classes else [f"colours name {list(named)}; expected {list(classes)}, in order"]
    return [] if len(classes) == 2 else [f"{len(classes)} classes with a binary mask; expected 2"]


def find_card(dataset: str | Path) -> Path:
    """Path of the card, still in ``data/...`` form: a name means ``data/<name>/card.yaml``.

    Raises:
        DatasetError: no such card; the message lists the known names.
    """
    named = "/" not in str(dataset) and Path(dataset).suffix not in (".yaml", ".yml")
    path = Path("data", dataset, "card.yaml") if named else Path(dataset)
    if not paths.read_path(path).is_file():
        known = {p.parent.name for root in (paths.CATALOGUE, paths.data_root()) for p in root.glob("*/card.yaml")}
        found = f"no card at {paths.read_path(path)}; known names: {', '.join(sorted(known))}"
        raise DatasetError(str(dataset), [Problem("card", str(dataset), found)])
    return path


def read_card(dataset: str | Path) -> Card:
    """The checked card of a data set's name or of a path to a ``card.yaml``.

    Raises:
        DatasetError: the card is absent, is not YAML, or does not check; every mistake is named.
    """
    path = paths.read_path(find_card(dataset))
    try:
        return Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise DatasetError(str(dataset), [Problem("card", str(path), f"is not YAML: {error}")]) from error
    except ValidationError as error:
        mistakes = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        problems = [Problem("card", str(path), f"{place}: {text}".lstrip(": ")) for place, text in mistakes]
        raise DatasetError(str(dataset), problems) from error
