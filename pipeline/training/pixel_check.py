"""Compares a record's stored image and label with the digest in its unit's receipt, at the first read of a run.

It notices shards of images or labels that were exchanged or changed at equal size, and bytes that a disk returns wrong.
`sward verify` alone notices feature shards exchanged for others of equal size (a checksum covers a whole shard), and
ids exchanged between samples in the plan.

Cost: a sha256 of 4 bytes per pixel, in the reading threads, once per record and run: 1.7 ms for 256×256 and 7.7 ms for
512×512, measured on one core of a busy machine. Checking in every epoch would cost the same again each time.
"""

from threading import Lock

import numpy as np

from pipeline.augmented_views import pixel_digest
from pipeline.cache.errors import StoreDamaged
from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.types import Arrays


class PixelCheck:
    """Digests of a store's records that were not compared yet; threads may share it.

    Args:
        store: an open store. Records of units without digests (of earlier versions) are not checked.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._units = {(unit.subset, unit.shard): unit for unit in store.units if unit.name in store.receipts}
        self._left: dict[tuple[str, int], str] = {}
        self._adding = Lock()

    def check(self, record: Record, arrays: Arrays) -> None:
        """Compares ``arrays``, image (3, H, W) and label (H, W) as stored, if ``record`` is read for the first time.

        Raises:
            StoreDamaged: they are not those that were written.
        """
        self._add_unit_of(record)
        told = self._left.pop((record.subset, record.row), None)
        if told is not None and told != pixel_digest(np.moveaxis(arrays["image"], 0, -1), arrays["label"]):
            raise StoreDamaged(
                f"damaged record: the stored image or label of {record.title} in {self.store.location} is not the one "
                "that was written; `sward verify` lists all damage with its remedy"
            )

    def _add_unit_of(self, record: Record) -> None:
        """Takes over the digests of the record's unit, at the first read of one of its records."""
        place = record.subset, record.row // self.store.shard_records
        with self._adding:
            if unit := self._units.pop(place, None):
                told = self.store.receipts[unit.name].get("pixel_digests") or []
                self._left |= {(r.subset, r.row): digest for r, digest in zip(unit.records, told, strict=False)}
