"""Check of file sizes when a store is opened, against the sizes in its receipts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.manifest.records import receipt_path
from pipeline.paths import with_urls


def require_sizes(
    path: Path, location: str, receipts: Mapping[str, dict[str, Any]], size_of: Callable[[str], int | None]
) -> None:
    """Refuse a store in which a file has another size than its receipt says.

    Args:
        path: folder of the store's documents.
        location: the store's URL or folder, for messages.
        receipts: unit -> receipt.
        size_of: bytes of a file, None where it is missing.

    Raises:
        StoreDamaged: names the file and the receipt to delete.
    """
    for name, receipt in receipts.items():
        for file, facts in receipt["files"].items():
            size = size_of(file)
            if size != facts["bytes"]:
                own = with_urls(receipt_path(path, name))
                there = "missing" if size is None else f"{size} bytes"
                wrong = f"{location}/{file}: {there}, its receipt says {facts['bytes']} bytes"
                raise StoreDamaged(f"{wrong}; delete {own} and run the command that made the store again")
