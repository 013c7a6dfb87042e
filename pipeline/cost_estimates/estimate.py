"""`sward plan`: estimates size and time of an extraction, and whether caching pays off.

The speeds are measured (`calibration.py`) on this machine, on the disk where the store will be.
"""

import os
import shutil
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from pipeline.cache.config import CacheConfig
from pipeline.cache.extraction.record_plan import wanted_records
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS, array_bytes
from pipeline.cache.storage.disk_errors import existing
from pipeline.cost_estimates import student_speed as demands
from pipeline.cost_estimates.budget import Choice, choices
from pipeline.cost_estimates.calibration import Pieces, Reading, measure_disk, measure_teacher
from pipeline.cost_estimates.encoding_speed import measure_encoding
from pipeline.cost_estimates.first_view import first_view, measure_rendering
from pipeline.cost_estimates.half_precision import HalfPrecision, measure_half_precision
from pipeline.cost_estimates.run_reads import RunStores, decoding, pieces_of, stores_of, tensors_of
from pipeline.cost_estimates.student_speed import ReadDemand
from pipeline.cost_estimates.teacher_facts import TeacherFacts, teacher_facts
from pipeline.cost_estimates.throughput import StageTimes, break_even
from pipeline.datasets import Dataset, load_dataset
from pipeline.devices import cores, resolve_device
from pipeline.paths import is_url, write_path
from pipeline.training.config import TrainConfig
from pipeline.types import Size
from pipeline.weights import load_teacher
from sward.contracts import Channels


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of an extraction, and of reading the store.

    Attributes:
        records: subset -> number of records.
        bytes_by_codec: codec -> bytes of the whole store, without indices, full-size labels, plan and receipts.
        shards: number of units; a unit is one shard of every array.
        files: number of shard files, receipts and full-size labels.
        free_bytes: free bytes on the store's disk (for a store at a URL, on the disk of its mirror).
        memory_bytes: bytes of memory of this machine.
        teacher_seconds: seconds per training view in the teacher.
        view_seconds: seconds per training view rendered, run through the teacher, encoded and written, as an
            extraction overlaps these stages (`throughput.py`).
        evaluation_seconds: the same per validation or test view.
        reads: codec -> seconds per record to read and decode the tensors that ``demand`` reads, of joined stores of
            all; the others have the codec of their configuration.
        read_bytes: codec -> bytes per record of these tensors.
        demand: what the student reads, and how fast.
        codec: kind of the configured codec.
        views: views per training image (K) of the configuration.
        source: (height, width) of the first image in pixels.
        choices: views that fit the budget, per codec; empty without a budget.
        url: URL of the store; None for a local one.
        size, teachers_size: (height, width) of a training view in pixels, for the student and for the teacher.
        view_bytes: codec -> bytes of one stored training view.
        half: the teacher in bfloat16 against float32.
        teacher: its row of the table of teachers, for training views.
        own_reads: ``reads`` of the planned store alone; empty if it is the run's only one, or nothing of it is read.
        joined: stores that the run reads beside the planned one -> bytes per record that it reads from each.
        planned: name of the planned store's teacher in front of its levels; empty if the run reads no other store.
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
    size: Size = (0, 0)
    teachers_size: Size = (0, 0)
    view_bytes: dict[str, int] = field(default_factory=dict)
    half: HalfPrecision | None = None
    teacher: TeacherFacts | None = None
    own_reads: dict[str, Reading] = field(default_factory=dict)
    joined: dict[str, int] = field(default_factory=dict)
    planned: str = ""

    @property
    def reads_teacher(self) -> bool:
        """Whether ``demand`` reads anything of the planned store's teacher."""
        return bool(tensors_of(self.demand, self.planned) or self.demand.head)

    @property
    def own_reading(self) -> Reading:
        """Seconds per record to read and decode what ``demand`` reads of the planned store, as configured."""
        return (self.own_reads or self.reads)[self.codec]

    @property
    def total_records(self) -> int:
        return sum(self.records.values())

    @property
    def extraction_seconds(self) -> float:
        trained = self.records["train"]
        return trained * self.view_seconds + (self.total_records - trained) * self.evaluation_seconds

    @property
    def fits(self) -> bool:
        """Whether the store fits the disk with 10 % to spare; of a store at a URL, two units at a time must fit."""
        if self.url:
            return self.bytes_by_codec[self.codec] / self.shards * 2 < self.free_bytes
        return self.bytes_by_codec[self.codec] * 1.1 < self.free_bytes

    def break_even_runs(self, records: int) -> float:
        """Number of runs, of ``records`` records each, after which caching is cheaper than the teacher in the loop.

        Infinite if reading (warm) and decoding take longer than the teacher.
        """
        return break_even(self.extraction_seconds, records, self.teacher_seconds, self.own_reading.total)


def estimate_costs(config: CacheConfig, train: TrainConfig | None = None, budget: int | None = None) -> CostEstimate:
    """Count records and bytes; measure teacher, disk, decoding and student for a few seconds.

    Args:
        config: configuration of the store to estimate.
        train: run whose student will read the store; None assumes a fast student that reads all levels.
        budget: bytes that the store may take; None computes no ``choices``.

    Raises:
        DatasetError, WeightsError, TrunkMismatch: data set or teacher cannot be used.
        NotWritable: the store's disk is full or read-only.
    """
    dataset, teacher = load_dataset(config.dataset, config.split), load_teacher(config.teacher)
    channels: Channels = teacher.channels
    records = wanted_records(config, dataset)
    counts = {s: sum(r.subset == s for r in records) for s in ("train", "val", "test")}
    evaluated, shards = counts["val"] + counts["test"], sum(-(-n // config.shard_records) for n in counts.values())
    evaluating = at_evaluation_size(config)
    both = [(each.size, each.teachers_size_of("train")) for each in (config, evaluating)]
    sizes = {c: (record_bytes(c, channels, *both[0]), record_bytes(c, channels, *both[1])) for c in CODECS}
    stores = stores_of(config, train, channels)
    need = demand_of(config, train, stores.channels, dataset, counts["train"])
    own, beside = read_pieces(stores, need)
    pieces = {codec: [*part, *chain(*beside.values())] for codec, part in own.items()}
    target = existing(write_path(config.store))
    disk = measure_disk(target, pieces, need.workers)
    alone = measure_disk(target, own, need.workers).reads if beside and all(own.values()) else {}
    decode = {codec: decoding(stores, stores.planned, codec, need) for codec in CODECS}
    more = sum(decoding(stores, name, cache.codec.kind, need) for name, cache in stores.others.items())
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
        reads={c: Reading(*times, decode[c] + more) for c, times in disk.reads.items()},
        read_bytes={codec: sum(p) for codec, p in pieces.items()},
        demand=need,
        codec=config.codec.kind,
        views=config.views.count,
        source=records[0].image_size,
        choices=choices(budget, sizes, counts["train"] // config.views.count, evaluated) if budget else [],
        url=config.store if is_url(config.store) else None,
        size=config.size,
        teachers_size=config.teachers_size_of("train"),
        view_bytes={codec: training for codec, (training, _) in sizes.items()},
        half=measure_half_precision(teacher, first_view(config, dataset), config.device),
        teacher=teacher_facts(config.teacher, teacher, config.teachers_size_of("train")),
        own_reads={c: Reading(*times, decode[c]) for c, times in alone.items()},
        joined={stores.caches[name].store: sum(part) for name, part in beside.items()},
        planned=stores.planned,
    )


def measure_pace(config: CacheConfig, teacher: Any, dataset: Dataset, target: Path, write: float) -> StageTimes:
    """Measure the stages of an extraction for views of ``config.size``.

    ``target`` is a folder on the store's disk, which takes ``write`` seconds per byte.
    """
    encode, append = measure_encoding(target, config, teacher.channels)
    return StageTimes(
        measure_teacher(teacher, config.teachers_size_of("train"), config.batch_size, config.device, config.codec),
        encode,
        measure_rendering(config, dataset),
        append,
        write * record_bytes(config.codec.kind, teacher.channels, config.size, config.teachers_size_of("train")),
        **thread_counts(config),
    )


def demand_of(
    config: CacheConfig, train: TrainConfig | None, channels: Channels, dataset: Dataset, n: int
) -> ReadDemand:
    """The demand of a run: measured if ``train`` is given, else assumed for ``n`` training records."""
    if train is None:
        return demands.assumed(channels, n, config.device)
    return demands.measure(train, channels, len(dataset.classes), config.size)


def at_evaluation_size(config: CacheConfig) -> CacheConfig:
    """The configuration with validation and test views in place of training views, also for the teacher."""
    own = {"size": config.teachers_size_of("val")} if config.teacher.size else {}
    teacher = config.teacher.model_copy(update=own)
    return config.model_copy(update={"size": config.evaluation_size, "teacher": teacher})


def record_bytes(codec: str, channels: Channels, size: Size, teachers: Size | None = None) -> int:
    """Bytes of one stored record, image and label included; ``size`` and ``teachers`` as in ``array_specs``."""
    return sum(array_bytes(*spec) for spec in array_specs(CODECS[codec], channels, size, teachers).values())


def read_pieces(stores: RunStores, need: ReadDemand) -> tuple[dict[str, Pieces], dict[str, Pieces]]:
    """Bytes of each array of a record that a run reads: codec -> of the planned store; teacher -> of another one."""
    own = {codec: pieces_of(stores, stores.planned, codec, need) for codec in CODECS}
    return own, {name: pieces_of(stores, name, cache.codec.kind, need) for name, cache in stores.others.items()}


def thread_counts(config: CacheConfig) -> dict[str, int]:
    """Teachers, threads and cores of an extraction on this machine, as arguments of ``StageTimes``.

    Dask workers at an address are estimated as one worker.
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
