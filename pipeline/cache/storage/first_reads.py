"""Compares a record's arrays with the checksums in its unit's receipt, at the first read through an opened store.

A run opens its store once, so each array of a record is compared once in a run, in the reading threads. That notices
shards exchanged for others of equal size, bytes changed later, and bytes that a disk or network returns wrong. A
receipt has the crc32c of every array of every record (``array_crc32c``); those of earlier versions have only a sha256
of image and label (``pixel_digests``), so there features are compared by `sward verify` alone.

Cost (`tests/benchmarks/first_reads.py`): 1.1 ms of a thread for a record of 7 MB, once in a run. That is 4 % of a read
from a disk of 240 MB/s; 44 % of one from memory, so 2 % of the reads of 20 epochs. blake2b takes nine times as long.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import google_crc32c
import numpy as np

from pipeline.augmented_views import pixel_digest
from pipeline.cache.errors import StoreDamaged
from pipeline.cache.manifest.records import Record, Unit, full_label_path
from pipeline.types import Arrays

SUMS = "array_crc32c"  # in a receipt: array name -> one crc32c per record, in row order
LISTS = "`sward verify` lists all damage with its remedy"


def array_crc32c(array: np.ndarray) -> int:
    """crc32c of an array's bytes in C order, before compression."""
    return google_crc32c.extend(0, np.frombuffer(np.ascontiguousarray(array).data.cast("B"), np.uint8))


def array_sums(records: Sequence[Mapping[str, int]]) -> dict[str, list[int]]:
    """The entry ``array_crc32c`` of a receipt, from the array name -> crc32c of each record of its unit."""
    return {name: [sums[name] for sums in records] for name in (records[0] if records else ())}


class FirstReads:
    """Compares arrays with receipts and remembers which were compared; threads may share it.

    Args:
        location: the store's URL or folder, for messages.
        units: of the store.
        receipts: unit -> receipt; looked up when a record of the unit was read.
        shard_records: records per shard.
        appended: plan of appended tensors with their ``receipts``; None: there are none.
    """

    def __init__(
        self,
        location: str,
        units: Iterable[Unit],
        receipts: Mapping[str, dict[str, Any]],
        shard_records: int,
        appended: Mapping[str, Any] | None,
    ) -> None:
        self.location, self.receipts, self.shard_records = location, receipts, shard_records
        self._appended = appended["receipts"] if appended else {}
        self._units = {(unit.subset, unit.shard): unit.name for unit in units}
        self._compared: dict[tuple[str, str], int] = {}  # (unit, array) -> one bit per record
        self._adding = Lock()

    def check(self, record: Record, arrays: Arrays) -> None:
        """Compares those ``arrays`` of a record, as read, that were not compared before.

        Raises:
            StoreDamaged: some are not what was written.
        """
        if wrong := self.differing(record, arrays):
            raise StoreDamaged(
                f"damaged record: the stored {' and '.join(wrong)} of {record.title} in {self.location} "
                f"{'is' if len(wrong) == 1 else 'are'} not what was written; {LISTS}"
            )

    def differing(self, record: Record, arrays: Arrays) -> list[str]:
        """Names of the arrays, as read, that are not what the receipt says; those compared before are left out.

        Args:
            record: the record that was read.
            arrays: array name -> as stored, uncompressed: image (3, H, W), label (H, W), those of levels.
        """
        unit, index = self.unit_of(record), record.row % self.shard_records
        new = [name for name in arrays if not self._compared.get((unit, name), 0) >> index & 1]
        if not new:
            return []
        receipt = self.receipts[unit]
        sums = receipt.get(SUMS, {}) | self._appended.get(unit, {}).get(SUMS, {})
        wrong = [n for n in new if n in sums and sums[n][index : index + 1] != [array_crc32c(arrays[n])]]
        if "image" not in sums and {"image", "label"} <= set(new):
            told = receipt.get("pixel_digests", [])[index : index + 1]
            wrong += ["image or label"] if told not in ([], [pixels_of(arrays)]) else []
        with self._adding:
            for name in new if not wrong else ():
                self._compared[unit, name] = self._compared.get((unit, name), 0) | 1 << index
        return wrong

    def require_full_label(self, record: Record, png: bytes) -> None:
        """Raises StoreDamaged if the file of a full-size label is not the one that was written; compares every time."""
        name = str(full_label_path(Path(), record.digest))
        told = self.receipts[self.unit_of(record)]["files"].get(name)
        if told and google_crc32c.value(png) != told["crc32c"]:
            raise StoreDamaged(f"damaged file: {self.location}/{name}, the label of {record.title}; {LISTS}")

    def unit_of(self, record: Record) -> str:
        """Name of the unit that a record is in."""
        return self._units[record.subset, record.row // self.shard_records]


def pixels_of(arrays: Arrays) -> str:
    """Pixel digest of stored image and label; it was taken of the rendered image, which has channels last."""
    return pixel_digest(np.moveaxis(arrays["image"], 0, -1), arrays["label"])
