"""Measures the CPU cost of encoding and writing, with random features.

It writes real units, as an extraction does, but needs no images and no teacher.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.augmented_views import View
from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.statistics import statistics
from pipeline.cache.extraction.unit_writer import Encoded, UnitWriter
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import array_bytes
from pipeline.cache.manifest.records import Record, Unit
from pipeline.cost_estimates.scratch import scratch_folder
from pipeline.devices import cores, resolve_device
from pipeline.types import Arrays
from sward import seeds
from sward.contracts import Channels
from sward.levels import grid_of

LEAST, ROUNDS = 4, 4  # records per unit at least; units written, of which the first warms up and is not counted


class Rehearsal(UnitWriter):
    """Unit writer whose records are given as (image, label, features)."""

    def __init__(self, path: Path, config: CacheConfig, channels: Channels) -> None:
        plan = {"shard_records": 256, "channels": channels, "compression": config.compression}
        super().__init__(path, config, [plan])
        self.on_device = resolve_device(config.device).type == "cuda"

    def encode_once(self, features: Arrays) -> None:
        """Keeps the arrays that the teacher's device would give for every record."""
        self.found = {level: statistics(f) for level, f in features.items()}
        self.arrays = {n: a for level, f in features.items() for n, a in self.config.codec.encode(level, f).items()}

    def encode(self, record: Record, processed: Any) -> Encoded:
        image, label, features = processed
        if self.on_device:  # features and their statistics come encoded
            return self.as_stored({"image": image, "label": label} | self.arrays, self.found)
        return self.encode_features(record, features, {"image": image, "label": label})

    def provenance(self) -> dict[str, Any]:
        return {}


def measure_encoding(folder: Path, config: CacheConfig, channels: Channels) -> tuple[float, float]:
    """Seconds per training view on one core: (encoding, appending to the shard files without the sync).

    Encoding is measured while the other threads encode too; on a GPU, which encodes the features itself, it is what is
    left to the host's threads: compression and pixel digest.

    Raises:
        NotWritable: ``folder`` cannot be written, or its disk is full.
    """
    threads = max(1, min(config.threads, cores()))
    count = threads * -(-LEAST // threads)
    records = tuple(
        Record("train", i, str(i), f"{i:064}", config.size, View(0, 0, 0, *config.size)) for i in range(count)
    )
    unit, made = Unit("train-00000", "train", 0, records), noise(config, channels)
    specs = array_specs(config.codec, channels, config.size, config.teachers_size_of("train"))
    size = count * sum(array_bytes(*spec) for spec in specs.values())
    with scratch_folder(folder, size) as place, ThreadPoolExecutor(threads) as pool:
        worker = Rehearsal(place, config, channels)
        worker.encode_once(made[2])
        rounds = [timed(worker, unit, made, pool) for _ in range(ROUNDS)]
    encode, append = np.median(rounds[1:], axis=0)
    return float(encode) * threads / count, float(append) / count


def timed(worker: Rehearsal, unit: Unit, made: tuple[Any, ...], pool: ThreadPoolExecutor) -> tuple[float, float]:
    """Seconds per unit: (encoding by all threads, appending)."""
    began = time.perf_counter()
    encoded = list(pool.map(lambda record: worker.encode(record, made), unit.records))
    between = time.perf_counter()
    commit = worker.write_records(unit, iter(encoded))
    ended = time.perf_counter()
    commit()
    return between - began, ended - between


def noise(config: CacheConfig, channels: Channels) -> tuple[np.ndarray, np.ndarray, Arrays]:
    """A record: black image (3, H, W), label (H, W) of class 0, and standard normal features by level."""
    (height, width), size = config.size, config.teachers_size_of("train")
    generator = np.random.Generator(np.random.Philox(key=seeds.key("rehearsal")))
    features = {
        level: generator.standard_normal((c, *grid_of(level, size)), np.float32) for level, c in channels.items()
    }
    return np.zeros((3, height, width), np.uint8), np.zeros((height, width), np.uint8), features
