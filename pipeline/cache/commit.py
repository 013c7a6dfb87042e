"""Commit of a unit: makes its finished shard files visible to readers.

A reader trusts receipts alone, so the order is: shard files get their final names, full-size labels are written, and
last the receipt. A kill in between leaves files without a receipt, which the next extraction writes again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c

from pipeline.cache.manifest.records import Unit, receipt_path
from pipeline.cache.storage.mirror import write_receipt
from pipeline.files import publish, write_atomic


def commit_unit(
    store: Path, unit: Unit, files: Mapping[Path, Path], labels: Mapping[Path, bytes], facts: dict[str, Any]
) -> None:
    """Publishes a unit.

    Args:
        store: folder of the store.
        unit: which shard of which subset.
        files: finished and synced temporary file -> its final name in the store.
        labels: final name -> PNG of a label at the source's size (validation and test units).
        facts: what else the receipt says, with the size and crc32c of every file in ``files``.
    """
    sums = {
        str(label.relative_to(store)): {"bytes": len(png), "crc32c": google_crc32c.value(png)}
        for label, png in labels.items()
    }
    for temporary, final in files.items():
        publish(temporary, final)
    for label, png in labels.items():
        write_atomic(label, png)
    receipt = {"unit": unit.name, "records": len(unit.records), "records_digest": unit.digest()} | facts
    write_receipt(store, receipt_path(store, unit.name), receipt | {"files": facts["files"] | sums})
