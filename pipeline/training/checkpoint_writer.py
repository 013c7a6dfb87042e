"""Checkpoints written behind the training: the loop waits for a copy in memory, a thread for the disk.

One file at a time, in the order asked for; each appears under its name only when it is whole and on the disk. What
goes wrong there is raised at the next checkpoint, or at the end.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.training import checkpoint
from pipeline.training.run_folder import RunFolder


class CheckpointWriter:
    """Use as a context: on leaving it, however that happens, what was asked for is written."""

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
        """Copy the state now (arguments: ``checkpoint.snapshot``'s), write it and the time spent so far later."""
        self.wait()
        state, now = checkpoint.snapshot(**parts), time.monotonic()
        self._pending = self._thread.submit(self._write, path, state, now)

    def wait(self) -> None:
        """Until the last one is on the disk. Raises what stopped it (OSError: no space left …)."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, path: Path, state: dict[str, Any], now: float) -> None:
        checkpoint.write(path, state)
        self.folder.add_time(now)
