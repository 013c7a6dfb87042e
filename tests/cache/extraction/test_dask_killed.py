"""Extraction on Dask with real worker processes, of which some die and one comes: the same store, bit for bit.

Minutes on a small machine (every worker imports torch): `make e2e` runs it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from distributed import Client
from faults import content
from tiny import tiny_cache, tiny_dataset, tiny_weights

from pipeline.cache.extraction.extract import extract
from pipeline.cache.tools.verify import verify

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
DEADLINE = 240  # seconds
LARGE = {"size": (96, 96), "views": {"count": 4, "seed": 0}, "shard_records": 3}


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """A folder with 38 units' worth of data, and the store that one process makes of it."""
    with chdir(tmp_path_factory.mktemp("right")):
        tiny_dataset(Path("tiny"), train=24, val=6, test=12)
        tiny_weights(Path("teacher.safetensors"))
        torch.set_num_threads(1)
        extract(tiny_cache(Path(), **LARGE))
        Path("store.zarr").rename("right.zarr")
        return Path.cwd()


def same_as(right):
    """Whether the store is the single process's, and whole."""
    made, wanted = content(right / "store.zarr"), content(right / "right.zarr")
    assert {name for name in made.keys() | wanted.keys() if made.get(name) != wanted.get(name)} == set()
    assert verify(right / "store.zarr", sources=False).ok
    return True


def once(records, do):
    """A progress callback that calls ``do`` once, at so many records and before the end."""
    waiting = [do]

    def show(done, total):
        if records <= done < total and waiting:
            waiting.pop()()

    return show


def test_two_of_four_own_workers_killed_mid_run(right):
    killed = []

    def kill_two():
        workers = [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
        assert len(workers) >= 4
        for worker in sorted(workers, key=lambda p: -sum(p.cpu_times()[:2]))[:2]:
            worker.send_signal(signal.SIGKILL)
            killed.append(worker.pid)

    shutil.rmtree(right / "store.zarr", ignore_errors=True)
    with chdir(right):
        made = extract(tiny_cache(Path(), **LARGE, runner={"kind": "dask", "workers": 4}), once(9, kill_two))
    assert len(killed) == 2
    assert made.computed == made.records
    assert same_as(right)


def until(found: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not found():
        assert time.monotonic() < deadline, f"still waiting: {what}"
        time.sleep(0.1)


class Cluster:
    """A scheduler and workers started by their own commands, in another folder; a dead worker stays dead."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack, self.file = folder, stack, folder / "scheduler.json"
        self.start("dask_scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        until(self.file.exists, "a scheduler")
        self.client = stack.enter_context(Client(scheduler_file=str(self.file), set_as_default=False))
        self.address = self.client.scheduler.address

    def start(self, command: str, *options: str) -> subprocess.Popen[bytes]:
        arguments = ["--host", "127.0.0.1", "--scheduler-file", str(self.file), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{command}", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        scratch = ("--local-directory", str(self.folder))
        return self.start("dask_worker", "--no-nanny", "--nthreads", "2", "--no-dashboard", *scratch)

    def busy(self) -> list[int]:
        """Process ids of workers that have units, the busiest first."""
        units = self.client.processing()
        pids = self.pids()
        return [pids[address] for address in sorted(pids, key=lambda a: -len(units.get(a, ()))) if units.get(address)]

    def pids(self) -> dict[str, int]:
        """Of the workers that answer, by address."""
        answers = self.client.run(os.getpid, on_error="return")
        return {address: pid for address, pid in answers.items() if isinstance(pid, int)}

    def made(self, pid: int) -> int:
        """Units that a worker has made."""
        counts = self.client.run(lambda dask_worker: (os.getpid(), dask_worker.state.executed_count))
        return dict(counts.values()).get(pid, 0)


@contextmanager
def running(folder: Path):
    with ExitStack() as stack:
        yield Cluster(folder, stack)


def test_workers_of_a_running_scheduler_die_and_come_mid_run(right, tmp_path):
    shutil.rmtree(right / "store.zarr", ignore_errors=True)
    with running(tmp_path) as cluster, chdir(right):
        workers = {p.pid: p for p in [cluster.worker() for _ in range(4)]}
        until(lambda: len(cluster.client.nthreads()) == 4, "four workers")
        come = []

        def exchange():
            until(lambda: len(cluster.busy()) >= 2, "two workers at work")
            for pid in cluster.busy()[:2]:
                os.kill(pid, signal.SIGKILL)
            come.append(cluster.worker())
            until(lambda: come[0].pid in cluster.pids().values(), "the new worker")

        runner = {"kind": "dask", "address": cluster.address}
        extract(tiny_cache(Path(), **LARGE, runner=runner), once(9, exchange))
        assert sorted(p.poll() or 0 for p in workers.values()) == [-9, -9, 0, 0]
        assert cluster.made(come[0].pid) > 0
    assert same_as(right)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_its_workers_end_with_the_command_and_the_same_command_continues(right, tmp_path, number):
    shutil.rmtree(right / "store.zarr", ignore_errors=True)
    with chdir(right):
        config = tiny_cache(Path(), **LARGE, runner={"kind": "dask", "workers": 2})
        Path("config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "pipeline.cli", "extract", "config.yaml"]
    started = subprocess.Popen(
        command, cwd=right, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    until(lambda: any(right.glob("store.zarr/receipts/*.json")), "the first shard")
    family = psutil.Process(started.pid).children(recursive=True)
    if number == signal.SIGKILL:
        started.kill()
    else:
        os.killpg(started.pid, number)  # as a terminal does
    said = started.communicate(timeout=DEADLINE)[1]
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), "the workers' end")
    if number == signal.SIGINT:
        assert started.returncode == 130
        assert "Traceback" not in said
        assert "the same command continues" in said
        assert list(tmp_path.iterdir()) == []
    extract_in(right)
    assert same_as(right)


def extract_in(folder):
    """The rest, by this process alone."""
    torch.set_num_threads(1)
    with chdir(folder):
        extract(tiny_cache(Path(), **LARGE))
