"""Shapes of plans and receipts: the entries that reading a store looks up.

Newer files carry a checksum, but those of earlier versions, and those that another program has written, do not.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.augmented_views import View
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.manifest.identity import digest
from pipeline.documents import Shape

VIEW = {f.name for f in fields(View)}
NEEDED = {f.name for f in fields(View) if f.default is MISSING}


LEVEL = re.compile(r"s\d+(@\d+)?")  # as `sward.levels` reads them


class _Record(Shape):
    row: int = Field(ge=0)
    id: str
    digest: str
    image_size: list[int] = Field(min_length=2, max_length=2)
    view: dict[str, bool | int | float]
    fold: int | None = None
    group: str | None = None
    labelled: bool = True

    @field_validator("view")
    @classmethod
    def _parameters(cls, view: dict[str, Any]) -> dict[str, Any]:
        if not NEEDED <= view.keys() <= VIEW:
            raise ValueError(f"expected the parameters {sorted(VIEW)}, found {sorted(view)}")
        return view


class _Unit(Shape):
    name: str
    subset: Literal["train", "val", "test"]
    shard: int = Field(ge=0)
    records: list[_Record] = Field(min_length=1)


Number = Annotated[float, Field(allow_inf_nan=False)]
Pair = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
Colours = Annotated[list[Number], Field(min_length=3, max_length=3)]


class _Identity(Shape):
    precision: str
    size: Pair = Field(alias="input.size")
    eval_size: Pair = Field(alias="input.eval_size")
    mean: Colours = Field(alias="input.mean")
    std: Colours = Field(alias="input.std")
    classes: list[str] = Field(alias="data.classes", min_length=2)

    @field_validator("precision")
    @classmethod
    def _known(cls, precision: str) -> str:
        if precision not in CODECS:
            raise ValueError(f"expected one of {', '.join(CODECS)}, found {precision!r}")
        return precision


class _Teacher(Shape):
    weights: Any


class _Config(Shape):
    teacher: _Teacher


class PlanShape(Shape):
    """What is read of a plan; its content id is that of its identity."""

    identity: dict[str, Any]
    content_id: str
    config: _Config
    channels: dict[str, Annotated[int, Field(ge=1)]]
    shard_records: int = Field(ge=1)
    compression: str = "none"
    units: list[_Unit]

    @field_validator("identity")
    @classmethod
    def _whole(cls, identity: dict[str, Any]) -> dict[str, Any]:
        _Identity.model_validate(identity)
        return identity

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (found := digest(self.identity)) != self.content_id:
            raise ValueError(f"the content id is {self.content_id[:12]}, that of the identity {found[:12]}")
        return self

    @field_validator("channels")
    @classmethod
    def _levels(cls, channels: dict[str, int]) -> dict[str, int]:
        if wrong := [level for level in channels if not LEVEL.fullmatch(level)]:
            raise ValueError(f"expected levels such as s8 or s16@3, found {wrong}")
        return channels


def planned_twice(units: Iterable[dict[str, Any]]) -> str:
    """The first unit's name, or shard of a subset, that a store's plans have twice; empty if there is none."""
    keys = [key for u in units for key in (f"unit {u['name']}", f"shard {u['shard']} of {u['subset']}")]
    return next((key for key, count in Counter(keys).items() if count > 1), "")


class _File(Shape):
    bytes: int = Field(ge=0)
    crc32c: int = Field(ge=0)


class _Level(Shape):
    """Statistics of one level; min and max are shown, the others are needed."""

    count: int = Field(ge=1)
    sum: list[Number]
    sum_squares: list[Number]
    min: Number = 0.0
    max: Number = 0.0


class ReceiptShape(Shape):
    """What is read of a receipt."""

    records_digest: str
    files: dict[str, _File]
    levels: dict[str, _Level]
    pixel_digests: list[str] = Field(default=[])
    array_crc32c: dict[str, list[int]] = Field(default={})


class AppendedShape(Shape):
    """What is read of a plan or receipt of appended tensors that may have any shape."""

    array_crc32c: dict[str, list[int]] = Field(default={})
