"""A store that is read while it is extracted: all planned records are there, and reading one waits for its shard."""

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from pipeline.cache.extraction.beside import ExtractionBeside
from pipeline.cache.manifest.records import Record, Unit, receipt_path
from pipeline.cache.store import Store
from pipeline.types import Arrays


class GrowingStore(Store):
    """The store that ``extraction`` is writing, at a local path; threads may share it.

    Its identity, content id and records are those of the plan, so they do not depend on how far the extraction is. A
    lookup in ``receipts`` waits for the receipt, and so do reading a record or its label, and ``statistics``.

    Raises on opening, and where a shard is waited for:
        ExtractionEnded: the extraction ended without it.
        StoppedWaiting: a stop was requested.
    """

    def __init__(self, path: Path, extraction: ExtractionBeside) -> None:
        extraction.wait_planned()
        super().__init__(path, partial=True)
        self.receipts = self.first_reads.receipts = self._awaited = AwaitedReceipts(self, extraction)

    def unit_of(self, record: Record) -> str:
        """Name of the unit that a record is in."""
        return self.first_reads.unit_of(record)

    def has_come(self, unit: str) -> bool:
        """Whether the receipt of a unit is known, so that a lookup does not wait."""
        return self._awaited.has_come(unit)

    def read(self, record: Record, out: Arrays) -> None:
        self.receipts[self.unit_of(record)]
        super().read(record, out)

    def prefetch(self, record: Record, like: Arrays) -> None:
        if self.has_come(self.unit_of(record)):
            super().prefetch(record, like)

    def full_label(self, record: Record) -> np.ndarray:
        self.receipts[self.unit_of(record)]
        return super().full_label(record)


class AwaitedReceipts(dict[str, dict[str, Any]]):
    """Unit -> receipt, of all planned units: a lookup waits until the receipt is there."""

    def __init__(self, store: Store, extraction: ExtractionBeside) -> None:
        super().__init__(store.receipts)
        self._store, self._extraction, self._adding = store, extraction, Lock()
        self._units = {unit.name: unit for unit in store.units}

    def __contains__(self, unit: object) -> bool:
        return unit in self._units

    def has_come(self, unit: str) -> bool:
        """Whether a lookup would not wait."""
        return super().__contains__(unit)

    def __missing__(self, unit: str) -> dict[str, Any]:
        receipt = self._extraction.wait_for(lambda: self._look(self._units[unit]), f"shard {unit}")
        with self._adding:
            self._store.files.require_sizes({unit: receipt})
            return self.setdefault(unit, receipt)

    def _look(self, unit: Unit) -> dict[str, Any] | None:
        return unit.receipt(self._store.path) if receipt_path(self._store.path, unit.name).is_file() else None
