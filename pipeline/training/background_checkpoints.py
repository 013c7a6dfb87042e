"""Writes checkpoints in a background thread: the training loop waits for a copy in memory, not for the disk.

Files are written one at a time, in the order of the calls; each appears under its name when it is complete and on the
disk. An error of the thread is raised at the next checkpoint, or at the end.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from pipeline.cache.extraction.beside import StoppedWaiting
from pipeline.training import checkpoint
from pipeline.training.checkpoint import warm_up_file
from pipeline.training.device.loss_scaling import scaler_of
from pipeline.training.profiling.parts import part
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import TrainingRun


class Interrupted(KeyboardInterrupt):
    """Raised after a stop request, when the checkpoint has been written."""


class CheckpointWriter:
    """Context manager: on leaving it, also by an exception, pending checkpoints are written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    def save(self, path: Path, **parts: Any) -> None:
        """Copies the state now, and starts to write it and the time spent so far; waits for the previous checkpoint.

        Args:
            path: the checkpoint's file.
            **parts: arguments of ``checkpoint.snapshot``.

        Raises:
            OSError: the previous checkpoint could not be written (no space left …).
        """
        self.wait()
        state, now = checkpoint.snapshot(**parts), time.monotonic()
        self._pending = self._thread.submit(self._write, path, state, now)

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk; raises the error that prevented it (OSError: no space …)."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, path: Path, state: dict[str, Any], now: float) -> None:
        checkpoint.write(path, state)
        self.folder.add_time(now)


@part("checkpoint")
def save_checkpoint(run: TrainingRun, writer: CheckpointWriter, step: int, file: Path, facts: dict[str, Any]) -> None:
    """Saves all state to resume from ``step``, and the time spent; the first process writes, as all have the same."""
    if not run.fabric.is_global_zero:
        return
    writer.save(
        file,
        student=run.student,
        method=run.objective,
        optimizer=run.optimizer,
        step=step,
        facts=facts | {"best": run.best, "best_step": run.best_step},
        mean=run.mean,
        scaler=scaler_of(run.fabric),
    )


def share_warm_up(run: TrainingRun, writer: CheckpointWriter, step: int) -> None:
    """Saves the state at the end of a warm-up for runs with the same one, unless such a run has saved it before."""
    file = warm_up_file(run.config)
    if file and not file.is_file():
        save_checkpoint(run, writer, step, file, run.warm_up_facts | {"seconds": run.folder.seconds()})


@contextmanager
def checkpointed_if_stopped(run: TrainingRun, writer: CheckpointWriter, done: int) -> Iterator[None]:
    """Context of waiting for shards after ``done`` steps: a stop request there also ends with a checkpoint."""
    try:
        yield
    except StoppedWaiting:
        save_checkpoint(run, writer, done, run.folder.last, run.facts)
        end_early(run, writer, done)


def end_early(run: TrainingRun, writer: CheckpointWriter, done: int) -> NoReturn:
    """Raises Interrupted, once the checkpoint of ``done`` steps is on the disk."""
    writer.wait()
    run.folder.mark_stopped()
    run.fabric.barrier()  # no process exits before the first one has written the checkpoint
    raise Interrupted(f"stopped after step {done}; the same command continues from there")
