"""One Zarr v3 shard file: inner chunks, then their index. Written whole, read by byte range.

Format (Zarr v3, sharding_indexed): chunk bytes in any order; at the end, for every inner chunk, offset and
length as little-endian uint64, then the crc32c of that index as uint32. Both are 2**64 - 1 for an absent chunk.
zarr-python writes the metadata and can read these files. This module writes and reads their bytes, because the
per-chunk machinery of zarr-python reads at 15-55 % of the disk's speed.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.format.compression import unpack

ABSENT = 2**64 - 1  # offset and length of an absent chunk
Index = np.ndarray  # (chunks, 2) uint64: offset and length of every inner chunk


def shard_path(path: Path, subset: str, array: str, shard: int, ndim: int) -> Path:
    """File of one shard of one array, named by Zarr's default chunk keys; ``ndim`` includes the record axis."""
    return path / subset / array / "c" / "/".join([str(shard), *["0"] * (ndim - 1)])


class ShardWriter:
    """Appends records to a new shard file and updates its checksum; ``close`` adds the index and syncs to disk."""

    def __init__(self, path: Path, num_chunks: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._index = np.full((num_chunks, 2), ABSENT, dtype="<u8")
        self._size, self._count, self._crc = 0, 0, 0

    def append(self, chunk: np.ndarray | bytes) -> None:
        """Appends an inner chunk: one record's array, or its compressed bytes."""
        data = chunk if isinstance(chunk, bytes) else np.ascontiguousarray(chunk).data.cast("B")
        self._index[self._count] = self._size, len(data)
        self._count += 1
        self._write(data)

    def _write(self, data: memoryview | bytes) -> None:
        self._file.write(data)
        self._crc = google_crc32c.extend(self._crc, np.frombuffer(data, np.uint8))
        self._size += len(data)

    def close(self) -> dict[str, int]:
        """Adds the index, syncs the file to disk and closes it; returns its size in bytes and its crc32c."""
        index = self._index.tobytes()
        self._write(index + google_crc32c.value(index).to_bytes(4, "little"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._size, "crc32c": self._crc}

    def abandon(self) -> None:
        """Closes an unfinished file; buffered bytes that a full disk refuses are lost."""
        with suppress(OSError):
            self._file.close()


def index_bytes(num_chunks: int) -> int:
    """Size in bytes of the index at a shard's end: 16 per chunk, 4 for its crc32c."""
    return 16 * num_chunks + 4


def read_index(path: Path, num_chunks: int) -> Index:
    """Reads offset and length of every inner chunk of a shard file.

    Raises:
        StoreDamaged: the file is missing, too short, or its index does not match its checksum.
        OSError: this process may open no further file; the store is not damaged.
    """
    size = index_bytes(num_chunks)
    try:
        with path.open("rb") as file:
            file.seek(-size, os.SEEK_END)
            tail = file.read(size)
    except OSError as error:
        if error.errno in BUSY:
            raise OSError(
                error.errno, f"{error.strerror}: {BUSY[error.errno]}; the store is not damaged", path
            ) from error
        raise StoreDamaged(f"{path}: shard missing or too short for its index ({error}); {REMEDY}") from error
    return parse_index(path, tail)


def parse_index(path: Path | str, tail: bytes) -> Index:
    """Parses the last bytes of a shard as its index. Raises StoreDamaged if they do not match their checksum."""
    if google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise StoreDamaged(f"{path}: the shard's index does not match its checksum; {REMEDY}")
    return np.frombuffer(tail[:-4], dtype="<u8").reshape(-1, 2)


REMEDY = "run `sward verify`, delete the receipt it names, then run `sward extract` to compute that shard again"
BUSY = {  # errors of the machine, not of the file
    errno.EMFILE: "this process has too many open files; raise the limit (ulimit -n 4096)",
    errno.ENFILE: "this machine has too many open files; end other programs",
    errno.ENOMEM: "this machine has no memory left; end other programs",
}


def chunk_offset(path: Path | str, index: Index, chunk: int, size: int) -> int:
    """Offset of an inner chunk in its file, in bytes. Raises StoreDamaged if it is absent or not ``size`` bytes."""
    offset, length = index[chunk].tolist()
    if offset == ABSENT or length != size:
        raise StoreDamaged(f"{path}: inner chunk {chunk} is absent or not {size} bytes long; {REMEDY}")
    return offset


def room(index: Index, chunk: int, file_bytes: int) -> np.ndarray:
    """Buffer for the stored bytes of a chunk; at most the file's size, as an absent chunk's length is 2**64 - 1."""
    return np.empty(min(int(index[chunk, 1]), file_bytes), np.uint8)


def unpack_chunk(path: Path | str, chunk: int, stored: np.ndarray, out: np.ndarray) -> None:
    """Decompresses a chunk's stored bytes into ``out``. Raises StoreDamaged if they are not a chunk of its size."""
    if not unpack(stored.data, out):
        raise StoreDamaged(f"{path}: inner chunk {chunk} does not unpack to {out.nbytes} bytes; {REMEDY}")


def file_crc32c(path: Path) -> int:
    """crc32c of a whole file, read in pieces."""
    return crc32c_of(pieces(path))


def crc32c_of(pieces: Iterable[bytes]) -> int:
    """crc32c of bytes given in pieces."""
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
    return crc


def pieces(path: Path) -> Iterator[bytes]:
    """Yields a whole file in pieces of 8 MiB."""
    with path.open("rb") as file:
        while piece := file.read(1 << 23):
            yield piece
