"""A complete store of records of Hiera-T's size at 512×512, fp16, with pseudo-random bytes: for benchmarks."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.extract import ensure_arrays
from pipeline.cache.identity import CacheConfig, declared, digest
from pipeline.cache.records import Record, Unit, plan_units, read_plans, receipt_path, record_to_json
from pipeline.cache.shards import ShardWriter
from pipeline.cache.store import Store, array_specs, shard_path
from pipeline.files import write_json
from pipeline.views import View
from sward import seeds

CHANNELS = {"s4": 96, "s8": 192, "s16": 384, "s32": 768}
SHARD = 16


def write_store(path: Path, records: int) -> Store:
    """``records`` training records under ``path``; metadata, plan and receipts are those of a real store."""
    config = CacheConfig(
        dataset="synthetic",
        teacher={"architecture": "tiny", "weights": "none"},
        size=(512, 512),
        store=str(path),
        shard_records=SHARD,
    )
    plan = make_plan(config, records)
    write_json(path / "plan/0000.json", plan)
    ensure_arrays(path, config, read_plans(path))
    for unit in plan_units(plan):
        specs = array_specs(config.codec, CHANNELS, config.size)
        files = dict(write_shard(path, unit, name, *spec) for name, spec in specs.items())
        receipt = {"unit": unit.name, "records_digest": unit.digest(), "files": files, "levels": {}}
        write_json(receipt_path(path, unit.name), receipt)
    return Store(path)


def make_plan(config: CacheConfig, count: int) -> dict[str, Any]:
    records = [Record("train", i, f"{i}", digest(i), (512, 512), View(0, 0, 0, 512, 512)) for i in range(count)]
    units = [
        {"name": f"train-{s:05d}", "subset": "train", "shard": s, "records": [record_to_json(r) for r in piece]}
        for s, piece in enumerate(records[i : i + SHARD] for i in range(0, count, SHARD))
    ]
    identity = declared(config) | {"data.classes": ["background", "polyp"]}
    plan = {"identity": identity, "content_id": digest(identity), "config": config.model_dump(mode="json")}
    return plan | {"channels": CHANNELS, "shard_records": SHARD, "generation": 0, "units": units}


def write_shard(path: Path, unit: Unit, name: str, shape: tuple[int, ...], dtype: str) -> tuple[str, dict[str, int]]:
    """(file relative to the store, its entry in the receipt)."""
    file = shard_path(path, unit.subset, name, unit.shard, len(shape) + 1)
    writer = ShardWriter(file, SHARD)
    for record in unit.records:
        words = seeds.words(int(np.prod(shape)) * np.dtype(dtype).itemsize // 8, "bytes", name, record.row)
        writer.append(words.view(dtype).reshape(shape))
    return str(file.relative_to(path)), writer.close()
