"""The Dask cluster of an extraction: one made on this machine for the call, or a running one by its address.

A worker is a process with two threads, so that one unit is decoded, encoded or written while another is in the teacher.
With GPUs, each worker has one and announces it as the resource ``GPU``; a unit takes half of it.
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
from pipeline.cache.errors import ClusterLost
from pipeline.cache.extraction.on_dask.worker import forget
from pipeline.devices import cores, resolve_device

TICK = 1.0  # seconds between looks at who is there
IN_FLIGHT = 2  # units of a worker at a time
KEPT = "what is finished is kept: the same command continues"
# Ctrl-C in a terminal reaches the workers as well; only the process that started them answers it.
IGNORE_SIGINT = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
SETTINGS = {
    "distributed.scheduler.allowed-failures": 10,  # workers that die on one unit before it is given up
    "distributed.deploy.lost-worker-timeout": "5 minutes",  # a killed worker is back after its imports
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.system-monitor.disk": False,
}


def scheduler_lost(runner: DaskRunner) -> ClusterLost:
    """The scheduler does not answer any more."""
    return ClusterLost(f"the Dask scheduler of {runner.address or 'this machine'} is gone; {KEPT}")


def unit_resources(config: CacheConfig) -> dict[str, float]:
    """The resources that a unit takes of a worker."""
    return {"GPU": 1 / IN_FLIGHT} if on_gpu(config) else {}


def on_gpu(config: CacheConfig) -> bool:
    """Whether the workers' teachers run on GPUs; `auto` is asked of this machine, where the workers then are."""
    device = resolve_device("auto").type if config.device == "auto" else config.device
    return device == "cuda"


@contextmanager
def opened(config: CacheConfig) -> Iterator[Client]:
    """A client of the configuration's cluster.

    Raises:
        ClusterLost: no scheduler answers at the address.
        ValueError: more workers than GPUs.
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
                client.run(forget, on_error="ignore")  # they stay, the teacher's memory need not


def connected(address: str, patience: float) -> Client:
    try:
        return Client(address, timeout=patience, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterLost(
            f"no Dask scheduler answers at {address} ({error}); start one (dask scheduler) or correct runner.address"
        ) from error


@contextmanager
def own_cluster(config: CacheConfig) -> Iterator[SpecCluster]:
    """Scheduler and workers on this machine, reachable from it alone and by this user alone (TLS, keys in memory)."""
    security = Security.temporary()
    common = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard_address": "127.0.0.1:0"}
    with (
        tempfile.TemporaryDirectory(prefix="sward-dask-", ignore_cleanup_errors=True) as scratch,
        dask.config.set({"temporary-directory": scratch}),
    ):
        each = common | {
            "nthreads": IN_FLIGHT,
            "memory_limit": None,  # a unit's memory is bounded, and the system's limit is the one that counts
            "preload": [IGNORE_SIGINT],
            "silence_logs": logging.CRITICAL,  # what a worker raises is told once, by this process
        }
        specs = [{"cls": Nanny, "options": each | own} for own in worker_options(config)]
        scheduler = {"cls": Scheduler, "options": common | {"port": 0, "dashboard": False}}
        with SpecCluster(
            workers=dict(enumerate(specs)), scheduler=scheduler, security=security, silence_logs=logging.CRITICAL
        ) as cluster:
            yield cluster


def worker_options(config: CacheConfig) -> list[dict[str, Any]]:
    """What distinguishes each worker of this machine from the others: its GPU.

    Raises:
        ValueError: more workers than GPUs.
    """
    assert config.runner.kind == "dask"
    wanted = config.runner.workers
    if not on_gpu(config):
        return [{}] * (wanted or max(1, cores() // config.runner.threads))
    gpus = visible_gpus()
    if wanted and wanted > len(gpus):
        raise ValueError(f"runner.workers: {wanted}, but there are {len(gpus)} GPUs here, and each worker needs one")
    return [{"env": {"CUDA_VISIBLE_DEVICES": gpu}, "resources": {"GPU": 1}} for gpu in gpus[:wanted]]


def visible_gpus() -> list[str]:
    """Names of this process's GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in stated.split(",") if name.strip()]
    return (names or [str(i) for i in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


class WorkerSlots:
    """How many units the workers there are now can compute at once."""

    def __init__(self, client: Client, config: CacheConfig) -> None:
        assert config.runner.kind == "dask"
        self.client, self.runner, self.gpu = client, config.runner, on_gpu(config)
        self.count, self.looked = 0, -TICK
        self.alone: float | None = None  # when it was first seen that nobody is there

    def capacity(self) -> int:
        """Looks at most once a tick.

        Raises:
            ClusterLost: nobody there for as long as the configuration's patience; or the scheduler is gone.
        """
        now = time.monotonic()
        if now - self.looked >= TICK:
            self.count, self.looked = sum(map(self.of, self.workers())), now
            self.alone = None if self.count else self.alone or now
        if self.alone and now - self.alone > self.runner.patience:
            raise ClusterLost(self.nobody())
        return self.count

    def workers(self) -> list[dict[str, Any]]:
        """All that the scheduler knows."""
        # client.scheduler_info() may return what the client's own refresh, which asks for no workers, has just put in
        # the place of the answer
        scheduler = self.client.scheduler
        if scheduler is None:
            raise scheduler_lost(self.runner)
        try:
            return list(self.client.sync(scheduler.identity, n_workers=-1)["workers"].values())
        except OSError as error:
            raise scheduler_lost(self.runner) from error

    def of(self, worker: dict[str, Any]) -> int:
        """Of one worker."""
        free = int(worker["resources"].get("GPU", 0) * IN_FLIGHT) if self.gpu else worker["nthreads"]
        return min(worker["nthreads"], free)

    def nobody(self) -> str:
        what = "no Dask worker with a GPU" if self.gpu else "no Dask worker"
        start = f"dask worker {self.runner.address} --nthreads {IN_FLIGHT}" + " --resources GPU=1" * self.gpu
        remedy = f"; start some: {start}" if self.runner.address else ""
        return f"{what} for {self.runner.patience:.0f} s{remedy}; {KEPT}"
