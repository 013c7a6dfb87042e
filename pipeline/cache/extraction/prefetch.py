"""Starts work a fixed number of items ahead; thread pools that shut down cleanly on errors."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Begun = TypeVar("Begun")


def start_ahead(depth: int, begin: Callable[[T], Begun], items: Iterable[T]) -> Iterator[Begun]:
    """Yields ``begin(item)`` in order, with ``depth`` items started ahead."""
    begun: deque[Begun] = deque()
    for item in items:
        begun.append(begin(item))
        if len(begun) > depth:
            yield begun.popleft()
    yield from begun


@contextmanager
def pools(*threads: int) -> Iterator[list[ThreadPoolExecutor]]:
    """Yields one pool per argument, with that number of threads.

    On leaving, waits for the running tasks. After an error, queued tasks that have not started are cancelled.
    """
    made = [ThreadPoolExecutor(count) for count in threads]
    failed = True
    try:
        yield made
        failed = False
    finally:
        for pool in made:
            pool.shutdown(wait=False, cancel_futures=failed)
        for pool in made:
            pool.shutdown()
