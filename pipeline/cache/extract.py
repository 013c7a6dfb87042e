"""Stage 1: the frozen teacher over every planned view, one whole shard at a time.

A unit (`unit.py`) is computed into `tmp/`, synced, renamed, and only then gets its receipt. A restart trusts
receipts alone, so a kill at any instant costs the units in flight. One process at a time may write a store
(a lock that dies with the process).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from pipeline.cache.identity import CacheConfig, CacheMismatch
from pipeline.cache.planning import full_identity, update_plan, wanted_records
from pipeline.cache.records import plan_units, read_plans
from pipeline.cache.store import array_specs
from pipeline.cache.unit import Progress, UnitWriter
from pipeline.datasets import check_all
from pipeline.devices import resolve_device
from pipeline.files import locked
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
    """
    device, path = resolve_device(config.device), place(config.store)
    require_own_folder(path)
    dataset, teacher = check_all(config.dataset, config.split), load_teacher(config.teacher)
    wanted = wanted_records(config, dataset)
    found = full_identity(config, dataset, teacher.digest(), wanted)
    with locked(path):
        update_plan(path, config, found, wanted, teacher.channels)
        plans = read_plans(path)
        ensure_arrays(path, config, plans)
        shutil.rmtree(path / "tmp", ignore_errors=True)
        units = [u for plan in plans for u in plan_units(plan)]
        todo = [u for u in units if u.receipt(path) is None]
        worker = UnitWriter(path, config, plans, dataset, teacher.to(device), device)
        worker.run(todo, total=sum(len(u.records) for u in units), progress=progress)
        shutil.rmtree(path / "tmp", ignore_errors=True)
    return Extraction(path, plans[-1]["content_id"], len(wanted), sum(len(u.records) for u in todo))


def require_own_folder(path: Path) -> None:
    """A store never moves into a folder that holds something else."""
    others = [p.name for p in path.iterdir() if p.name != ".lock"] if path.is_dir() else []
    if others and not (path / "plan" / "0000.json").is_file():
        raise CacheMismatch(
            f"{path} is not a store, but holds {', '.join(sorted(others)[:3])}; set store to a new folder"
        )


def ensure_arrays(path: Path, config: CacheConfig, plans: list[dict[str, Any]]) -> None:
    """Zarr metadata of every array, long enough for every planned row; safe to repeat."""
    root = zarr.open_group(path, mode="a")
    root.attrs["sward"] = {k: plans[-1][k] for k in ("identity", "content_id", "channels", "shard_records")}
    for subset in ("train", "val", "test"):
        rows = max(
            (r.row + 1 for p in plans for u in plan_units(p) if u.subset == subset for r in u.records), default=0
        )
        group = root.require_group(subset)
        for name, (shape, dtype) in array_specs(config.codec, plans[0]["channels"], config.size_of(subset)).items():
            array = group.get(name)
            if not isinstance(array, zarr.Array):
                group.create_array(name, shape=(rows, *shape), dtype=dtype, chunks=(1, *shape), **layout(plans, shape))
            elif array.shape[0] != rows:
                array.resize((rows, *shape))


def layout(plans: list[dict[str, Any]], shape: tuple[int, ...]) -> dict[str, Any]:
    """A shard a unit, uncompressed; a zero chunk is written like any other."""
    return {"shards": (plans[0]["shard_records"], *shape), "compressors": None, "filters": None, "fill_value": 0}
