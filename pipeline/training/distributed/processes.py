"""Starts the processes that train one run together on this machine, watches them, and stops them together.

There is one process per GPU, or several on the CPU. `torchrun` may start them instead; on several machines it has to.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from pipeline.devices import limit_threads, resolve_device
from pipeline.stopping import end_with_parent, stop_requests
from pipeline.training.config import TrainConfig
from pipeline.types import TrainProgress

GRACE = 20.0  # seconds the other processes have to end by themselves after one has failed
TIMEOUT = timedelta(minutes=10)  # of one collective operation
Train = Callable[[TrainConfig, TrainProgress], Any]


class ProcessLost(ChildProcessError):
    """One of the processes died; the others were stopped."""


def inside() -> bool:
    """Whether this process was started, here or by torchrun, to train together with others."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """Rank of this process among all; rank 0 writes the run's folder."""
    return int(os.environ.get("RANK", os.environ["LOCAL_RANK"])) if inside() else 0


def require(config: TrainConfig) -> None:
    """Checks that the configured processes and devices exist.

    Raises:
        ValueError: they do not; says what was found and what to do.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) if inside() else None
    if started is not None and started != config.processes:
        raise ValueError(
            f"{started} processes were started, but the configuration has devices × nodes = {config.devices} × "
            f"{config.nodes}: start {config.processes}, or set devices and nodes"
        )
    if started is None and config.nodes > 1:
        raise ValueError(
            f"nodes: {config.nodes} needs torchrun; start on each machine: torchrun --nnodes {config.nodes} "
            f"--nproc-per-node {config.devices} --rdzv-backend c10d --rdzv-endpoint HOST:29400 "
            "-m pipeline.cli train CONFIG"
        )
    if config.processes > 1 and config.device.startswith("cuda:"):
        raise ValueError(f"device: expected auto, cpu or cuda with several processes, found {config.device}")
    if resolve_device(config.device).type == "cuda" and (count := torch.cuda.device_count()) < config.devices:
        raise ValueError(
            f"devices: expected at most {count} (GPUs of this machine), found {config.devices}; set devices: {count}"
        )


def launch(train: Train, config: TrainConfig, progress: TrainProgress) -> None:
    """Runs ``train(config, progress)`` in ``config.devices`` processes of this machine; returns when all have ended.

    Args:
        train: module-level function (processes are spawned, so it is pickled).
        config: the run.
        progress: called here with the reports of the first process.

    Raises:
        ProcessLost: a process died; the others were stopped.
        KeyboardInterrupt: a stop was requested.
        Exception: the first error that ``train`` raised in any process.
    """
    rendezvous = loopback_store()
    context = multiprocessing.get_context("spawn")
    limit_threads()
    threads, own = max(1, torch.get_num_threads() // config.devices), os.getpid()
    pipes = [context.Pipe(duplex=False) for _ in range(config.devices)]
    workers = [
        context.Process(target=_work, args=(number, train, config, rendezvous.port, threads, own, sender), daemon=True)
        for number, (_, sender) in enumerate(pipes)
    ]
    with stop_requests() as stopping:
        try:
            for worker in workers:
                worker.start()
            _Watch(workers, [receiver for receiver, _ in pipes], progress, stopping).run()
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()


def loopback_store() -> dist.TCPStore:
    """Rendezvous of processes of this machine; torch's own socket would listen on all interfaces."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    return dist.TCPStore(  # takes the socket over
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )


class _Watch:
    """Waits for all workers, passes stop requests on, kills the rest ``GRACE`` seconds after one has failed.

    Attributes:
        errors: errors received from workers, in order.
        stop_sent: a stop request has been passed on to the workers.
        killed_rest: the workers left after a failure have been killed.
        failed_at: time of the first failure (`time.monotonic`), or None.
        lost: (rank, signal) of workers that a signal had ended before the rest was killed.
    """

    def __init__(self, workers: list[Any], receivers: list[Any], progress: TrainProgress, stopping: Callable[[], bool]):
        self.workers, self.receivers, self.progress, self.stopping = workers, receivers, progress, stopping
        self.errors: list[BaseException] = []
        self.stop_sent = self.killed_rest = False
        self.failed_at: float | None = None

    def run(self) -> None:
        """Returns when all workers have ended; raises the error of the run, see ``conclude``."""
        while alive := [worker for worker in self.workers if worker.is_alive()]:
            wait([*self.receivers, *(worker.sentinel for worker in alive)], timeout=0.2)
            self.receive()
            if self.stopping() and not self.stop_sent:
                self.stop_sent = True
                for worker in alive:
                    worker.terminate()
            self.end_after_a_failure()
        self.receive()
        self.conclude()

    def receive(self) -> None:
        """Reads the workers' messages: errors and progress reports."""
        for receiver in self.receivers:
            while receiver.poll():
                message = receiver.recv()
                if isinstance(message, BaseException):
                    self.errors.append(message)
                else:
                    self.progress(*message)

    def end_after_a_failure(self) -> None:
        """Kills the workers that are left ``GRACE`` seconds after the first failure."""
        if self.failed_at is None and (self.errors or any(worker.exitcode for worker in self.workers)):
            self.failed_at = time.monotonic()
        if self.failed_at is None or self.killed_rest or time.monotonic() < self.failed_at + GRACE:
            return
        self.killed_rest = True
        self.lost = self.killed()
        for worker in self.workers:
            worker.kill()

    def killed(self) -> list[tuple[int, int]]:
        """Returns (rank, signal number) of the workers that a signal ended."""
        return [(i, -w.exitcode) for i, w in enumerate(self.workers) if w.exitcode is not None and w.exitcode < 0]

    def conclude(self) -> None:
        """Raises KeyboardInterrupt after a stop request, else ProcessLost, else the first error; else returns."""
        lost = self.lost if self.killed_rest else self.killed()
        stops = [error for error in self.errors if isinstance(error, KeyboardInterrupt)]
        if stops or (self.stop_sent and lost):
            raise stops[0] if stops else KeyboardInterrupt
        if lost:
            number, by = lost[0]
            cause = " (often: out of memory)" if by == signal.SIGKILL else ""
            raise ProcessLost(
                f"process {number} of {len(self.workers)} was ended by {signal.Signals(by).name}{cause}, so the others "
                "were stopped too; run the same command again to resume from the last checkpoint"
            )
        if self.errors:
            raise self.errors[0]
        if any(worker.exitcode for worker in self.workers):
            codes = [worker.exitcode for worker in self.workers]
            raise ProcessLost(
                f"the processes exited with statuses {codes} without an error message; see their output above"
            )


def _work(
    number: int, train: Train, config: TrainConfig, port: int, threads: int, parent: int, sender: Connection
) -> None:
    """Main function of a worker process: joins the process group, trains, and sends progress or its error."""
    end_with_parent(parent, GRACE)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(config.devices), "NODE_RANK": "0"}
    if "lo" in (name for _, name in socket.if_nameindex()):
        for backend in ("GLOO", "NCCL"):  # no other machine takes part, and the host name may not resolve
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
    torch.set_num_threads(threads)
    try:
        backend = "nccl" if resolve_device(config.device).type == "cuda" else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(number)
        store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=TIMEOUT)
        dist.init_process_group(backend, store=store, rank=number, world_size=config.devices, timeout=TIMEOUT)
        train(config, (lambda *news: _tell(sender, news)) if number == 0 else (lambda *news: None))
        dist.destroy_process_group()
    except BaseException as error:
        _tell(sender, _portable(error))
        os._exit(1)  # without torch's cleanup, which may wait for processes that have died


def _tell(sender: Connection, news: Any) -> None:
    """Sends to the parent. A closed pipe is ignored: `end_with_parent` is about to stop this process."""
    with suppress(BrokenPipeError):
        sender.send(news)


def _portable(error: BaseException) -> BaseException:
    """Returns the error with its traceback as a note; as a RuntimeError with the same text if it cannot be pickled."""
    error.add_note("".join(traceback.format_exception(error)))
    error = error.with_traceback(None)
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # unpickling calls the exception's constructor, which may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}\n{error.__notes__[-1]}")
    return error
