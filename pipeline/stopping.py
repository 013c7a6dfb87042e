"""Stops on request: SIGTERM and Ctrl-C become a flag that loops check, and a child ends with its parent."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields `asked()`, which is True once SIGTERM or Ctrl-C has arrived.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread Python cannot catch signals, so there
    `asked()` is always False.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_process(process: subprocess.Popen[str], grace: float) -> None:
    """Ends a child, if it still runs: SIGTERM (it keeps what is finished), and SIGKILL after ``grace`` seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with_parent(parent: int, grace: float, piped: bool = False) -> None:
    """Returns at once; when the process ``parent`` ends, this one gets SIGTERM, and SIGKILL ``grace`` seconds later.

    Args:
        parent: its process id.
        grace: seconds.
        piped: the parent read the output; printing to the closed pipe would end this process before it has kept what
            is finished, so its output then goes nowhere.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        if piped:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
