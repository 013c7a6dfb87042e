"""Records, units, plans and receipts: what a store contains, known before any array is read.

A record is one view of one sample. A unit is one shard of every array of a subset. A plan (`plan/0000.json`) lists the
units that a store is to have; a receipt (`receipts/train-00000.json`) confirms that one of them is complete.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.augmented_views import View
from pipeline.cache.errors import StoreDamaged
from pipeline.cache.manifest.identity import digest
from pipeline.cache.manifest.inside import require_inside, require_inside_plan
from pipeline.cache.manifest.sealed import read_sealed
from pipeline.cache.manifest.shapes import PlanShape, ReceiptShape, planned_twice
from sward.levels import place

RESTORE_PLAN = (
    "restore it from a copy of the store; without one, delete it if it is the newest of several (that cancels the "
    "extension), else remove the store and extract again"
)
TIMING = "timing.jsonl"  # wall-clock seconds of each unit; not part of the content (`extraction/timing.py`)
WITHDRAW = "To cancel an extension planned by mistake, delete the newest file in plan/."


@dataclass(frozen=True)
class Record:
    """One view of one sample: where it is stored, and how the view is made.

    Attributes:
        subset: train, val or test.
        row: index along the record axis of the subset's arrays.
        id: of the sample in the data set.
        digest: sha256 of the sample's image and mask files.
        image_size: (height, width) of the source image, in pixels.
        view: crop, flips and colours, with the number of the view.
        fold: part of a cross-validation that the sample belongs to; None in other splits.
        group: sequence (or image) that the cross-validation keeps whole; None in other splits.
        labelled: whether the sample has a mask; else its label is ``IGNORE`` throughout.
    """

    subset: str
    row: int
    id: str
    digest: str
    image_size: tuple[int, int]
    view: View
    fold: int | None = None
    group: str | None = None
    labelled: bool = True

    @property
    def name(self) -> str:
        """Name that identifies the record in any store: sample digest and view number."""
        return f"{self.digest}/{self.view.number}"

    @property
    def title(self) -> str:
        """Name for messages: subset, sample id and view number."""
        return f"{self.subset}/{self.id} view {self.view.number}"


@dataclass(frozen=True)
class Unit:
    """One shard of every array of a subset: the part of a store that one writer owns.

    Attributes:
        name: subset and shard, such as ``train-00000``.
        subset: train, val or test.
        shard: number of the shard in its subset.
        records: of the shard, in row order; those at a generation's end may be fewer than a shard holds.
    """

    name: str
    subset: str
    shard: int
    records: tuple[Record, ...]

    def digest(self) -> str:
        """Digest of rows, records and views. A receipt contains it, so that it is valid for these records only."""
        return digest([record_to_json(r) for r in self.records])

    def receipt(self, path: Path) -> dict[str, Any] | None:
        """This unit's receipt in the store at ``path``; None if there is none, or it is for other records.

        Raises:
            StoreDamaged: the receipt's bytes are not those that were written, or it names files outside the store.
        """
        file = receipt_path(path, self.name)
        remedy = "delete it and run the command that made the store again"
        receipt = read_sealed(file, remedy, ReceiptShape) if file.is_file() else {}
        require_inside(receipt.get("files", ()), file)
        return receipt if receipt.get("records_digest") == self.digest() else None


def read_plans(path: Path) -> list[dict[str, Any]]:
    """Reads all plans, oldest first, with levels from shallow to deep; an empty list if there is no store.

    Raises:
        StoreDamaged: a plan's bytes are not those that were written, or a name in it would lead out of the store.
    """
    files = sorted((path / "plan").glob("[0-9]*.json"))
    plans = [read_sealed(file, RESTORE_PLAN, PlanShape) for file in files]
    for plan, file in zip(plans, files, strict=True):
        require_inside_plan(plan, file)
        plan["channels"] = dict(sorted(plan["channels"].items(), key=lambda item: place(item[0])))
    if twice := planned_twice(unit for plan in plans for unit in plan["units"]):
        raise StoreDamaged(f"damaged file: {files[-1]} ({twice} is planned twice in {path / 'plan'}); {RESTORE_PLAN}")
    return plans


def compression_of(plans: list[dict[str, Any]]) -> str:
    """Compression of a store's chunks; plans written before there was a choice lack it and mean ``none``."""
    return plans[0].get("compression", "none")


def plan_units(plan: dict[str, Any]) -> Iterator[Unit]:
    """Yields the units of one plan, in its order."""
    for unit in plan["units"]:
        yield Unit(
            unit["name"],
            unit["subset"],
            unit["shard"],
            tuple(record_from_json(unit["subset"], r) for r in unit["records"]),
        )


def record_from_json(subset: str, r: dict[str, Any]) -> Record:
    """Inverse of ``record_to_json``; the unit gives the subset."""
    size, view = tuple(r["image_size"]), View(**r["view"])
    later = (r.get("fold"), r.get("group"), r.get("labelled", True))
    return Record(subset, r["row"], r["id"], r["digest"], size, view, *later)


def record_to_json(record: Record) -> dict[str, Any]:
    """Entry of a record in a plan, without its subset: the unit has that."""
    later = {} if record.fold is None else {"fold": record.fold, "group": record.group}
    return {
        "row": record.row,
        "id": record.id,
        "digest": record.digest,
        "image_size": list(record.image_size),
        "view": record.view.to_json(),
    } | (later if record.labelled else later | {"labelled": False})


def receipt_path(path: Path, unit: str) -> Path:
    """File of a unit's receipt in the store at ``path``."""
    return path / "receipts" / f"{unit}.json"


def full_label_path(path: Path, digest: str) -> Path:
    """File of the full-size label of a sample with this digest."""
    return path / "full_labels" / f"{digest}.png"
