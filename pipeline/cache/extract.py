"""Stage 1: the frozen teacher over every planned view, one whole shard at a time.

A unit (`unit.py`) is computed into `tmp/`, synced, renamed, and only then gets its receipt. A restart trusts
receipts alone, so a kill at any instant costs the units in flight. One process at a time may write a store
(a lock that dies with the process).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache.appended import read_plan
from pipeline.cache.failures import explained
from pipeline.cache.identity import CacheConfig, CacheMismatch
from pipeline.cache.metadata import ensure_metadata
from pipeline.cache.planning import full_identity, update_plan, wanted_records
from pipeline.cache.records import plan_units, read_plans
from pipeline.cache.taught import TeacherWriter
from pipeline.cache.unit import Progress, UnitWriter
from pipeline.datasets import check_all
from pipeline.devices import resolve_device
from pipeline.files import locked, sweep
from pipeline.memory import keep_freed_memory
from pipeline.paths import place
from pipeline.weights import load_teacher


@dataclass(frozen=True)
class Extraction:
    """What one call did."""

    path: Path
    content_id: str
    records: int
    computed: int


def extract(config: CacheConfig, progress: Progress = lambda done, total: None) -> Extraction:
    """Make, continue or extend the store of ``config``; computes only what has no receipt.

    Raises:
        DatasetError, WeightsError, TrunkMismatch: the sources are not usable (before any work).
        CacheMismatch: a store made from something else is there.
        ExtractionError: a feature is NaN or infinite, or overflows the storage type.
        NotWritable: the disk is full, or may not be written; what is finished is kept.
    """
    device, path = resolve_device(config.device), place(config.store)
    keep_freed_memory()
    require_own_folder(path)
    dataset, teacher = check_all(config.dataset, config.split), load_teacher(config.teacher)
    wanted = wanted_records(config, dataset)
    found = full_identity(config, dataset, teacher.digest(), wanted)
    with explained(path), locked(path):
        update_plan(path, config, found, wanted, teacher.channels)
        plans = read_plans(path)
        worker = TeacherWriter(path, config, plans, dataset, teacher.to(device), device)
        computed = complete(worker, plans, progress)
    return Extraction(path, plans[-1]["content_id"], len(wanted), computed)


def complete(worker: UnitWriter, plans: list[dict[str, Any]], progress: Progress) -> int:
    """Write every planned unit that has no receipt; returns how many records that were."""
    path = worker.path
    appended = read_plan(path)
    same = appended is not None and appended["content_id"] == plans[-1]["content_id"]
    sweep(path)
    ensure_metadata(path, plans, appended if same else None)
    shutil.rmtree(path / "tmp", ignore_errors=True)
    units = [u for plan in plans for u in plan_units(plan)]
    todo = [u for u in units if u.receipt(path) is None]
    worker.run(todo, total=sum(len(u.records) for u in units), progress=progress)
    shutil.rmtree(path / "tmp", ignore_errors=True)
    return sum(len(u.records) for u in todo)


def require_own_folder(path: Path) -> None:
    """A store never moves into a folder that holds something else."""
    others = [p.name for p in path.iterdir() if not begun(p)] if path.is_dir() else []
    if others and not (path / "plan" / "0000.json").is_file():
        raise CacheMismatch(
            f"{path} is not a store, but holds {', '.join(sorted(others)[:3])}; set store to a new folder"
        )


def begun(entry: Path) -> bool:
    """Whether it is what a kill before the first plan leaves: the lock, a plan that was being written."""
    if entry.name == "plan" and entry.is_dir():
        return all(p.suffix == ".partial" for p in entry.iterdir())
    return entry.name == ".lock"
