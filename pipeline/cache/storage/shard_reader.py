"""Records of a store on this disk, read from its shards straight into batch buffers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.format.shards import (
    ABSENT,
    REMEDY,
    Index,
    chunk_offset,
    read_index,
    room,
    shard_path,
    unpack_chunk,
)
from pipeline.cache.manifest.records import Record
from pipeline.cache.storage.disk_ranges import File, Span, read_spans
from pipeline.types import Arrays

STAY_OPEN = 128  # files; a process may open 1024, and opening those of a record takes 4 % of a read from memory


class ShardReader:
    """Reads every shard's index once; safe to share between threads."""

    def __init__(self, path: Path, shard_records: int) -> None:
        self.shard_records = shard_records
        self.shard = lru_cache(maxsize=None)(partial(find_shard, path, shard_records))
        self.file: Callable[[Path], File] = File
        self._users, self._lock = 0, Lock()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Meanwhile the files read last stay open."""
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
        """Read the arrays named in ``out`` of one record into its buffers, which are C-contiguous.

        Raises:
            StoreDamaged: a chunk is absent, of another length, or does not unpack to its buffer; or a file ends early.
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
            raise StoreDamaged(f"{error}: ends within inner chunk {chunk}; {REMEDY}") from error
        for path, stored, buffer in unpacked:
            unpack_chunk(path, chunk, stored, buffer)

    def prefetch(self, record: Record, like: Arrays) -> None:
        """Have the disk begin with what reading the record into such buffers will need; returns at once."""
        number, chunk = divmod(record.row, self.shard_records)
        for name, buffer in like.items():
            path, index = self.shard(record.subset, name, number, buffer.ndim)
            offset, length = index[chunk].tolist()
            if offset != ABSENT:
                self.file(path).request_unread(offset, length)


def find_shard(root: Path, shard_records: int, subset: str, name: str, shard: int, ndim: int) -> tuple[Path, Index]:
    """File and index of one shard of an array whose records have ``ndim`` axes."""
    path = shard_path(root, subset, name, shard, ndim + 1)
    return path, read_index(path, shard_records)
