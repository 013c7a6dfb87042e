"""Runs a saved student on single records of its store, preprocessed as in evaluation (identity view)."""

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
    """A saved student and the store that it was trained from.

    Attributes:
        student: in evaluation mode, on the CPU.
        store: the opened store.
    """

    student: Student
    store: Store

    def inputs(self, record: Record) -> Any:
        """The student's input for a record, its image or the teacher's features, as a batch of size 1."""
        levels = tuple(self.store.channels) if self.student.reads == "features" else ()
        stream = Stream(self.store, Order((record,), 1, 0), levels, torch.device("cpu"))
        return stream.batch_of([record]).inputs(self.student)


def probe(run: SavedRun, store: Store) -> StudentOnRecords | None:
    """Loads the run's student; None if the folder has no weights (as in results kept without them)."""
    return StudentOnRecords(load_student(run.path)[0], store) if (run.path / "student.safetensors").is_file() else None


def stored(store: Store, record: Record, name: str) -> np.ndarray:
    """Reads one array of a record, e.g. its image (3, H, W) or its label (H, W), both uint8."""
    return store.arrays(record, (name,))[name]
