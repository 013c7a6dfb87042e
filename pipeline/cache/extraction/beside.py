"""An extraction that runs beside its reader, as a process of its own, for `sward train --extract`.

The reader waits for the plan, then for the receipts of the shards it needs. The child (`child.py`) has its own session,
so that Ctrl-C reaches the reader alone, which stops it; if the reader is killed, the child ends by itself.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import KEPT, ExtractionEnded
from pipeline.stopping import stop_process
from pipeline.types import Progress

GRACE = 20.0  # seconds between SIGTERM and SIGKILL
REASON = "reason: "  # begins the last words of an extraction that failed
POLL_SECONDS = 0.1  # between two looks for a receipt; a shard takes seconds
PATIENCE = 3600.0  # seconds without a finished shard after which an extraction counts as stuck
TAIL = 40  # lines kept for the error message

Found = TypeVar("Found")


class StoppedWaiting(KeyboardInterrupt):
    """A stop was requested while a shard was waited for."""


class ExtractionBeside:
    """A running extraction, and how to wait for what it writes; threads may share it.

    Args:
        config: of the store.
        progress: called with (records done, records planned), in a thread.
        say: called with each other line that the extraction prints, in a thread.

    Attributes:
        stopping: whether a stop was requested; waiting then ends with StoppedWaiting.
    """

    def __init__(self, config: CacheConfig, progress: Progress, say: Callable[[str], None]) -> None:
        self.progress, self.say = progress, say
        self.stopping: Callable[[], bool] = lambda: False
        self.store = config.store
        self._told = time.monotonic()  # when the extraction last told of progress
        self._planned = threading.Event()
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cache.extraction.child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:  # a child that has died says why in its output
            stdin.write(config.model_dump_json())
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Reads what the child prints: progress, notes, the reason of a failure."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                done, total = json.loads(line)
            except (ValueError, TypeError):
                self._tail.append(line.rstrip())
                if not line.startswith(REASON):
                    self.say(line.rstrip())
                continue
            self._told = time.monotonic()
            self._planned.set()
            self.progress(done, total)

    def wait_planned(self) -> None:
        """Returns when the store's plan is written. Raises as ``wait_for``."""
        self.wait_for(lambda: self._planned.is_set() or None, "the store's plan")

    def wait_for(self, find: Callable[[], Found | None], what: str) -> Found:
        """Returns what ``find`` finds, once it is not None.

        Args:
            find: looks for it.
            what: its name, for messages.

        Raises:
            ExtractionEnded: the extraction ended without it, or has finished no shard for an hour.
            StoppedWaiting: a stop was requested.
        """
        began = time.monotonic()
        while True:
            status = self._process.poll()  # before looking: what was written just before the end is found
            if status is not None:
                self._listener.join(GRACE)
            if (found := find()) is not None:
                return found
            if status is not None:
                raise ExtractionEnded(self._why(status, what))
            if self.stopping():
                raise StoppedWaiting(f"while waiting for {what} of {self.store}")
            if (stuck := time.monotonic() - max(began, self._told)) > PATIENCE:
                raise ExtractionEnded(
                    f"the extraction of {self.store} has finished no shard for {stuck / 60:.0f} minutes, and training "
                    f"needs {what}; look at its messages above, then run the same command again ({KEPT})"
                )
            time.sleep(POLL_SECONDS)

    def finish(self) -> None:
        """Returns when the extraction is done.

        Raises:
            ExtractionEnded: it failed.
            StoppedWaiting: a stop was requested.
        """
        self.wait_for(lambda: True if self._process.poll() is not None else None, "the rest")
        self._listener.join(GRACE)
        if status := self._process.returncode:
            raise ExtractionEnded(self._why(status, "the rest"))

    def stop(self) -> None:
        """Ends the extraction: SIGTERM, and SIGKILL if it still runs after some seconds. What is finished is kept."""
        stop_process(self._process, GRACE)
        self._listener.join(GRACE)
        if self._process.stdout and not self._listener.is_alive():  # a worker that is still ending may hold the pipe
            self._process.stdout.close()

    def _why(self, status: int, what: str) -> str:
        """Message for an extraction that ended, with its own words if it failed."""
        if status == 0:
            return f"the extraction of {self.store} is done, but {what} is not there; `sward verify` says what is wrong"
        told = [i for i, line in enumerate(self._tail) if line.startswith(REASON)]
        words = "\n".join(list(self._tail)[told[-1] if told else 0 :]).removeprefix(REASON)
        how = f"was ended by signal {-status}" if status < 0 else f"failed with exit status {status}"
        return f"the extraction of {self.store} {how}, and training needs {what}; {KEPT}" + (words and f"\n{words}")


@contextmanager
def extraction_beside(
    config: CacheConfig, progress: Progress = lambda done, total: None, say: Callable[[str], None] = lambda line: None
) -> Iterator[ExtractionBeside]:
    """An extraction of ``config``'s store that runs within the context; waits for its end, or stops it at an error."""
    extraction = ExtractionBeside(config, progress, say)
    try:
        yield extraction
        extraction.finish()
    finally:
        extraction.stop()
