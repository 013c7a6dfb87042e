"""A run's student, ready to be shown single records of the store, as training's identity view has them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.results.runs import SavedRun, load_student
from pipeline.training.batch_order import Order
from pipeline.training.stream import Stream
from sward.contracts import Student


@dataclass(frozen=True)
class StudentOnRecords:
    """A student in evaluation mode on the CPU, and the store that its run was made from."""

    student: Student
    store: Store

    def inputs(self, record: Record) -> Any:
        """What the student reads of a record: its image, or the teacher's features; a batch of one."""
        levels = tuple(self.store.channels) if self.student.reads == "features" else ()
        stream = Stream(self.store, Order((record,), 1, 0), levels, torch.device("cpu"))
        return stream.batch_of([record]).inputs(self.student)


def probe(run: SavedRun, store: Store) -> StudentOnRecords | None:
    """The run's student; None where it has kept none (results that were saved without weights)."""
    return StudentOnRecords(load_student(run.path)[0], store) if (run.path / "student.safetensors").is_file() else None


def stored(store: Store, record: Record, name: str) -> np.ndarray:
    """An array of the record, e.g. its image (3, H, W) or its label (H, W), both uint8."""
    return store.arrays(record, (name,))[name]
