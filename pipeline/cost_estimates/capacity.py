"""Estimates time, size and bottleneck of an extraction on hardware that is not available here.

`sward plan` measures this machine. Here the time of each part follows from a count (FLOPs, pixels, values, bytes) and
an assumed rate, and the parts overlap by the same rule (`throughput.py`). `tests/benchmarks/capacity.py` measures the
rates of a machine, predicts small extractions with this model and runs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod

from pipeline.cache.config import enlarged
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS
from pipeline.cost_estimates.estimate import record_bytes
from pipeline.cost_estimates.flops import channels_of, view_flops
from pipeline.cost_estimates.student_speed import assumed
from pipeline.cost_estimates.throughput import StageTimes, break_even
from pipeline.datasets.masks.choose import THREADS
from pipeline.types import Size
from sward.contracts import Channels
from sward.levels import grid_of


@dataclass(frozen=True)
class Workload:
    """A store whose extraction is estimated.

    Attributes:
        name: name of the data set, for tables.
        images: number of training images, with ``views`` views each.
        val: number of validation images, with one view each.
        test: number of test images, with one view each.
        source: (height, width) of an image file in pixels.
        size: (height, width) of a training view in pixels.
        eval_size: (height, width) of a validation or test view in pixels.
        views: views per training image (K).
        codec: kind of the codec.
        architecture: the teacher's Hiera trunk.
        shard_records: records per shard.
        zoom: pixels of the teacher's view for one of the student's, on either axis.
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
    zoom: Fraction = Fraction(1)

    @property
    def parts(self) -> list[tuple[int, Size]]:
        """(number of records, view size in pixels) of train, val and test."""
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
        """Bytes of all shard files, indices included (`format/shards.py`).

        Full-size labels, plan and receipts are not counted.
        """
        indices = self.shards * self.arrays * (16 * self.shard_records + 4)
        return sum(n * self.view_bytes(size) for n, size in self.parts) + indices

    @property
    def files(self) -> int:
        """Number of shard files, receipts and full-size labels; in object storage, each is one object."""
        return self.shards * (self.arrays + 1) + self.val + self.test

    def view_bytes(self, size: Size) -> int:
        return record_bytes(self.codec, self.channels, size, enlarged(size, self.zoom))

    def teacher_flops(self, size: Size) -> int:
        """FLOPs of the teacher for a view that the student sees at ``size``."""
        return view_flops(self.architecture, enlarged(size, self.zoom))

    def values(self, size: Size) -> int:
        """Number of feature values of a view of ``size``, over all levels."""
        own = enlarged(size, self.zoom)
        return sum(c * prod(grid_of(level, own)) for level, c in self.channels.items())


@dataclass(frozen=True)
class Rates:
    """Seconds on one core.

    Attributes:
        decode: per source pixel (image and mask).
        render: per pixel of the view.
        encode: codec -> per feature value (statistics and codec).
        append: per stored byte (checksum and copy).
    """

    decode: float
    render: float
    encode: Mapping[str, float]
    append: float


@dataclass(frozen=True)
class Machine:
    """One or several equal nodes that run an extraction.

    Attributes:
        name: name for tables.
        gpus: GPUs per node, one teacher each (on a CPU: 1).
        flops: sustained FLOP/s per GPU.
        cores: CPU cores per node.
        write: bytes/s that a node writes to the store.
        read: bytes/s that a node reads from the store.
        rates: speed of one core.
        nodes: number of nodes.
        threads: CPU threads of a teacher that runs on the CPU, on the same cores; 0 on GPUs.
        workers: threads per node that render and encode; None: all cores but two per GPU, which are for the teacher's
            and the writing thread.
    """

    name: str
    gpus: int
    flops: float
    cores: int
    write: float
    read: float
    rates: Rates
    nodes: int = 1
    threads: int = 0
    workers: int | None = None

    def pace(self, work: Workload, size: Size) -> StageTimes:
        """Times of the stages for a view of ``size`` on one node."""
        pixels = prod(work.source) * self.rates.decode + prod(size) * self.rates.render
        return StageTimes(
            teacher=work.teacher_flops(size) / self.flops,
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
    """Estimated times (seconds) and rates (bytes/s, records/s) of a workload on a machine."""

    work: Workload
    machine: Machine

    @cached_property
    def paces(self) -> list[tuple[int, StageTimes]]:
        """(number of records, times of their stages) of every subset that has records."""
        return [(n, self.machine.pace(self.work, size)) for n, size in self.work.parts if n]

    @property
    def checking(self) -> float:
        """Seconds to decode every image once before the first view, in one process on one node."""
        images = self.work.images + self.work.val + self.work.test
        return images * prod(self.work.source) * self.machine.rates.decode / min(THREADS, self.machine.cores)

    @property
    def extraction(self) -> float:
        """Seconds to extract all views, after the files were checked."""
        return sum(n * pace.seconds for n, pace in self.paces) / self.machine.nodes

    @property
    def driver(self) -> str:
        """The part that limits the subset which takes the most time: teacher, encoding, rendering or writing."""
        return max(self.paces, key=lambda found: found[0] * found[1].seconds)[1].driver

    @property
    def shares(self) -> dict[str, float]:
        """Part -> seconds that it would take for the whole extraction if it ran alone."""
        names = self.paces[0][1].parts
        return {name: sum(n * pace.parts[name] for n, pace in self.paces) / self.machine.nodes for name in names}

    @property
    def writes(self) -> float:
        """Bytes per second that all nodes together write during the extraction."""
        return self.work.bytes / self.extraction

    @property
    def student_records(self) -> float:
        """Records per second that the student assumed by `sward plan` reads, on one GPU."""
        return assumed(self.work.channels, 0, "cuda").records_per_second

    @property
    def student_reads(self) -> float:
        """Bytes per second that this student reads."""
        return self.student_records * self.work.view_bytes(self.work.size)

    @property
    def reading(self) -> float:
        """Seconds to read a training record when one student uses the whole link of a node."""
        return self.work.view_bytes(self.work.size) / self.machine.read

    @property
    def epoch(self) -> float:
        """Seconds of one epoch: every training view once, from the store."""
        return self.work.parts[0][0] * max(1 / self.student_records, self.reading)

    @property
    def pays_after(self) -> float:
        """Epochs of one student after which the store has cost less GPU time than the teacher in the loop.

        Infinite if reading a record takes longer than the teacher.
        """
        gpu_seconds = self.extraction * self.machine.nodes * self.machine.gpus
        teacher = self.work.teacher_flops(self.work.size) / self.machine.flops
        return break_even(gpu_seconds, self.work.parts[0][0], teacher, self.reading)
