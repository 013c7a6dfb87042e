"""One Zarr v3 shard file: inner chunks, then their index. Written whole, read by byte range.

Format (Zarr v3, sharding_indexed): chunk bytes in any order; at the end, for every inner chunk, offset and
length as little-endian uint64, then the crc32c of that index as uint32. An absent chunk has both all ones.
zarr-python writes the metadata and reads these files; we write and read the bytes, because its per-chunk
machinery reads at 15-55 % of what the disk gives.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np

from pipeline.cache.packing import unpack
from pipeline.cache.spans import Span, read_spans

ABSENT = np.uint64(2**64 - 1)
Arrays = dict[str, np.ndarray]  # by name


class StoreDamaged(ValueError):
    """Bytes of a store are missing or changed."""


class ShardWriter:
    """Appends records to a new shard file, keeping its checksum; ``close`` adds the index and syncs."""

    def __init__(self, path: Path, num_chunks: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._index = np.full((num_chunks, 2), ABSENT, dtype="<u8")
        self._size, self._count, self._crc = 0, 0, 0

    def append(self, chunk: np.ndarray | bytes) -> None:
        """An array, or its compressed bytes."""
        data = chunk if isinstance(chunk, bytes) else np.ascontiguousarray(chunk).data.cast("B")
        self._index[self._count] = self._size, len(data)
        self._count += 1
        self._write(data)

    def _write(self, data: memoryview | bytes) -> None:
        self._file.write(data)
        self._crc = google_crc32c.extend(self._crc, np.frombuffer(data, np.uint8))
        self._size += len(data)

    def close(self) -> dict[str, int]:
        """Size and crc32c of the whole file."""
        index = self._index.tobytes()
        self._write(index + google_crc32c.value(index).to_bytes(4, "little"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._size, "crc32c": self._crc}

    def abandon(self) -> None:
        """Close what will not be finished; what a full disk refuses to take is lost with it."""
        with suppress(OSError):
            self._file.close()


def index_bytes(num_chunks: int) -> int:
    """Bytes of the index at a shard's end."""
    return 16 * num_chunks + 4


def read_index(path: Path, num_chunks: int) -> np.ndarray:
    """(num_chunks, 2) offsets and lengths.

    Raises:
        StoreDamaged: the file is missing, too short, or its index does not match its checksum.
    """
    size = index_bytes(num_chunks)
    try:
        with path.open("rb") as file:
            file.seek(-size, os.SEEK_END)
            tail = file.read(size)
    except OSError as error:
        raise StoreDamaged(f"{path}: shard missing or too short for its index ({error}); {REMEDY}") from error
    return parse_index(path, tail)


def parse_index(path: Path | str, tail: bytes) -> np.ndarray:
    """(num_chunks, 2) offsets and lengths, of a shard's last bytes. Raises StoreDamaged: not the bytes written."""
    if google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise StoreDamaged(f"{path}: the shard's index does not match its checksum; {REMEDY}")
    return np.frombuffer(tail[:-4], dtype="<u8").reshape(-1, 2)


REMEDY = "run `sward verify`, delete the receipt it names, and `sward extract` computes that shard again"


Shard = tuple[Path, np.ndarray]  # of one array: file and index


def read_chunks(shards: Mapping[str, Shard], chunk: int, out: Arrays, packed: Callable[[str], bool]) -> None:
    """Read one inner chunk of every array named in ``out`` straight into its (C-contiguous) buffer.

    Args:
        packed: whether an array's chunks are compressed.

    Raises:
        StoreDamaged: a chunk is absent, of another length, or does not unpack to its buffer; or a file ends early.
    """
    stored = {name: room(*shards[name], chunk) if packed(name) else buffer for name, buffer in out.items()}
    spans = []
    for name, buffer in stored.items():
        path, index = shards[name]
        spans.append(Span(path, chunk_offset(path, index, chunk, buffer.nbytes), buffer.data.cast("B")))
    try:
        read_spans(spans)
    except EOFError as error:
        raise StoreDamaged(f"{error}: ends within inner chunk {chunk}; {REMEDY}") from error
    for name in filter(packed, out):
        if not unpack(stored[name].data, out[name]):
            where = f"{shards[name][0]}: inner chunk {chunk}"
            raise StoreDamaged(f"{where} does not unpack to {out[name].nbytes} bytes; {REMEDY}")


def room(path: Path, index: np.ndarray, chunk: int) -> np.ndarray:
    """For a chunk's stored bytes; an absent one's length is 2**64 - 1."""
    return np.empty(min(int(index[chunk, 1]), path.stat().st_size), np.uint8)


def chunk_offset(path: Path | str, index: np.ndarray, chunk: int, size: int) -> int:
    """Where an inner chunk begins. Raises StoreDamaged: it is absent, or not of ``size`` bytes."""
    offset, length = index[chunk]
    if offset == ABSENT or length != size:
        raise StoreDamaged(f"{path}: inner chunk {chunk} is absent or not {size} bytes; {REMEDY}")
    return int(offset)


def file_crc32c(path: Path) -> int:
    """crc32c of a whole file."""
    return crc32c_of(pieces(path))


def crc32c_of(pieces: Iterable[bytes]) -> int:
    """crc32c of bytes that come in pieces."""
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
    return crc


def pieces(path: Path) -> Iterator[bytes]:
    """A whole file in pieces of 8 MiB."""
    with path.open("rb") as file:
        while piece := file.read(1 << 23):
            yield piece
