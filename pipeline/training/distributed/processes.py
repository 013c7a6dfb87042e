"""The processes that train one run together: started on this machine, watched, stopped and ended together.

`torchrun` may start them instead, and has to on several machines. One process a GPU, or several on the CPU.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from pipeline.devices import resolve_device
from pipeline.stopping import stop_requests
from pipeline.training.config import TrainConfig
from pipeline.types import TrainProgress

GRACE = 20.0  # seconds that the others have to end by themselves when one is gone
TIMEOUT = timedelta(minutes=10)  # of one exchange between processes
Train = Callable[[TrainConfig, TrainProgress], Any]


class ProcessLost(ChildProcessError):
    """One of the processes is gone; the others were ended."""


def inside() -> bool:
    """Whether this process is one of several that were started to train together."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """This process's number among all; the first, 0, writes the run's folder."""
    return int(os.environ.get("RANK", os.environ["LOCAL_RANK"])) if inside() else 0


def require(config: TrainConfig) -> None:
    """Refuse processes or devices that are not there.

    Raises:
        ValueError: says what is there, and what to do.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) if inside() else None
    if started is not None and started != config.processes:
        raise ValueError(
            f"{started} processes were started, the configuration has devices × nodes = {config.devices} × "
            f"{config.nodes}: start {config.processes}, or set devices and nodes"
        )
    if started is None and config.nodes > 1:
        raise ValueError(
            f"nodes: {config.nodes} takes torchrun, on each machine: torchrun --nnodes {config.nodes} --nproc-per-node "
            f"{config.devices} --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m pipeline.cli train CONFIG"
        )
    if config.processes > 1 and config.device.startswith("cuda:"):
        raise ValueError(f"device: expected auto, cpu or cuda with several devices, found {config.device}")
    if resolve_device(config.device).type == "cuda" and (count := torch.cuda.device_count()) < config.devices:
        raise ValueError(f"devices: expected at most {count}, the GPUs here, found {config.devices}")


def launch(train: Train, config: TrainConfig, progress: TrainProgress) -> None:
    """Run ``train(config, …)`` in ``config.devices`` processes of this machine; returns when all are done.

    Args:
        train: a module's function; what the first process reports reaches ``progress`` here.

    Raises:
        ProcessLost: a process died; the others were ended.
        KeyboardInterrupt, or what ``train`` raises: the first error that any of them had.
    """
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    threads, own = max(1, torch.get_num_threads() // config.devices), os.getpid()
    pipes = [context.Pipe(duplex=False) for _ in range(config.devices)]
    workers = [
        context.Process(target=_work, args=(number, train, config, meeting.port, threads, own, sender), daemon=True)
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


class _Watch:
    """Waits for all workers; hands stop requests on; ends what is left ``GRACE`` seconds after one failed."""

    def __init__(self, workers: list[Any], receivers: list[Any], progress: TrainProgress, stopping: Callable[[], bool]):
        self.workers, self.receivers, self.progress, self.stopping = workers, receivers, progress, stopping
        self.errors: list[BaseException] = []
        self.told = self.ended = False
        self.failed_at: float | None = None

    def run(self) -> None:
        while alive := [worker for worker in self.workers if worker.is_alive()]:
            wait([*self.receivers, *(worker.sentinel for worker in alive)], timeout=0.2)
            self.receive()
            if self.stopping() and not self.told:
                self.told = True
                for worker in alive:
                    worker.terminate()
            self.end_after_a_failure()
        self.receive()
        self.conclude()

    def receive(self) -> None:
        for receiver in self.receivers:
            while receiver.poll():
                message = receiver.recv()
                if isinstance(message, BaseException):
                    self.errors.append(message)
                else:
                    self.progress(*message)

    def end_after_a_failure(self) -> None:
        if self.failed_at is None and (self.errors or any(worker.exitcode for worker in self.workers)):
            self.failed_at = time.monotonic()
        if self.failed_at is None or self.ended or time.monotonic() < self.failed_at + GRACE:
            return
        self.ended = True
        self.lost = self.killed()
        for worker in self.workers:
            worker.kill()

    def killed(self) -> list[tuple[int, int]]:
        return [(i, -w.exitcode) for i, w in enumerate(self.workers) if w.exitcode is not None and w.exitcode < 0]

    def conclude(self) -> None:
        lost = self.lost if self.ended else self.killed()
        stops = [error for error in self.errors if isinstance(error, KeyboardInterrupt)]
        if stops or (self.told and lost):
            raise stops[0] if stops else KeyboardInterrupt
        if lost:
            number, by = lost[0]
            raise ProcessLost(
                f"process {number} of {len(self.workers)} was ended by {signal.Signals(by).name} (SIGKILL: often for "
                "want of memory), so the others were ended too; the same command continues from the last checkpoint"
            )
        if self.errors:
            raise self.errors[0]
        if any(worker.exitcode for worker in self.workers):
            codes = [worker.exitcode for worker in self.workers]
            raise ProcessLost(f"the processes ended with exit statuses {codes} and said nothing; see above")


def _work(
    number: int, train: Train, config: TrainConfig, port: int, threads: int, parent: int, sender: Connection
) -> None:
    """One of the processes, from its start to its end."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(config.devices), "NODE_RANK": "0"}
    if "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name may lead nowhere
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
        os._exit(1)  # nothing in torch may wait here for processes that are gone


def _tell(sender: Connection, news: Any) -> None:
    """To the parent; where it is gone, nobody listens, and `_end_with` is about to stop this process."""
    with suppress(BrokenPipeError):
        sender.send(news)


def _portable(error: BaseException) -> BaseException:
    """The error with its traceback as a note, or what can be sent of it."""
    error.add_note("".join(traceback.format_exception(error)))
    error = error.with_traceback(None)
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception's constructor may do anything
        return RuntimeError(f"{type(error).__name__}: {error}\n{error.__notes__[-1]}")
    return error


def _end_with(parent: int) -> None:
    """When the parent is gone: stop as if asked to (a checkpoint is written), and at the latest after ``GRACE``."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
