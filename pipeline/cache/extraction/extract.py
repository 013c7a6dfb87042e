"""`sward extract`: runs the frozen teacher on every planned view and writes the features as whole shards.

A unit (one shard of every array, `unit_writer.py`) is computed into `tmp/`, synced and renamed, and only then gets its
receipt. A restart trusts only receipts, so a kill at any time loses only the units in progress. One process at a time
may write a store; its lock is released when the process ends, however it ends.
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
from pipeline.devices import limit_threads, resolve_device
from pipeline.files import locked, remove_partials
from pipeline.memory import keep_freed_memory
from pipeline.paths import write_path
from pipeline.types import Progress
from pipeline.weights import load_teacher


@dataclass(frozen=True)
class Extraction:
    """Result of one call of `extract`.

    Attributes:
        path: local folder of the store; for a store at a URL, the folder that mirrors it.
        content_id: content id of the store's newest plan.
        records: number of records that the configuration wants.
        computed: number of records that this call computed.
    """

    path: Path
    content_id: str
    records: int
    computed: int


def extract(config: CacheConfig, progress: Progress = lambda done, total: None) -> Extraction:
    """Make, continue or extend the store of ``config``; compute only units without a receipt.

    Raises:
        DatasetError, WeightsError, TrunkMismatch: data set or teacher cannot be used (raised before any work).
        CacheMismatch: the store there was made from another configuration.
        ExtractionError: a feature is NaN or infinite, or overflows the storage type.
        ClusterLost: runner dask: no scheduler or no workers; finished units are kept.
        NotWritable: the disk is full or read-only; finished units are kept.
        RemoteError: the store's URL cannot be reached, or may not be written.
    """
    path, runner = write_path(config.store), runner_of(config)
    keep_freed_memory()
    limit_threads()
    mirror = mirror_of(path)
    mirror.require_own_place() if mirror else require_own_folder(path)
    dataset = check_all(config.dataset, config.split)
    for note in dataset.notes:
        print(f"note: {note}", file=sys.stderr)
    teacher = load_teacher(config.teacher)
    for size in {config.teachers_size_of("train"), config.teachers_size_of("val")}:
        teacher.require_size(size)
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
    """Writer of units: one after the other (`UnitWriter`) or many at once (`DaskExtraction`)."""

    path: Path

    def run(self, units: list[Unit], total: int, progress: Progress) -> None:
        """Compute and commit all ``units``; report progress in records (done, ``total``)."""


def runner_of(config: CacheConfig) -> Callable[[Path, Plans, Dataset, Any], UnitRunner]:
    """The configured runner, as a function of the store's folder, plans, data set and teacher.

    Raises:
        ValueError: the runner does not work here: no such device, or the `dask` extra is not installed.
    """
    if config.runner.kind == "dask":
        try:
            from pipeline.cache.extraction.on_dask.scheduler import DaskExtraction
        except ModuleNotFoundError as error:
            raise ValueError(
                "runner: dask needs the package distributed, which is missing; pip install 'sward[dask]'"
            ) from error
        return lambda path, plans, dataset, teacher: DaskExtraction(path, config, plans, dataset, teacher.digest())
    device = resolve_device(config.device)
    return lambda path, plans, dataset, teacher: TeacherWriter(
        path, config, plans, dataset.samples, teacher.to(device), device
    )


def write_missing_units(worker: UnitRunner, plans: Plans, progress: Progress) -> int:
    """Write every planned unit that has no receipt; return the number of records written."""
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
        mirror.push()  # the timing of the last units
    shutil.rmtree(path / "tmp", ignore_errors=True)
    return sum(len(u.records) for u in todo)


def require_own_folder(path: Path) -> None:
    """Raise CacheMismatch if the folder holds files but no store."""
    others = [p.name for p in path.iterdir() if not begun(p)] if path.is_dir() else []
    if others and not (path / "plan" / "0000.json").is_file():
        raise CacheMismatch(
            f"{path} is not a store, but holds {', '.join(sorted(others)[:3])}; set store to a new folder"
        )


def begun(entry: Path) -> bool:
    """Whether a kill before the first plan may have left this entry: the lock, or a partly written plan."""
    if entry.name == "plan" and entry.is_dir():
        return all(p.suffix == ".partial" for p in entry.iterdir())
    return entry.name == ".lock"
