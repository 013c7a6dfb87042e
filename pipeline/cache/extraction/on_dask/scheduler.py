"""An extraction on Dask: this process holds the store's lock and the plan, workers compute units (`worker.py`).

A unit is one task. A worker that dies loses its units to others; one that comes gets its share. Which worker made a
shard, how often it was begun, and in which order they end is nothing that the store shows.
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

AHEAD = 2  # units with the workers for each that can be computed at once: the next one is there already


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
        """As ``UnitWriter.run``.

        Raises:
            ClusterLost: no scheduler, or no worker for as long as the configuration's patience.
            KeyboardInterrupt: after SIGTERM or Ctrl-C.
            Whatever `worker.make_unit` raises, in the words of a local extraction.
        """
        done = total - sum(len(u.records) for u in units)
        progress(done, total)
        if not units:
            return
        room = CallFolder(self.path, self.job.call)
        room.open()
        try:
            with stop_requests() as asked, opened(self.config) as client:
                for unit, made in self.completed_units(client, deque(units), asked):
                    note(self.path, unit.name, len(unit.records), made.seconds, made.device)
                    done += len(unit.records)
                    progress(done, total)
        finally:
            shutil.rmtree(room.folder, ignore_errors=True)  # a worker that is cut off can claim nothing from here on
            with suppress(FileNotFoundError):  # one that is just committing takes its own away
                remove_partials(self.path)  # what killed workers were writing

    def completed_units(
        self, client: Client, waiting: deque[Unit], asked: Callable[[], bool]
    ) -> Iterator[tuple[Unit, UnitTiming]]:
        """Every unit when it is committed; only a few are with the workers at a time."""
        going: dict[Future, Unit] = {}
        crew = WorkerSlots(client, self.config)
        try:
            while waiting or going:
                if asked():
                    raise KeyboardInterrupt
                places = crew.capacity()
                while waiting and len(going) < AHEAD * places:
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
            key=f"sward-{self.job.call}-{unit.name}",  # of this call: no result of an earlier one stands in for it
            pure=False,
            resources=unit_resources(self.config),
        )


def pinned(config: CacheConfig, digest: str) -> CacheConfig:
    """The configuration as every worker understands it, wherever it was started."""
    weights = config.teacher.weights
    there = weights if weights.startswith("hub:") else str(read_path(weights).absolute())
    changes: dict[str, Any] = {"teacher": config.teacher.model_copy(update={"weights": there, "digest": digest})}
    if config.workers is None and not on_gpu(config):
        changes["workers"] = 1  # a worker has a core, where it has no GPU
    return config.model_copy(update=changes)


def finished(client: Client, going: dict[Future, Unit]) -> list[Future]:
    """Those that have ended; waits for one, but not for long."""
    if not going:
        time.sleep(TICK)
        return []
    try:
        with client.as_current():
            return list(wait(list(going), timeout=TICK, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def outcome(future: Future, unit: Unit) -> UnitTiming:
    """What the worker returned; what it raised is raised here."""
    if future.status != "error":
        return future.result()
    error = future.exception()
    if isinstance(error, KilledWorker):
        raise ExtractionError(
            f"{unit.name}: too many workers died while making it (killed for their memory? a smaller batch_size needs "
            f"less); {KEPT}"
        ) from error
    if isinstance(error, ImportError):
        raise ExtractionError(
            f"a worker lacks this program or what it needs ({error}); install it in the workers' environment, "
            "in the version used here"
        ) from error
    raise error
