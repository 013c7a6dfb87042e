"""Starts a local Dask cluster for one extraction, or connects to a running one.

A worker is a process with two threads, so that one unit is rendered, encoded or written while another is in the
teacher. On a machine with GPUs each worker has one and announces it as the resource ``GPU``; a unit takes half of it.
"""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
import torch
from distributed import Client, Nanny, Scheduler, Security, SpecCluster

from pipeline.cache.config import CacheConfig, DaskRunner
from pipeline.cache.errors import KEPT, ClusterLost
from pipeline.cache.extraction.on_dask.worker import forget
from pipeline.devices import cores, resolve_device

TICK = 1.0  # seconds between checks of the workers
IN_FLIGHT = 2  # units that a worker computes at a time
# Ctrl-C in a terminal reaches the workers too; they ignore it, and the process that started them stops them.
IGNORE_SIGINT = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
SETTINGS = {
    "distributed.scheduler.allowed-failures": 10,  # workers that may die on one unit before it fails
    "distributed.deploy.lost-worker-timeout": "5 minutes",  # a killed worker is restarted, and imports take time
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.system-monitor.disk": False,
}


def scheduler_lost(runner: DaskRunner) -> ClusterLost:
    """The error for a scheduler that no longer answers."""
    return ClusterLost(f"the Dask scheduler of {runner.address or 'this machine'} is gone; {KEPT}")


def unit_resources(config: CacheConfig) -> dict[str, float]:
    """The Dask resources that one unit occupies on a worker."""
    return {"GPU": 1 / IN_FLIGHT} if on_gpu(config) else {}


def on_gpu(config: CacheConfig) -> bool:
    """Whether the workers run the teacher on GPUs; `auto` is decided by this machine, where the workers then run."""
    device = resolve_device("auto").type if config.device == "auto" else config.device
    return device == "cuda"


@contextmanager
def opened(config: CacheConfig) -> Iterator[Client]:
    """Yields a client of the configured cluster.

    Raises:
        ClusterLost: no scheduler answers at the configured address.
        ValueError: more workers are configured than this machine has GPUs.
    """
    assert config.runner.kind == "dask"
    with dask.config.set(SETTINGS):
        if config.runner.address is None:
            with own_cluster(config) as cluster, Client(cluster, set_as_default=False) as client:
                yield client
            return
        with connected(config.runner.address, config.runner.patience) as client:
            yield client
            with suppress(OSError):
                client.run(forget, on_error="ignore")  # these workers keep running; free the teacher's memory


def connected(address: str, patience: float) -> Client:
    try:
        return Client(address, timeout=patience, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterLost(
            f"no Dask scheduler answers at {address} ({error}); start one (`dask scheduler`), or correct runner.address"
        ) from error


@contextmanager
def own_cluster(config: CacheConfig) -> Iterator[SpecCluster]:
    """Yields a cluster on this machine that only this user can reach, and only from here (TLS, keys in memory)."""
    security = Security.temporary()
    common = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard_address": "127.0.0.1:0"}
    with (
        tempfile.TemporaryDirectory(prefix="sward-dask-", ignore_cleanup_errors=True) as scratch,
        dask.config.set({"temporary-directory": scratch}),
    ):
        each = common | {
            "nthreads": IN_FLIGHT,
            "memory_limit": None,  # a unit's memory is bounded, so only the system's limit matters
            "preload": [IGNORE_SIGINT],
            "silence_logs": logging.CRITICAL,  # this process reports a worker's error, once
        }
        specs = [{"cls": Nanny, "options": each | own} for own in worker_options(config)]
        scheduler = {"cls": Scheduler, "options": common | {"port": 0, "dashboard": False}}
        with SpecCluster(
            workers=dict(enumerate(specs)), scheduler=scheduler, security=security, silence_logs=logging.CRITICAL
        ) as cluster:
            yield cluster


def worker_options(config: CacheConfig) -> list[dict[str, Any]]:
    """The options of each local worker that differ between workers: its GPU (none on a CPU).

    Raises:
        ValueError: more workers are configured than this machine has GPUs.
    """
    assert config.runner.kind == "dask"
    wanted = config.runner.workers
    if not on_gpu(config):
        return [{}] * (wanted or max(1, cores() // config.runner.threads))
    gpus = visible_gpus()
    if wanted and wanted > len(gpus):
        raise ValueError(
            f"runner.workers: {wanted}, but there are {len(gpus)} GPUs here, and each worker needs one; "
            f"set it to at most {len(gpus)}, or leave it out"
        )
    return [{"env": {"CUDA_VISIBLE_DEVICES": gpu}, "resources": {"GPU": 1}} for gpu in gpus[:wanted]]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as for CUDA_VISIBLE_DEVICES."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in stated.split(",") if name.strip()]
    return (names or [str(i) for i in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


class WorkerSlots:
    """Counts the units that the connected workers can compute at once."""

    def __init__(self, client: Client, config: CacheConfig) -> None:
        assert config.runner.kind == "dask"
        self.client, self.runner, self.gpu = client, config.runner, on_gpu(config)
        self.count, self.looked = 0, -TICK
        self.empty_since: float | None = None  # monotonic time since which no check has found a worker

    def capacity(self) -> int:
        """Number of units that all connected workers can compute at once; refreshed every ``TICK`` seconds at most.

        Raises:
            ClusterLost: there was no worker for ``runner.patience`` seconds, or the scheduler is gone.
        """
        now = time.monotonic()
        if now - self.looked >= TICK:
            self.count, self.looked = sum(map(self.slots_of, self.workers())), now
            self.empty_since = None if self.count else self.empty_since or now
        if self.empty_since and now - self.empty_since > self.runner.patience:
            raise ClusterLost(self.no_worker())
        return self.count

    def workers(self) -> list[dict[str, Any]]:
        """The scheduler's description of every connected worker."""
        # Not client.scheduler_info(): the client refreshes the same field in the background without asking for workers,
        # so the call may return a list that lacks them.
        scheduler = self.client.scheduler
        if scheduler is None:
            raise scheduler_lost(self.runner)
        try:
            return list(self.client.sync(scheduler.identity, n_workers=-1)["workers"].values())
        except OSError as error:
            raise scheduler_lost(self.runner) from error

    def slots_of(self, worker: dict[str, Any]) -> int:
        """Units this worker can compute at once."""
        free = int(worker["resources"].get("GPU", 0) * IN_FLIGHT) if self.gpu else worker["nthreads"]
        return min(worker["nthreads"], free)

    def no_worker(self) -> str:
        """The message of the error for a cluster without workers."""
        what = "no Dask worker with a GPU" if self.gpu else "no Dask worker"
        start = f"dask worker {self.runner.address} --nthreads {IN_FLIGHT}" + " --resources GPU=1" * self.gpu
        remedy = f"; start some: {start}" if self.runner.address else ""
        return f"{what} for {self.runner.patience:.0f} s{remedy}; {KEPT}"
