"""What encoding and writing cost the cores: a real unit of random features, without images and without a teacher."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.failures import explained
from pipeline.cache.identity import CacheConfig
from pipeline.cache.records import Record, Unit
from pipeline.cache.unit import Arrays, Encoded, UnitWriter
from pipeline.views import View
from sward import seeds
from sward.contracts import Channels

RECORDS, ROUNDS = 4, 4  # of a unit; the first unit warms up


class Rehearsal(UnitWriter):
    """Encodes and writes (image, label, features)."""

    def __init__(self, path: Path, config: CacheConfig, channels: Channels) -> None:
        plan = {"shard_records": RECORDS, "channels": channels, "compression": config.compression}
        super().__init__(path, config, [plan])

    def encode(self, record: Record, taught: Any) -> Encoded:
        image, label, features = taught
        return self.encode_features(record, features, {"image": image, "label": label})

    def provenance(self) -> dict[str, Any]:
        return {}


def measure_encoding(folder: Path, config: CacheConfig, channels: Channels) -> tuple[float, float]:
    """Seconds a training view on one core, encoded and then appended to its shard's files, before the sync.

    Raises:
        NotWritable: nothing can be written under ``folder``.
    """
    records = tuple(
        Record("train", i, str(i), f"{i:064}", config.size, View(0, 0, 0, *config.size)) for i in range(RECORDS)
    )
    unit, made = Unit("train-00000", "train", 0, records), noise(config.size, channels)
    with explained(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".sward-plan-") as place:
        worker = Rehearsal(Path(place), config, channels)
        rounds = np.array([timed(worker, unit, made) for _ in range(ROUNDS)][1:]) / RECORDS
    encode, append = np.median(rounds, axis=0)
    return float(encode), float(append)


def timed(worker: Rehearsal, unit: Unit, made: tuple[Any, ...]) -> tuple[float, float]:
    began = time.perf_counter()
    encoded = [worker.encode(record, made) for record in unit.records]
    between = time.perf_counter()
    commit = worker.compute(unit, iter(encoded))
    ended = time.perf_counter()
    commit()
    return between - began, ended - between


def noise(size: tuple[int, int], channels: Channels) -> tuple[np.ndarray, np.ndarray, Arrays]:
    """Image (3, H, W), label (H, W), and features by level, standard normal."""
    height, width = size
    generator = np.random.Generator(np.random.Philox(key=seeds.key("rehearsal")))
    features = {
        level: generator.standard_normal((c, height // int(level[1:]), width // int(level[1:])), np.float32)
        for level, c in channels.items()
    }
    return np.zeros((3, height, width), np.uint8), np.zeros((height, width), np.uint8), features
