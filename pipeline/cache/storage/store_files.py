"""Files of a store, on disk or at a URL: sizes, bytes and checksums, and the check of sizes when a store is opened."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.format.shards import crc32c_of, pieces
from pipeline.cache.manifest.records import receipt_path
from pipeline.cache.storage.mirror import Mirror
from pipeline.cache.storage.object_store import ObjectInfo
from pipeline.paths import with_urls


class StoreFiles:
    """Looks at the files that receipts name; threads may share it.

    Args:
        path: folder of the store's documents.
        location: the store's URL or folder, for messages.
        mirror: of a store at a URL; None: its files are below ``path``.
        objects: every object at that URL, by name.
    """

    def __init__(self, path: Path, location: str, mirror: Mirror | None, objects: Mapping[str, ObjectInfo]) -> None:
        self.path, self.location, self.mirror, self.objects = path, location, mirror, objects

    def size(self, file: str) -> int | None:
        """Size in bytes of a file of the store; None if it is missing."""
        if self.mirror:
            return self.objects[file].bytes if file in self.objects else None
        path = self.path / file
        return path.stat().st_size if path.is_file() else None

    def pieces(self, file: str) -> Iterator[bytes]:
        """Yields the bytes of a file of the store, in pieces of 8 MiB."""
        return self.mirror.remote.pieces(file, self.objects[file].bytes) if self.mirror else pieces(self.path / file)

    def checksum(self, file: str) -> int | None:
        """crc32c of a file of the store, which is read whole; None if it is missing."""
        return None if self.size(file) is None else crc32c_of(self.pieces(file))

    def require_sizes(self, receipts: Mapping[str, dict[str, Any]]) -> None:
        """Refuses a store in which a file has another size than its receipt says.

        Args:
            receipts: unit -> receipt.

        Raises:
            StoreDamaged: names the file and the receipt to delete.
        """
        for name, receipt in receipts.items():
            for file, facts in receipt["files"].items():
                size = self.size(file)
                if size != facts["bytes"]:
                    own = with_urls(receipt_path(self.path, name))
                    there = "missing" if size is None else f"{size} bytes"
                    wrong = f"{self.location}/{file}: {there}, its receipt says {facts['bytes']} bytes"
                    raise StoreDamaged(f"{wrong}; delete {own} and run the command that made the store again")
