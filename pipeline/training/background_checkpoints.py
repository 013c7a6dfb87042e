"""Writes checkpoints in a background thread: the training loop waits for a copy in memory, not for the disk.

Files are written one at a time, in the order of the calls; each appears under its name when it is complete and on the
disk. An error of the thread is raised at the next checkpoint, or at the end.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.training import checkpoint
from pipeline.training.run_folder import RunFolder


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
