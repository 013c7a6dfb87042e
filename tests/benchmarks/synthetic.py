"""A complete store of pseudo-random records of a teacher's size (default: Hiera-T at 512×512, fp16): for benchmarks."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.augmented_views import View
from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.record_plan import make_plan
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.shards import ShardWriter, shard_path
from pipeline.cache.manifest.identity import digest, identity_from_config
from pipeline.cache.manifest.records import Record, Unit, plan_units, read_plans, receipt_path
from pipeline.cache.manifest.zarr_metadata import ensure_metadata
from pipeline.cache.storage.first_reads import SUMS, array_crc32c
from pipeline.cache.store import Store
from pipeline.files import write_json
from sward import seeds

CHANNELS = {"s4": 96, "s8": 192, "s16": 384, "s32": 768}
LARGE = {"s4": 144, "s8": 288, "s16": 576, "s32": 1152}  # Hiera-L
SHARD = 16
TEACHERS = {"pocket": "configs/quickstart/cache.yaml", "tiny": "configs/cache/clinicdb-hiera-t-256.yaml"}


def store_arguments(about: str | None, records: int, repetitions: int) -> argparse.ArgumentParser:
    """Parser of a benchmark that writes a store and reads it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=records)
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--folder", type=Path, help="where the store is written (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser


def write_store(
    path: Path, records: int, channels: dict[str, int] = CHANNELS, size: tuple[int, int] = (512, 512)
) -> Store:
    """``records`` training records under ``path``; metadata, plan and receipts are those of a real store."""
    config = CacheConfig(
        dataset="synthetic",
        teacher={"architecture": "tiny", "weights": "none"},
        size=size,
        store=str(path),
        shard_records=SHARD,
    )
    plan = planned(config, records, channels)
    write_json(path / "plan/0000.json", plan)
    ensure_metadata(path, read_plans(path))
    levels = {level: {"count": 1, "sum": [0.0] * c, "sum_squares": [1.0] * c} for level, c in channels.items()}
    for unit in plan_units(plan):
        specs = array_specs(config.codec, channels, config.size)
        files, sums = {}, {}
        for name, spec in specs.items():
            file, facts, sums[name] = write_shard(path, unit, name, *spec)
            files[file] = facts
        receipt = {"unit": unit.name, "records_digest": unit.digest(), "files": files, "levels": levels, SUMS: sums}
        write_json(receipt_path(path, unit.name), receipt)
    return Store(path)


def planned(config: CacheConfig, count: int, channels: dict[str, int]) -> dict[str, Any]:
    view = View(0, 0, 0, *config.size)
    records = [Record("train", -1, f"{i}", digest(i), config.size, view) for i in range(count)]
    return make_plan(
        identity_from_config(config) | {"data.classes": ["background", "polyp"]}, config, channels, records, []
    )


def frames_card(train: int, others: int) -> str:
    """A card of so many procedural frames, and as many for validation and for test as ``others``."""
    return f"""
name: frames
title: procedural frames of a colonoscope's size
citation: none
licence: Apache-2.0
classes: [background, polyp]
images: images/{{id}}.png
masks: masks/{{id}}.png
encoding: {{kind: indexed, labels: {{0: 0, 1: 1}}}}
splits:
  random: {{kind: matched, patterns: {{train: train-*, val: val-*, test: test-*}}}}
source:
  {{kind: procedural, counts: {{train: {train}, val: {others}, test: {others}}},
    height: 288, width: 384, classes: 2, seed: 0}}
"""


def write_shard(
    path: Path, unit: Unit, name: str, shape: tuple[int, ...], dtype: str
) -> tuple[str, dict[str, int], list[int]]:
    """(file relative to the store, its entry in the receipt, checksum of every record)."""
    file = shard_path(path, unit.subset, name, unit.shard, len(shape) + 1)
    writer = ShardWriter(file, SHARD)
    sums = []
    for record in unit.records:
        array = content(name, record.row, shape, dtype)
        sums.append(array_crc32c(array))
        writer.append(array)
    return str(file.relative_to(path)), writer.close(), sums


def content(name: str, row: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Features are standard normal (about as compressible as real ones), pixels uniform, labels 0 or 1."""
    generator = np.random.Generator(np.random.Philox(key=seeds.key("content", name, row)))
    if name not in ("image", "label"):
        return generator.standard_normal(shape, np.float32).astype(dtype)
    return generator.integers(0, 2 if name == "label" else 256, shape, dtype)
