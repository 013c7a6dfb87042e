"""Reads records of a local store from its shards straight into batch buffers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.format.shards import ABSENT, REMEDY, Index, chunk_offset, read_index, room, shard_path, unpack_chunk
from pipeline.cache.manifest.records import Record
from pipeline.cache.storage.disk_ranges import File, Span, read_spans
from pipeline.types import Arrays

STAY_OPEN = 128  # files; a process may have 1024. Opening those of a record takes 4 % of a read from memory


class ShardReader:
    """Reads records from the shards of a local store, and each shard's index only once; threads may share it.

    Args:
        path: folder of the store.
        shard_records: records per shard.
    """

    def __init__(self, path: Path, shard_records: int) -> None:
        self.shard_records = shard_records
        self.shard = lru_cache(maxsize=None)(partial(find_shard, path, shard_records))
        self.file: Callable[[Path], File] = File
        self._users, self._lock = 0, Lock()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Context in which the files that were read last stay open, up to 128."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self.file = lru_cache(maxsize=STAY_OPEN)(File)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self.file = File

    def read(self, record: Record, out: Arrays, is_compressed: Callable[[str], bool]) -> None:
        """Reads the arrays named in ``out`` of one record into its buffers, which are C-contiguous.

        ``is_compressed`` tells by name whether an array's chunks are compressed.

        Raises:
            StoreDamaged: a chunk is absent, has another length, or does not decompress to the size of its buffer; or a
                file ends early.
        """
        number, chunk = divmod(record.row, self.shard_records)
        spans, unpacked = [], []
        for name, buffer in out.items():
            path, index = self.shard(record.subset, name, number, buffer.ndim)
            file = self.file(path)
            stored = room(index, chunk, file.size()) if is_compressed(name) else buffer
            spans.append(Span(file, chunk_offset(path, index, chunk, stored.nbytes), stored.data.cast("B")))
            if stored is not buffer:
                unpacked.append((path, stored, buffer))
        try:
            read_spans(spans)
        except EOFError as error:
            raise StoreDamaged(f"{error}: the file ends within inner chunk {chunk}; {REMEDY}") from error
        for path, stored, buffer in unpacked:
            unpack_chunk(path, chunk, stored, buffer)

    def prefetch(self, record: Record, like: Arrays) -> None:
        """Asks the disk to load what reading the record into buffers like these will need; returns at once."""
        number, chunk = divmod(record.row, self.shard_records)
        for name, buffer in like.items():
            path, index = self.shard(record.subset, name, number, buffer.ndim)
            offset, length = index[chunk].tolist()
            if offset != ABSENT:
                self.file(path).request_unread(offset, length)


def find_shard(root: Path, shard_records: int, subset: str, name: str, shard: int, ndim: int) -> tuple[Path, Index]:
    """File and index of one shard of an array; ``ndim`` counts the axes of one record."""
    path = shard_path(root, subset, name, shard, ndim + 1)
    return path, read_index(path, shard_records)
