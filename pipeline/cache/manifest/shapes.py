"""Shapes of plans and receipts: the entries that reading a store looks up.

Newer files carry a checksum, but those of earlier versions, and those that another program has written, do not.
"""

import re
from dataclasses import MISSING, fields
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.augmented_views import View
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


class PlanShape(Shape):
    """What is read of a plan."""

    identity: dict[str, Any]
    content_id: str
    config: dict[str, Any]
    channels: dict[str, int]
    shard_records: int = Field(ge=1)
    compression: str = "none"
    units: list[_Unit]

    @field_validator("channels")
    @classmethod
    def _levels(cls, channels: dict[str, int]) -> dict[str, int]:
        if wrong := [level for level in channels if not LEVEL.fullmatch(level)]:
            raise ValueError(f"expected levels such as s8 or s16@3, found {wrong}")
        return channels


class _File(Shape):
    bytes: int = Field(ge=0)
    crc32c: int = Field(ge=0)


class ReceiptShape(Shape):
    """What is read of a receipt."""

    records_digest: str
    files: dict[str, _File]
