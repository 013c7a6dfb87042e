"""Named, nested timing sections ("parts") of a training step; without a recorder they do nothing.

The time of a part excludes that of the parts inside it, so the times of all parts add up.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.devices import wait_for

# parts that do not occur in every step; parts inside them are not told apart
WHOLE = ("evaluation", "checkpoint", "logging", "relational signal", "gradient balance")


@dataclass
class Spent:
    """Time spent in one part.

    Attributes:
        seconds: over all calls, without the parts inside it.
        calls: number of calls.
    """

    seconds: float = 0.0
    calls: int = 0


@dataclass
class _Open:
    name: str
    label: AbstractContextManager[Any]
    began: float
    within: float = 0.0  # seconds of the parts inside


class Recorder:
    """Records the times of parts, by phase of the profile and by name.

    Attributes:
        device: device of the run.
        phase: name of the current phase.
        exact: waits for the device at both ends of a part. Otherwise the time of GPU work is counted in the part that
            waits for it.
        labelled: names the parts in the trace of torch.profiler.
        spent: phase -> part -> time.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.phase = device, ""
        self.exact = self.labelled = False
        self.spent: dict[str, dict[str, Spent]] = {}
        self._open: list[_Open] = []

    @property
    def inside(self) -> str | None:
        """Name of the innermost open part, or None."""
        return self._open[-1].name if self._open else None

    def enter(self, name: str) -> None:
        """Opens a part inside the open one; inside a part of ``WHOLE`` it counts as that part."""
        if self.inside in WHOLE:
            name = str(self.inside)
        label = torch.profiler.record_function(name) if self.labelled else nullcontext()
        label.__enter__()
        self._open.append(_Open(name, label, self.now()))

    def leave(self) -> None:
        """Closes the innermost open part and adds its time."""
        done = self._open.pop()
        took = self.now() - done.began
        done.label.__exit__(None, None, None)
        spent = self.spent.setdefault(self.phase, {}).setdefault(done.name, Spent())
        spent.seconds += took - done.within
        spent.calls += self.inside != done.name
        if self._open:
            self._open[-1].within += took

    def now(self) -> float:
        """Returns the clock in seconds; if ``exact``, after waiting for the device."""
        if self.exact:
            wait_for(self.device)
        return time.perf_counter()


RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)  # not inherited by new threads


@contextmanager
def part(name: str) -> Iterator[None]:
    """Context manager and decorator that times its body as a part; costs about 1 µs without a recorder."""
    recorder = RECORDER.get()
    if recorder is None:
        yield
        return
    recorder.enter(name)
    try:
        yield
    finally:
        recorder.leave()
