"""The run folder as all processes but the first see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.training.config import TrainConfig
from pipeline.training.run_folder import RunFolder


class ReadOnlyRunFolder(RunFolder):
    """Run folder of all processes but the first: they read it, and only the first one writes."""

    @contextmanager
    def owned(self) -> Iterator[None]:
        yield

    def create(self, *args: Any) -> None:
        """No-op, as all other methods here: the first process writes."""

    def mark_finished(self, results: dict[str, Any]) -> None: ...

    def mark_stopped(self) -> None: ...

    def seconds(self) -> float:
        return 0.0

    def add_time(self, now: float | None = None) -> None: ...

    @contextmanager
    def logging(self, config: TrainConfig, first: int) -> Iterator[None]:
        yield

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def drop_log_after(self, step: int, validated: bool = True) -> None: ...

    def save_student(self, *args: Any) -> None: ...

    def save_evaluation(self, result: dict[str, Any]) -> None: ...
