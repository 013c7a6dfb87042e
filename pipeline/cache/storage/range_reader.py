"""Reads records of a remote store by byte-range requests straight into batch buffers.

The arrays of a record are requested concurrently. Chunks and shard indices that were read stay in a local cache
(`chunk_cache.py`).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.format.shards import Index, chunk_offset, index_bytes, parse_index, room, shard_path, unpack_chunk
from pipeline.cache.manifest.records import Record
from pipeline.cache.storage.chunk_cache import ChunkCache, key
from pipeline.cache.storage.object_store import AT_ONCE, ObjectInfo, Remote
from pipeline.paths import cache_root
from pipeline.types import Arrays

USUAL = 20 * 10**9  # bytes: limit of the chunk cache if none is configured


class RangeReader:
    """Reads records with a receipt from the shards of a remote store; threads may share it.

    Args:
        remote: client for the store's objects.
        shard_records: records per shard.
        objects: every object of the store, by name.
        content_id: of the store.
        cache_bytes: limit in bytes of the local chunk cache; the least recently read chunks are removed. None: add
            chunks while the cache holds less than 20 GB, and remove none.
    """

    def __init__(
        self,
        remote: Remote,
        shard_records: int,
        objects: dict[str, ObjectInfo],
        content_id: str,
        cache_bytes: int | None,
    ) -> None:
        self.remote, self.shard_records, self.objects = remote, shard_records, objects
        limit = USUAL if cache_bytes is None else cache_bytes
        self.cache = ChunkCache(cache_root() / "chunks", limit, evicts=cache_bytes is not None)
        self.content_id = content_id
        self.index = lru_cache(maxsize=None)(self._read_index)
        self.pool = ThreadPoolExecutor(AT_ONCE, "range")

    def read(self, record: Record, out: Arrays, is_compressed: Callable[[str], bool]) -> None:
        """Reads the arrays named in ``out`` of one record into its buffers, which are C-contiguous.

        ``is_compressed`` tells by name whether an array's chunks are compressed.

        Raises:
            StoreDamaged: bytes are missing, or do not decompress.
            RemoteError: the store cannot be reached.
        """
        shard, chunk = divmod(record.row, self.shard_records)
        names = {n: shard_path(Path(), record.subset, n, shard, b.ndim + 1).as_posix() for n, b in out.items()}
        missing = [n for n, f in names.items() if is_compressed(n) or not self.cache.read(self.key(f, chunk), out[n])]
        fetch = {n: self._fetch_compressed if is_compressed(n) else self._fetch for n in missing}
        list(self.pool.map(lambda n: fetch[n](names[n], chunk, out[n]), missing))

    def prefetch(self, record: Record, like: Arrays) -> None:
        """No-op: remote ranges are already fetched concurrently."""

    def kept_open(self) -> AbstractContextManager[None]:
        """No-op: no file stays open between reads."""
        return nullcontext()

    def key(self, file: str, chunk: int | str) -> str:
        """Name in the chunk cache of a shard's chunk, or of its ``index``."""
        return key(self.content_id, file, self.objects[file].bytes, self.objects[file].tag, chunk)

    def _fetch(self, file: str, chunk: int, out: np.ndarray) -> None:
        offset = chunk_offset(f"{self.remote.url}/{file}", self.index(file), chunk, out.nbytes)
        data = self._range(file, offset, out.nbytes)
        out.data.cast("B")[:] = memoryview(data)
        self.cache.write(self.key(file, chunk), data)

    def _fetch_compressed(self, file: str, chunk: int, out: np.ndarray) -> None:
        """Reads a compressed chunk from cache or store; the cache keeps it compressed."""
        stored = room(self.index(file), chunk, self.objects[file].bytes)
        if not self.cache.read(self.key(file, chunk), stored):
            self._fetch(file, chunk, stored)
        unpack_chunk(f"{self.remote.url}/{file}", chunk, stored, out)

    def _read_index(self, file: str) -> Index:
        size = index_bytes(self.shard_records)
        tail = np.empty(size, np.uint8)
        if not self.cache.read(self.key(file, "index"), tail):
            data = self._range(file, self.objects[file].bytes - size, size)
            tail = np.frombuffer(data, np.uint8)
            self.cache.write(self.key(file, "index"), data)
        return parse_index(f"{self.remote.url}/{file}", tail.tobytes())

    def _range(self, file: str, start: int, size: int) -> Any:
        try:
            return self.remote.range(file, start, size, self.objects[file].version)
        except FileNotFoundError as error:
            raise StoreDamaged(
                f"{error}; run `sward verify {self.remote.url}`, which lists the damage with its remedy"
            ) from error
