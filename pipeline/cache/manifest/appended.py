"""Tensors of a teacher head beside the trunk's levels: what the store says of them.

    appended/plan.json             which head, which tensors, their shapes; immutable
    appended/receipts/<unit>.json  written last: this unit's tensors are complete
    train/logits/c/0/0/0/0 …       shards like those of the levels, in half precision

They belong to one head and to one content id; the store's own identity stays what it is, and what was appended
has an identity of its own.
"""

from pathlib import Path
from typing import Any

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.format.codecs import FP16
from pipeline.cache.manifest.records import Unit
from pipeline.cache.manifest.sealed import read_sealed

APPENDED = FP16()
APPEND_AGAIN = "delete it and append again (sward extract --append)"


def plan_path(path: Path) -> Path:
    return path / "appended" / "plan.json"


def unit_receipt_path(path: Path, unit: str) -> Path:
    return path / "appended" / "receipts" / f"{unit}.json"


def read_appended(path: Path, content_id: str, units: list[Unit]) -> dict[str, Any] | None:
    """The plan with its ``receipts``; None where nothing was appended to this content, or not all of it is there."""
    plan = read_plan(path)
    if plan is None or plan["content_id"] != content_id:
        return None
    receipts = {unit.name: unit_receipt(path, unit, plan) for unit in units}
    return None if None in receipts.values() else plan | {"receipts": receipts}


def read_plan(path: Path) -> dict[str, Any] | None:
    """The plan of what was, or is being, appended; None where there is none, or it is damaged."""
    return read_whole(plan_path(path))


def read_whole(file: Path) -> dict[str, Any] | None:
    """A plan or receipt; None where it is missing or damaged: that stops nobody who does not need it."""
    try:
        return read_sealed(file, APPEND_AGAIN) if file.is_file() else None
    except StoreDamaged:
        return None


def unit_receipt(path: Path, unit: Unit, plan: dict[str, Any]) -> dict[str, Any] | None:
    """A unit's receipt; None where it has none of this very plan, or its files are not of their sizes any more."""
    receipt = read_whole(unit_receipt_path(path, unit.name)) or {}
    if receipt.get("id") != plan["id"]:
        return None
    whole = all(
        (path / name).is_file() and (path / name).stat().st_size == f["bytes"] for name, f in receipt["files"].items()
    )
    return receipt if whole else None


def appended_specs(plan: dict[str, Any], subset: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Array name -> (shape of one record, dtype)."""
    return {name: (tuple(shape), "float16") for name, shape in plan["shapes"].get(subset, {}).items()}
