"""Computes one unit on a Dask worker; the teacher is loaded once per process.

A worker computes two units at a time: while one is in the teacher, the other is rendered, encoded or written. Before it
writes anything, the worker checks that it sees the same store, that its weights are those of the plan and, sample by
sample, that its images and masks are.
"""

import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import ExtractionError
from pipeline.cache.extraction.on_dask.claims import CallFolder
from pipeline.cache.extraction.teacher_writer import Rendered, TeacherWriter, device_name
from pipeline.cache.manifest.records import Record, Unit
from pipeline.datasets import Sample
from pipeline.devices import resolve_device
from pipeline.memory import keep_freed_memory
from pipeline.weights import WeightsError, load_teacher
from sward.teachers import TeacherConfig


@dataclass(frozen=True)
class Job:
    """Data that all units of one call of `extract` share.

    Attributes:
        store: absolute path of the store.
        call: random name of the call and of its folder under tmp/.
        config: configuration of the store; names the teacher by an absolute path and pins its digest.
        layout: the store's first plan without its units, of which there may be millions.
        threads: CPU threads of the teacher.
    """

    store: Path
    call: str
    config: CacheConfig
    layout: dict[str, Any]
    threads: int


@dataclass(frozen=True)
class UnitTiming:
    """Cost of one unit.

    Attributes:
        seconds: wall-clock seconds since this worker's last unit ended, or since this unit began if that was later.
        device: display name of the device.
    """

    seconds: float
    device: str


class SharedTeacher:
    """The teacher of a worker process, shared by its threads; runs one forward pass at a time."""

    def __init__(self, teacher: Callable[[torch.Tensor], Any], device: torch.device) -> None:
        self.teacher, self.device = teacher, device
        self.lock, self.clock, self.last = threading.Lock(), threading.Lock(), 0.0

    def __call__(self, x: torch.Tensor) -> Any:
        with self.lock:
            return self.teacher(x)

    def seconds_since(self, began: float) -> float:
        """Seconds since ``began`` or the last call of this method, whichever is later.

        So the time of units that overlap is not counted twice.
        """
        with self.clock:
            now, last = time.monotonic(), self.last
            self.last = now
        return now - max(began, last)


class WorkerUnitWriter(TeacherWriter):
    """Writer for one execution of one unit, with a folder and samples of its own and the process's teacher."""

    def __init__(self, job: Job, unit: Unit, samples: list[Sample], loaded: SharedTeacher) -> None:
        super().__init__(job.store, job.config, [job.layout], samples, loaded, loaded.device)
        self.call = CallFolder(job.store, job.call)
        self.scratch = self.call.attempt(unit)
        self.checked: set[str] = set()

    def render(self, record: Record) -> Rendered:
        if record.digest not in self.checked:
            require_planned(self.samples[record.subset, record.digest])
            self.checked.add(record.digest)
        return super().render(record)

    def claim_or_confirm(self, unit: Unit, made: dict[str, Any]) -> bool:
        return self.call.claim_or_confirm(unit, made)

    def note(self, unit: Unit, seconds: float) -> None:
        """No-op: the process that started the extraction records the time."""


def make_unit(job: Job, unit: Unit, samples: list[Sample]) -> UnitTiming:
    """Compute a unit and commit it; do nothing if it has its receipt.

    Raises:
        ExtractionError: a feature is NaN, infinite or overflows; the store is not visible here; an image or mask here
            differs from the planned one; or another execution has made different bytes.
        WeightsError: the weights here differ from the plan's, or cannot be read.
        OSError, DatasetError: as in a local extraction.
    """
    began = time.monotonic()
    CallFolder(job.store, job.call).require_visible()
    torch.set_num_threads(job.threads)  # for the whole process; the teacher's thread, started later, inherits it
    loaded = teacher_of(job.config)
    if unit.receipt(job.store) is None:
        attempt = WorkerUnitWriter(job, unit, samples, loaded)
        try:
            attempt.run([unit], len(unit.records), lambda done, total: None)
        finally:
            shutil.rmtree(attempt.scratch, ignore_errors=True)
    return UnitTiming(loaded.seconds_since(began), device_name(loaded.device))


_one_loads = threading.Lock()


def teacher_of(config: CacheConfig) -> SharedTeacher:
    """The teacher of this process; loaded on the first call."""
    with _one_loads:
        return _loaded(config.teacher, config.device)


@lru_cache(maxsize=1)
def _loaded(config: TeacherConfig, device: str) -> SharedTeacher:
    keep_freed_memory()
    try:
        where = resolve_device(device)
        return SharedTeacher(load_teacher(config).to(where), where)
    except WeightsError as error:
        raise WeightsError(f"the worker on {socket.gethostname()} cannot take part: {error}") from error


def forget() -> None:
    """Free the teacher's memory, because the workers of a running cluster outlive the extraction."""
    with _one_loads:
        _loaded.cache_clear()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def require_planned(sample: Sample) -> None:
    """Raise ExtractionError if the sample's files hold other bytes than planned; unreadable files pass."""
    try:
        found = sample.digest_now()
    except (OSError, ValueError):
        return  # unreadable files raise DatasetError later, in `render`, as in a local extraction
    if found != sample.digest:
        raise ExtractionError(
            f"{sample.subset}/{sample.id} is not the planned one on {socket.gethostname()}: {sample.image_path} and "
            f"its mask have digest {found[:12]}, planned {sample.digest[:12]}; nothing of its shard was stored. Give "
            "all machines the same files, then run the same command again"
        )
