"""Plan and receipts of head tensors (logits, penultimate map) appended to a store.

    appended/plan.json             which head, which tensors, their shapes; immutable
    appended/receipts/<unit>.json  written last: the unit's tensors are complete
    train/logits/c/0/0/0/0 …       shards like those of the levels, in half precision

The tensors belong to one teacher head and to one content id of the store. They do not change the store's identity; the
plan of the appended tensors has its own, ``id``.
"""

from pathlib import Path
from typing import Any

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.format.codecs import FP16
from pipeline.cache.manifest.inside import require_inside
from pipeline.cache.manifest.records import Unit
from pipeline.cache.manifest.sealed import read_sealed
from pipeline.cache.manifest.shapes import AppendedShape

APPENDED = FP16()  # codec of the appended tensors
APPEND_AGAIN = "delete it and append again (sward extract --append)"


def plan_path(path: Path) -> Path:
    """File of the plan of appended tensors."""
    return path / "appended" / "plan.json"


def unit_receipt_path(path: Path, unit: str) -> Path:
    """File of the receipt of a unit's appended tensors."""
    return path / "appended" / "receipts" / f"{unit}.json"


def read_appended(path: Path, content_id: str, units: list[Unit]) -> dict[str, Any] | None:
    """Plan and ``receipts`` of the appended tensors; None if this content has none, or some units lack theirs."""
    plan = read_plan(path)
    if plan is None or plan["content_id"] != content_id:
        return None
    receipts = {unit.name: unit_receipt(path, unit, plan) for unit in units}
    return None if None in receipts.values() else plan | {"receipts": receipts}


def read_plan(path: Path) -> dict[str, Any] | None:
    """Plan of the tensors that were, or are being, appended; None if there is none, or it is damaged."""
    return read_whole(plan_path(path))


def read_whole(file: Path) -> dict[str, Any] | None:
    """Reads a plan or receipt; None if it is missing or damaged.

    Damage is no error here, so that a store stays readable for those who do not need its appended tensors.
    """
    try:
        return read_named(file) if file.is_file() else None
    except StoreDamaged:
        return None


def read_named(file: Path) -> dict[str, Any]:
    """Reads a plan or receipt of appended tensors.

    Raises:
        StoreDamaged: its bytes are not those that were written, or a name in it would lead out of the store.
    """
    found = read_sealed(file, APPEND_AGAIN, AppendedShape)
    shapes = found.get("shapes", {})
    require_inside([*found.get("files", ()), *shapes, *(name for arrays in shapes.values() for name in arrays)], file)
    return found


def unit_receipt(path: Path, unit: Unit, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Receipt of a unit's appended tensors; None if it is missing, of another plan, or a file has another size."""
    receipt = read_whole(unit_receipt_path(path, unit.name)) or {}
    if receipt.get("id") != plan["id"]:
        return None
    whole = all(
        (path / name).is_file() and (path / name).stat().st_size == f["bytes"] for name, f in receipt["files"].items()
    )
    return receipt if whole else None


def appended_specs(plan: dict[str, Any], subset: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Array name -> (shape of one record, dtype), for the appended tensors of a subset."""
    return {name: (tuple(shape), "float16") for name, shape in plan["shapes"].get(subset, {}).items()}
