"""What extractions cost on machines that are not here: bytes, hours, what drives them, what a student then asks for.

`sward plan` measures this machine; here its parts follow from counts (FLOPs, pixels, values, bytes) and stated rates,
and overlap by the same rule (`pace.py`). `tests/benchmarks/capacity.py` measures the rates of a machine, predicts small
extractions with this model and runs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS
from pipeline.datasets.masks.choose import THREADS
from pipeline.estimates.estimate import record_bytes
from pipeline.estimates.flops import channels_of, view_flops
from pipeline.estimates.student_speed import assumed
from pipeline.estimates.throughput import StageTimes, break_even
from pipeline.types import Size
from sward.contracts import Channels


@dataclass(frozen=True)
class Workload:
    """A store to be.

    images: for training, with ``views`` views each. val, test: images, one view each. source: size of an image. size,
    eval_size: of a training and of an evaluation view.
    """

    name: str
    images: int
    val: int
    test: int
    source: Size
    size: Size
    eval_size: Size
    views: int = 1
    codec: str = "fp16"
    architecture: str = "large"
    shard_records: int = 16

    @property
    def parts(self) -> list[tuple[int, Size]]:
        """(records, size of their view) of train, val and test."""
        return [(self.images * self.views, self.size), (self.val, self.eval_size), (self.test, self.eval_size)]

    @property
    def records(self) -> int:
        return sum(n for n, _ in self.parts)

    @property
    def shards(self) -> int:
        return sum(-(-n // self.shard_records) for n, _ in self.parts)

    @cached_property
    def channels(self) -> Channels:
        return channels_of(self.architecture)

    @property
    def arrays(self) -> int:
        return len(array_specs(CODECS[self.codec], self.channels, self.size))

    @property
    def bytes(self) -> int:
        """Of all shard files, each with its index (`shards.py`); without full-size labels, plan and receipts."""
        indices = self.shards * self.arrays * (16 * self.shard_records + 4)
        return sum(n * self.view_bytes(size) for n, size in self.parts) + indices

    @property
    def files(self) -> int:
        """Shard files, receipts, full-size labels: objects, where the store is one of objects."""
        return self.shards * (self.arrays + 1) + self.val + self.test

    def view_bytes(self, size: Size) -> int:
        return record_bytes(self.codec, self.channels, size)

    def values(self, size: Size) -> int:
        """Features of a view."""
        return sum(c * prod(s // int(level[1:]) for s in size) for level, c in self.channels.items())


@dataclass(frozen=True)
class Rates:
    """Of one core, in seconds. decode: a source pixel, image and mask. render: a pixel of the view. encode: a feature
    value, by codec. append: a stored byte."""

    decode: float
    render: float
    encode: Mapping[str, float]
    append: float


@dataclass(frozen=True)
class Machine:
    """flops: sustained, a GPU. cores, write and read (bytes/s): a node. threads: of a teacher that runs on the CPU and
    shares its cores; 0 on GPUs."""

    name: str
    gpus: int
    flops: float
    cores: int
    write: float
    read: float
    rates: Rates
    nodes: int = 1
    threads: int = 0
    workers: int | None = None  # default: the cores that no teacher's and no writing thread has

    def pace(self, work: Workload, size: Size) -> StageTimes:
        """Of a view of ``size`` on one node."""
        pixels = prod(work.source) * self.rates.decode + prod(size) * self.rates.render
        return StageTimes(
            teacher=view_flops(work.architecture, size) / self.flops,
            encode=work.values(size) * self.rates.encode[work.codec],
            render=pixels,
            append=work.view_bytes(size) * self.rates.append,
            write=work.view_bytes(size) / self.write,
            num_teachers=self.gpus,
            workers=self.cores - 2 * self.gpus if self.workers is None else self.workers,
            threads=self.threads,
            cores=self.cores,
        )


@dataclass(frozen=True)
class Capacity:
    """A workload on a machine. Seconds, bytes a second."""

    work: Workload
    machine: Machine

    @cached_property
    def paces(self) -> list[tuple[int, StageTimes]]:
        return [(n, self.machine.pace(self.work, size)) for n, size in self.work.parts if n]

    @property
    def checking(self) -> float:
        """Decoding every image once before the first view, in one process on one node."""
        images = self.work.images + self.work.val + self.work.test
        return images * prod(self.work.source) * self.machine.rates.decode / min(THREADS, self.machine.cores)

    @property
    def extraction(self) -> float:
        """Of all views, once checked."""
        return sum(n * pace.seconds for n, pace in self.paces) / self.machine.nodes

    @property
    def driver(self) -> str:
        """What most of the extraction waits for."""
        return max(self.paces, key=lambda found: found[0] * found[1].seconds)[1].driver

    @property
    def shares(self) -> dict[str, float]:
        """Part -> seconds of the whole extraction if that part were alone."""
        names = self.paces[0][1].parts
        return {name: sum(n * pace.parts[name] for n, pace in self.paces) / self.machine.nodes for name in names}

    @property
    def writes(self) -> float:
        """Bytes a second that all nodes together write meanwhile."""
        return self.work.bytes / self.extraction

    @property
    def student_records(self) -> float:
        """Records a second that the student assumed by `sward plan` asks for, on one GPU."""
        return assumed(self.work.channels, 0, "cuda").records_per_second

    @property
    def student_reads(self) -> float:
        return self.student_records * self.work.view_bytes(self.work.size)

    @property
    def reading(self) -> float:
        """Of a training record, with a node's link to itself."""
        return self.work.view_bytes(self.work.size) / self.machine.read

    @property
    def epoch(self) -> float:
        """Every training view once, from the store."""
        return self.work.parts[0][0] * max(1 / self.student_records, self.reading)

    @property
    def pays_after(self) -> float:
        """Epochs of one student, in GPU time; infinite where reading a record takes longer than the teacher."""
        gpu_seconds = self.extraction * self.machine.nodes * self.machine.gpus
        teacher = view_flops(self.work.architecture, self.work.size) / self.machine.flops
        return break_even(gpu_seconds, self.work.parts[0][0], teacher, self.reading)
