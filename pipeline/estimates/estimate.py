"""`sward plan`: what an extraction will cost and whether caching pays, before anything runs.

What is measured (`calibration.py`) is measured on this machine, on the disk where the store will be.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.record_plan import wanted_records
from pipeline.cache.extraction.teacher_writer import Samples, render_record
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS, array_bytes
from pipeline.cache.manifest.appended import APPENDED
from pipeline.cache.storage.disk_errors import existing
from pipeline.datasets import Dataset, load_dataset
from pipeline.devices import cores, resolve_device
from pipeline.estimates import student_speed as demands
from pipeline.estimates.budget import Choice, choices
from pipeline.estimates.calibration import (
    Pieces,
    Reading,
    measure_decoding,
    measure_disk,
    measure_teacher,
    median_seconds,
)
from pipeline.estimates.encoding_speed import measure_encoding
from pipeline.estimates.student_speed import ReadDemand
from pipeline.estimates.throughput import StageTimes, break_even
from pipeline.paths import is_url, write_path
from pipeline.training.config import TrainConfig
from pipeline.weights import load_teacher
from sward.contracts import Channels


@dataclass(frozen=True)
class CostEstimate:
    """Sizes in bytes, times in seconds.

    records: by subset. teacher_seconds: a training view in the teacher. view_seconds: one rendered, taught, encoded and
    written, as an extraction overlaps them (`pace.py`); evaluation_seconds: a validation or test view. reads: by codec,
    of what ``demand`` reads of a record; read_bytes likewise. choices: what fits a budget, empty without one; views: K
    of the configuration. source: (height, width) of the first image. url: the store's, where it has one.
    """

    records: dict[str, int]
    bytes_by_codec: dict[str, int]
    shards: int
    files: int
    free_bytes: int
    memory_bytes: int
    teacher_seconds: float
    view_seconds: float
    evaluation_seconds: float
    reads: dict[str, Reading]
    read_bytes: dict[str, int]
    demand: ReadDemand
    codec: str
    views: int = 1
    source: tuple[int, int] = (0, 0)
    choices: list[Choice] = field(default_factory=list)
    url: str | None = None

    @property
    def total_records(self) -> int:
        return sum(self.records.values())

    @property
    def extraction_seconds(self) -> float:
        trained = self.records["train"]
        return trained * self.view_seconds + (self.total_records - trained) * self.evaluation_seconds

    @property
    def fits(self) -> bool:
        """Whether the chosen codec's bytes and a tenth more are free; of a store at a URL, two shards of it."""
        if self.url:
            return self.bytes_by_codec[self.codec] / self.shards * 2 < self.free_bytes
        return self.bytes_by_codec[self.codec] * 1.1 < self.free_bytes

    def break_even_runs(self, records: int) -> float:
        """Runs that read ``records`` records each after which extracting once is cheaper than the teacher in the loop;
        infinite where reading (warm) and decoding take longer than the teacher."""
        return break_even(self.extraction_seconds, records, self.teacher_seconds, self.reads[self.codec].total)


def estimate_costs(config: CacheConfig, train: TrainConfig | None = None, budget: int | None = None) -> CostEstimate:
    """Count, and measure teacher, disk, decoding and student for a few seconds.

    Args:
        config: the store to be.
        train: whose student it is to feed; None assumes a fast one that reads all levels.
        budget: bytes that the store may take; None leaves the choice as configured.

    Raises:
        DatasetError, WeightsError, TrunkMismatch: the sources are not usable.
        NotWritable: the store's disk cannot be written.
    """
    dataset, teacher = load_dataset(config.dataset, config.split), load_teacher(config.teacher)
    channels: Channels = teacher.channels
    records = wanted_records(config, dataset)
    counts = {s: sum(r.subset == s for r in records) for s in ("train", "val", "test")}
    evaluated, shards = counts["val"] + counts["test"], sum(-(-n // config.shard_records) for n in counts.values())
    sizes = {
        c: (record_bytes(c, channels, config.size), record_bytes(c, channels, config.evaluation_size)) for c in CODECS
    }
    need = demand_of(config, train, channels, dataset, counts["train"])
    pieces = {codec: read_pieces(codec, need, config.size) for codec in CODECS}
    target = existing(write_path(config.store))
    disk = measure_disk(target, pieces, need.workers)
    shapes = level_shapes(need, config.size)
    evaluating = config.model_copy(update={"size": config.evaluation_size})
    pace = measure_pace(config, teacher, dataset, target, disk.write)
    slower = pace if evaluating.size == config.size else measure_pace(evaluating, teacher, dataset, target, disk.write)
    return CostEstimate(
        records=counts,
        bytes_by_codec={codec: counts["train"] * a + evaluated * b for codec, (a, b) in sizes.items()},
        shards=shards,
        files=shards * (len(array_specs(config.codec, channels, config.size)) + 1) + evaluated,
        free_bytes=shutil.disk_usage(target).free,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        teacher_seconds=pace.teacher,
        view_seconds=pace.seconds,
        evaluation_seconds=slower.seconds,
        reads={c: Reading(*times, measure_decoding(c, shapes, need.device)) for c, times in disk.reads.items()},
        read_bytes={codec: sum(p) for codec, p in pieces.items()},
        demand=need,
        codec=config.codec.kind,
        views=config.views.count,
        source=records[0].image_size,
        choices=choices(budget, sizes, counts["train"] // config.views.count, evaluated) if budget else [],
        url=config.store if is_url(config.store) else None,
    )


def measure_pace(config: CacheConfig, teacher: Any, dataset: Dataset, target: Path, write: float) -> StageTimes:
    """Of views of ``config.size``; ``target``: on the store's disk, which takes ``write`` seconds a byte."""
    encode, append = measure_encoding(target, config, teacher.channels)
    return StageTimes(
        measure_teacher(teacher, config.size, config.batch_size, config.device),
        encode,
        measure_rendering(config, dataset),
        append,
        write * record_bytes(config.codec.kind, teacher.channels, config.size),
        **thread_counts(config),
    )


def demand_of(
    config: CacheConfig, train: TrainConfig | None, channels: Channels, dataset: Dataset, n: int
) -> ReadDemand:
    """Measured where a training configuration is given, else assumed, with ``n`` training records."""
    if train is None:
        return demands.assumed(channels, n, config.device)
    return demands.measure(train, channels, len(dataset.classes), config.size)


def record_bytes(codec: str, channels: Channels, size: tuple[int, int]) -> int:
    """Bytes of one stored record, image and label included."""
    return sum(array_bytes(*spec) for spec in array_specs(CODECS[codec], channels, size).values())


def read_pieces(codec: str, need: ReadDemand, size: tuple[int, int]) -> Pieces:
    """Bytes of every array that a step reads of a record."""
    specs = array_specs(CODECS[codec], need.tensors, size)
    for name, c in need.head.items():
        specs |= APPENDED.arrays(name, (c, size[0] // 4, size[1] // 4))
    return [array_bytes(*spec) for spec in specs.values()]


def level_shapes(need: ReadDemand, size: tuple[int, int]) -> dict[str, tuple[int, int, int]]:
    return {level: (c, size[0] // int(level[1:]), size[1] // int(level[1:])) for level, c in need.tensors.items()}


def measure_rendering(config: CacheConfig, dataset: Dataset) -> float:
    """Seconds a view on one core, while the others do the same."""
    first = wanted_records(config, Dataset(dataset.card, dataset.split, dataset.samples[:1]))[0]
    samples: Samples = {(s.subset, s.digest): s for s in dataset.samples[:1]}
    size, threads = config.size_of(first.subset), max(1, min(config.threads, cores()))
    return median_seconds(lambda: render_record(first, samples, size), threads=threads)


def thread_counts(config: CacheConfig) -> dict[str, int]:
    """Threads, teachers and cores of an extraction on this machine, as ``StageTimes`` wants them.

    Workers at an address are estimated as a single one of them.
    """
    on_cpu, runner = resolve_device(config.device).type == "cpu", config.runner
    num_teachers = 1
    if runner.kind == "dask" and not runner.address and not on_cpu:
        num_teachers = runner.workers or torch.cuda.device_count()
    workers = min(config.threads * num_teachers, max(config.threads, cores()))
    return {
        "num_teachers": num_teachers,
        "workers": workers,
        "threads": torch.get_num_threads() if on_cpu else 0,
        "cores": cores(),
    }
