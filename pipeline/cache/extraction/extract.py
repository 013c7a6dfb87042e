"""Stage 1: the frozen teacher over every planned view, in whole shards.

A unit (`unit.py`) is computed into `tmp/`, synced, renamed, and only then gets its receipt. A restart trusts
receipts alone, so a kill at any instant costs the units in flight. One process at a time may write a store
(a lock that dies with the process).
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import CacheMismatch
from pipeline.cache.extraction.record_plan import Plans, full_identity, update_plan, wanted_records
from pipeline.cache.extraction.teacher_writer import TeacherWriter
from pipeline.cache.manifest.appended import read_plan
from pipeline.cache.manifest.records import Unit, plan_units, read_plans
from pipeline.cache.manifest.zarr_metadata import ensure_metadata
from pipeline.cache.storage.disk_errors import clear_tmp_on_disk_error, explain_disk_errors
from pipeline.cache.storage.mirror import mirror_of
from pipeline.datasets import Dataset, check_all
from pipeline.devices import resolve_device
from pipeline.files import locked, remove_partials
from pipeline.memory import keep_freed_memory
from pipeline.paths import write_path
from pipeline.types import Progress
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
        ClusterLost: runner dask: no scheduler or no workers; what is finished is kept.
        NotWritable: the disk is full, or may not be written; what is finished is kept.
        RemoteError: the store at a URL cannot be reached, or may not be written.
    """
    path, runner = write_path(config.store), runner_of(config)
    keep_freed_memory()
    mirror = mirror_of(path)
    mirror.require_own_place() if mirror else require_own_folder(path)
    dataset = check_all(config.dataset, config.split)
    for note in dataset.notes:
        print(f"note: {note}", file=sys.stderr)
    teacher = load_teacher(config.teacher)
    wanted = wanted_records(config, dataset)
    found = full_identity(config, dataset, teacher.digest(), wanted)
    with explain_disk_errors(path), locked(path), clear_tmp_on_disk_error(path):
        if mirror:
            mirror.pull()
        update_plan(path, config, found, wanted, teacher.channels)
        plans = read_plans(path)
        computed = write_missing_units(runner(path, plans, dataset, teacher), plans, progress)
    return Extraction(path, plans[-1]["content_id"], len(wanted), computed)


class UnitRunner(Protocol):
    """What makes units, one after the other or many at once."""

    path: Path

    def run(self, units: list[Unit], total: int, progress: Progress) -> None:
        """Compute and commit them all; ``progress`` gets records done and in total."""


def runner_of(config: CacheConfig) -> Callable[[Path, Plans, Dataset, Any], UnitRunner]:
    """What the configuration's runner makes of store, plans, data set and teacher.

    Raises:
        ValueError: it cannot run here: no such device, or the extra is not installed.
    """
    if config.runner.kind == "dask":
        try:
            from pipeline.cache.extraction.on_dask.scheduler import DaskExtraction
        except ModuleNotFoundError as error:
            raise ValueError("runner: dask needs the package distributed: pip install 'sward[dask]'") from error
        return lambda path, plans, dataset, teacher: DaskExtraction(path, config, plans, dataset, teacher.digest())
    device = resolve_device(config.device)
    return lambda path, plans, dataset, teacher: TeacherWriter(
        path, config, plans, dataset.samples, teacher.to(device), device
    )


def write_missing_units(worker: UnitRunner, plans: Plans, progress: Progress) -> int:
    """Write every planned unit that has no receipt; returns how many records that were."""
    path = worker.path
    appended = read_plan(path)
    same = appended is not None and appended["content_id"] == plans[-1]["content_id"]
    remove_partials(path)
    ensure_metadata(path, plans, appended if same else None)
    mirror = mirror_of(path)
    if mirror:
        mirror.push()
    shutil.rmtree(path / "tmp", ignore_errors=True)
    units = [u for plan in plans for u in plan_units(plan)]
    todo = [u for u in units if u.receipt(path) is None]
    worker.run(todo, total=sum(len(u.records) for u in units), progress=progress)
    if mirror and todo:
        mirror.push()  # what the last units took
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
