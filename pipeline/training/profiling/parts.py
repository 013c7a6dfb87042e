"""The parts of a training step by name. Who wants to know how long they take sets a recorder; else nothing happens.

Parts nest: a part's time is its own, without that of the parts inside it, so all of them add up.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.devices import wait_for

# not in every step, and not taken apart
WHOLE = ("evaluation", "checkpoint", "logging", "relational signal", "gradient balance")


@dataclass
class Spent:
    """How long a part took: seconds, without parts inside it, over all its calls."""

    seconds: float = 0.0
    calls: int = 0


@dataclass
class _Open:
    name: str
    label: AbstractContextManager[Any]
    began: float
    within: float = 0.0  # seconds of parts inside


class Recorder:
    """Times of parts by phase and name.

    ``exact``: the device is waited for at both ends of a part; else a GPU's work counts where it is waited for.
    ``labelled``: parts are named in torch.profiler's trace.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.phase = device, ""
        self.exact = self.labelled = False
        self.spent: dict[str, dict[str, Spent]] = {}
        self._open: list[_Open] = []

    @property
    def inside(self) -> str | None:
        """The innermost part that is going on."""
        return self._open[-1].name if self._open else None

    def enter(self, name: str) -> None:
        if self.inside in WHOLE:
            name = str(self.inside)
        label = torch.profiler.record_function(name) if self.labelled else nullcontext()
        label.__enter__()
        self._open.append(_Open(name, label, self.now()))

    def leave(self) -> None:
        done = self._open.pop()
        took = self.now() - done.began
        done.label.__exit__(None, None, None)
        spent = self.spent.setdefault(self.phase, {}).setdefault(done.name, Spent())
        spent.seconds += took - done.within
        spent.calls += self.inside != done.name
        if self._open:
            self._open[-1].within += took

    def now(self) -> float:
        """The time, after the device has caught up while ``exact``."""
        if self.exact:
            wait_for(self.device)
        return time.perf_counter()


RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)  # a new thread has none


@contextmanager
def part(name: str) -> Iterator[None]:
    """Name what happens inside; also a decorator. About a microsecond where nobody records."""
    recorder = RECORDER.get()
    if recorder is None:
        yield
        return
    recorder.enter(name)
    try:
        yield
    finally:
        recorder.leave()
