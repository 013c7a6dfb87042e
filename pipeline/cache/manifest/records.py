"""What a store is made of, before any byte is read: records, units, plans, receipts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache.manifest.identity import digest
from pipeline.cache.manifest.sealed import read_sealed
from pipeline.views import View

RESTORE_PLAN = (
    "restore it from a copy of the store; without one, delete it if it is the newest of several (that withdraws the "
    "extension), else remove the store and extract again"
)
TIMING = "timing.jsonl"  # seconds of each unit; no part of the content (`extraction/timing.py`)
WITHDRAW = "An extension planned by mistake is withdrawn by deleting the newest file of plan/."


@dataclass(frozen=True)
class Record:
    """One (sample, view): where it is and how its view was made.

    In a cross-validation also ``fold``, its part, and ``group``, the sequence (or image) that is kept whole.
    """

    subset: str
    row: int
    id: str
    digest: str
    image_size: tuple[int, int]
    view: View
    fold: int | None = None
    group: str | None = None

    @property
    def name(self) -> str:
        """Identity of the record everywhere: sample digest and view number."""
        return f"{self.digest}/{self.view.number}"

    @property
    def title(self) -> str:
        """The record for people: subset, sample id and view number."""
        return f"{self.subset}/{self.id} view {self.view.number}"


@dataclass(frozen=True)
class Unit:
    """One shard of every array of a subset: what one writer owns."""

    name: str
    subset: str
    shard: int
    records: tuple[Record, ...]

    def digest(self) -> str:
        """Of rows, records and views: a receipt holds it, so it can only vouch for this very unit."""
        return digest([record_to_json(r) for r in self.records])

    def receipt(self, path: Path) -> dict[str, Any] | None:
        """This unit's receipt in the store at ``path``; None where there is none or it vouches for other records.

        Raises:
            StoreDamaged: its bytes are not those that were written.
        """
        file = receipt_path(path, self.name)
        again = "delete it, and the command that made the store makes this shard again"
        found = read_sealed(file, again) if file.is_file() else {}
        return found if found.get("records_digest") == self.digest() else None


def read_plans(path: Path) -> list[dict[str, Any]]:
    """All plans, oldest first, levels from shallow to deep; empty where there is no store.

    Raises:
        StoreDamaged: the bytes of one are not those that were written.
    """
    plans = [read_sealed(p, RESTORE_PLAN) for p in sorted((path / "plan").glob("[0-9]*.json"))]
    for plan in plans:
        plan["channels"] = dict(sorted(plan["channels"].items(), key=lambda item: int(item[0][1:])))
    return plans


def compression_of(plans: list[dict[str, Any]]) -> str:
    """How a store's chunks are packed; plans from before there was a choice do not say."""
    return plans[0].get("compression", "none")


def plan_units(plan: dict[str, Any]) -> Iterator[Unit]:
    """The units of one plan."""
    for unit in plan["units"]:
        yield Unit(
            unit["name"],
            unit["subset"],
            unit["shard"],
            tuple(record_from_json(unit["subset"], r) for r in unit["records"]),
        )


def record_from_json(subset: str, r: dict[str, Any]) -> Record:
    return Record(
        subset, r["row"], r["id"], r["digest"], tuple(r["image_size"]), View(**r["view"]), r.get("fold"), r.get("group")
    )


def record_to_json(record: Record) -> dict[str, Any]:
    """The plan's entry of a record; the unit holds the subset."""
    return {
        "row": record.row,
        "id": record.id,
        "digest": record.digest,
        "image_size": list(record.image_size),
        "view": record.view.to_json(),
    } | ({} if record.fold is None else {"fold": record.fold, "group": record.group})


def receipt_path(path: Path, unit: str) -> Path:
    return path / "receipts" / f"{unit}.json"
