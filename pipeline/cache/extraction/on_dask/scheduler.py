"""Extraction on Dask: this process holds lock and plan, workers compute units (`worker.py`).

A unit is one Dask task. If a worker dies, other workers compute its units; a new worker gets units at once. The store's
content does not depend on which worker computed a shard, on how often it was started, or on the order of completion.
"""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client, Future, KilledWorker, wait
from distributed.comm import CommClosedError

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import ExtractionError
from pipeline.cache.extraction.on_dask.claims import CallFolder
from pipeline.cache.extraction.on_dask.cluster import (
    KEPT,
    TICK,
    WorkerSlots,
    on_gpu,
    opened,
    scheduler_lost,
    unit_resources,
)
from pipeline.cache.extraction.on_dask.worker import Job, UnitTiming, make_unit
from pipeline.cache.extraction.teacher_writer import Samples
from pipeline.cache.extraction.timing import note
from pipeline.cache.manifest.records import Unit
from pipeline.datasets import Dataset
from pipeline.files import remove_partials
from pipeline.paths import read_path
from pipeline.stopping import stop_requests
from pipeline.types import Progress

AHEAD = 2  # units submitted per unit that can be computed at once, so that a worker's next unit is already there


class DaskExtraction:
    """Computes units on the workers of a Dask cluster."""

    def __init__(
        self, path: Path, config: CacheConfig, plans: list[dict[str, Any]], dataset: Dataset, digest: str
    ) -> None:
        assert config.runner.kind == "dask"
        self.path, self.config, self.runner = path, config, config.runner
        self.samples: Samples = {(s.subset, s.digest): s.absolute() for s in dataset.samples}
        layout = {name: value for name, value in plans[0].items() if name != "units"}
        self.job = Job(path.absolute(), uuid4().hex, pinned(config, digest), layout, self.runner.threads)

    def run(self, units: list[Unit], total: int, progress: Progress) -> None:
        """Compute and commit ``units`` on the workers, in any order; otherwise as ``UnitWriter.run``.

        Raises:
            ClusterLost: there is no scheduler, or there was no worker for ``runner.patience`` seconds.
            KeyboardInterrupt: after SIGTERM or Ctrl-C.
            Exception: any error of `worker.make_unit`, with the message of a local extraction.
        """
        done = total - sum(len(u.records) for u in units)
        progress(done, total)
        if not units:
            return
        call = CallFolder(self.path, self.job.call)
        call.open()
        try:
            with stop_requests() as asked, opened(self.config) as client:
                for unit, made in self.completed_units(client, deque(units), asked):
                    note(self.path, unit.name, len(unit.records), made.seconds, made.device)
                    done += len(unit.records)
                    progress(done, total)
        finally:
            shutil.rmtree(call.folder, ignore_errors=True)  # from here on a disconnected worker can claim no unit
            with suppress(FileNotFoundError):  # a worker that is committing removes its own partial file
                remove_partials(self.path)  # files that killed workers were writing

    def completed_units(
        self, client: Client, waiting: deque[Unit], asked: Callable[[], bool]
    ) -> Iterator[tuple[Unit, UnitTiming]]:
        """Yields every unit, with its timing, once it is committed; only a few units are submitted at a time."""
        going: dict[Future, Unit] = {}
        slots = WorkerSlots(client, self.config)
        try:
            while waiting or going:
                if asked():
                    raise KeyboardInterrupt
                capacity = slots.capacity()
                while waiting and len(going) < AHEAD * capacity:
                    unit = waiting.popleft()
                    going[self.submit(client, unit)] = unit
                for future in finished(client, going):
                    unit = going.pop(future)
                    yield unit, outcome(future, unit)
        except (CommClosedError, CancelledError) as error:
            raise scheduler_lost(self.runner) from error
        finally:
            client.cancel(list(going), force=True)

    def submit(self, client: Client, unit: Unit) -> Future:
        samples = list({r.digest: self.samples[r.subset, r.digest] for r in unit.records}.values())
        return client.submit(
            make_unit,
            self.job,
            unit,
            samples,
            key=f"sward-{self.job.call}-{unit.name}",  # names the call, so that Dask reuses no result of an earlier one
            pure=False,
            resources=unit_resources(self.config),
        )


def pinned(config: CacheConfig, digest: str) -> CacheConfig:
    """The configuration for the workers: weights by absolute path and digest; on CPUs one rendering thread each."""
    weights = config.teacher.weights
    there = weights if weights.startswith("hub:") else str(read_path(weights).absolute())
    changes: dict[str, Any] = {"teacher": config.teacher.model_copy(update={"weights": there, "digest": digest})}
    if config.workers is None and not on_gpu(config):
        changes["workers"] = 1  # threads that render and encode; a worker without a GPU has one core
    return config.model_copy(update=changes)


def finished(client: Client, going: dict[Future, Unit]) -> list[Future]:
    """The futures that have ended; waits for the first of them, ``TICK`` seconds at most."""
    if not going:
        time.sleep(TICK)
        return []
    try:
        with client.as_current():
            return list(wait(list(going), timeout=TICK, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def outcome(future: Future, unit: Unit) -> UnitTiming:
    """The worker's result.

    Raises:
        ExtractionError: too many workers died on the unit, or a worker cannot import this program.
        Exception: any other error that the worker raised.
    """
    if future.status != "error":
        return future.result()
    error = future.exception()
    if isinstance(error, KilledWorker):
        raise ExtractionError(
            f"{unit.name}: too many workers died while computing it (often: out of memory; a smaller batch_size needs "
            f"less); {KEPT}"
        ) from error
    if isinstance(error, ImportError):
        raise ExtractionError(
            f"a worker cannot import this program or one of its dependencies ({error}); install the version used here "
            "in the workers' environment"
        ) from error
    raise error
