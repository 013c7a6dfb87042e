"""What encoding costs the teacher's thread: a real unit of random features, without images and without a teacher."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.failures import explained
from pipeline.cache.identity import CacheConfig
from pipeline.cache.records import Record, Unit
from pipeline.cache.tally import LevelTally
from pipeline.cache.unit import Arrays, UnitWriter
from pipeline.views import View
from sward import seeds
from sward.contracts import Channels

RECORDS, ROUNDS = 4, 3  # of a unit; the first unit warms up


class Rehearsal(UnitWriter):
    """Encodes and writes what it is given as rendered: (image, label, features)."""

    def __init__(self, path: Path, config: CacheConfig, channels: Channels) -> None:
        plan = {"shard_records": RECORDS, "channels": channels, "compression": config.compression}
        super().__init__(path, config, [plan])

    def arrays(self, records: tuple[Record, ...], rendered: list[Any], tally: LevelTally) -> Iterator[Arrays]:
        for record, (image, label, features) in zip(records, rendered, strict=True):
            yield {"image": image, "label": label} | self.encode(record, features, tally)

    def provenance(self) -> dict[str, Any]:
        return {}


def measure_encoding(folder: Path, config: CacheConfig, channels: Channels) -> float:
    """Seconds a training view from the teacher's features to the file, before the sync: what its thread does with them.

    Raises:
        NotWritable: nothing can be written under ``folder``.
    """
    records = tuple(
        Record("train", i, str(i), f"{i:064}", config.size, View(0, 0, 0, *config.size)) for i in range(RECORDS)
    )
    unit, made = Unit("train-00000", "train", 0, records), noise(config.size, channels)
    with explained(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".sward-plan-") as place:
        worker = Rehearsal(Path(place), config, channels)
        return float(np.median([timed(worker, unit, made) for _ in range(ROUNDS)][1:]) / RECORDS)


def timed(worker: Rehearsal, unit: Unit, made: tuple[Any, ...]) -> float:
    rendered = iter([(batch, [made] * len(batch)) for batch in worker.batches(unit)])
    began = time.perf_counter()
    commit = worker.compute(unit, rendered)
    taken = time.perf_counter() - began
    commit()
    return taken


def noise(size: tuple[int, int], channels: Channels) -> tuple[np.ndarray, np.ndarray, Arrays]:
    """Image (3, H, W), label (H, W), and features by level, standard normal."""
    height, width = size
    generator = np.random.Generator(np.random.Philox(key=seeds.key("rehearsal")))
    features = {
        level: generator.standard_normal((c, height // int(level[1:]), width // int(level[1:])), np.float32)
        for level, c in channels.items()
    }
    return np.zeros((3, height, width), np.uint8), np.zeros((height, width), np.uint8), features
