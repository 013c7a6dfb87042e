"""What a worker of a Dask cluster does: one unit of somebody's plan, with a teacher that is loaded once a process.

Two units at a time: while one is in the teacher, the other is rendered, encoded or written. Before anything
is written the worker makes sure that it sees the same store, that its weights are the plan's, and, sample by sample,
that its images are.
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

import numpy as np
import torch

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import ExtractionError
from pipeline.cache.extraction.on_dask.claims import CallFolder
from pipeline.cache.extraction.teacher_writer import TeacherWriter, device_name
from pipeline.cache.manifest.records import Record, Unit
from pipeline.datasets import Sample
from pipeline.devices import resolve_device
from pipeline.memory import keep_freed_memory
from pipeline.weights import WeightsError, load_teacher
from sward.teachers import TeacherConfig


@dataclass(frozen=True)
class Job:
    """What all units of a call share. ``config`` names the teacher by an absolute path and pins its digest."""

    store: Path
    call: str
    config: CacheConfig
    layout: dict[str, Any]  # the store's first plan without its units, which may be millions
    threads: int


@dataclass(frozen=True)
class UnitTiming:
    """What a unit took: seconds since this worker's last one, and on which device."""

    seconds: float
    device: str


class SharedTeacher:
    """A process's teacher: one forward at a time, whoever asks."""

    def __init__(self, teacher: Callable[[torch.Tensor], Any], device: torch.device) -> None:
        self.teacher, self.device = teacher, device
        self.lock, self.clock, self.last = threading.Lock(), threading.Lock(), 0.0

    def __call__(self, x: torch.Tensor) -> Any:
        with self.lock:
            return self.teacher(x)

    def seconds_since(self, began: float) -> float:
        """Since ``began`` or the last call of this, whichever was later: units that overlap are not counted twice."""
        with self.clock:
            now, last = time.monotonic(), self.last
            self.last = now
        return now - max(began, last)


class WorkerUnitWriter(TeacherWriter):
    """One execution of one unit: its own folder, its own samples, the process's teacher."""

    def __init__(self, job: Job, unit: Unit, samples: list[Sample], loaded: SharedTeacher) -> None:
        super().__init__(job.store, job.config, [job.layout], samples, loaded, loaded.device)
        self.room = CallFolder(job.store, job.call)
        self.scratch = self.room.attempt(unit)
        self.checked: set[str] = set()

    def render(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        if record.digest not in self.checked:
            require_planned(self.samples[record.subset, record.digest])
            self.checked.add(record.digest)
        return super().render(record)

    def claim_or_confirm(self, unit: Unit, made: dict[str, Any]) -> bool:
        return self.room.claim_or_confirm(unit, made)

    def note(self, unit: Unit, seconds: float) -> None:
        """Nothing: who started the extraction keeps the books."""


def make_unit(job: Job, unit: Unit, samples: list[Sample]) -> UnitTiming:
    """Compute a unit and commit it; does nothing where it has its receipt.

    Raises:
        ExtractionError: NaN, overflow; another store here; another image; or other bytes than an earlier execution's.
        WeightsError: other weights here.
        OSError, DatasetError: as in a local extraction.
    """
    began = time.monotonic()
    CallFolder(job.store, job.call).require_visible()
    torch.set_num_threads(job.threads)  # of this process: the teacher's thread, made after it, takes it over
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
    """This process's teacher; loaded at the first call."""
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
    """Give the teacher's memory back; a cluster's workers outlive the extraction."""
    with _one_loads:
        _loaded.cache_clear()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def require_planned(sample: Sample) -> None:
    """Raise ExtractionError unless the sample's files hold the bytes that were planned, if they can be read."""
    try:
        found = sample.digest_now()
    except (OSError, ValueError):
        return  # unreadable files raise DatasetError later, in `render`, as in a local extraction
    if found != sample.digest:
        raise ExtractionError(
            f"{sample.subset}/{sample.id} is not the planned one on {socket.gethostname()}: {sample.image_path} and "
            f"its mask have digest {found[:12]}, planned {sample.digest[:12]}; nothing of its shard was stored"
        )
