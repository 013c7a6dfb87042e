"""Work that overlaps: things begun before their turn, and the threads that do them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Begun = TypeVar("Begun")


def start_ahead(depth: int, begin: Callable[[T], Begun], items: Iterable[T]) -> Iterator[Begun]:
    """What ``begin`` gives of each item, in order; ``depth`` further items are begun before one is handed out."""
    begun: deque[Begun] = deque()
    for item in items:
        begun.append(begin(item))
        if len(begun) > depth:
            yield begun.popleft()
    yield from begun


@contextmanager
def pools(*threads: int) -> Iterator[list[ThreadPoolExecutor]]:
    """A pool of so many threads each; after an error what has not begun is dropped, what has is waited for."""
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
