"""One Zarr v3 shard file: inner chunks, then their index. Written whole, read by byte range.

Format (Zarr v3, sharding_indexed): chunk bytes in any order; at the end, for every inner chunk, offset and
length as little-endian uint64, then the crc32c of that index as uint32. An absent chunk has both all ones.
zarr-python writes the metadata and reads these files; we write and read the bytes, because its per-chunk
machinery reads at 15-55 % of what the disk gives.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.format.compression import unpack

ABSENT = 2**64 - 1
Index = np.ndarray  # (chunks, 2) uint64: offset and length of every inner chunk


def shard_path(path: Path, subset: str, array: str, shard: int, ndim: int) -> Path:
    """File of one shard of one array, by Zarr's default chunk keys; ``ndim`` counts the record axis."""
    return path / subset / array / "c" / "/".join([str(shard), *["0"] * (ndim - 1)])


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


def read_index(path: Path, num_chunks: int) -> Index:
    """Where the inner chunks are.

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


def parse_index(path: Path | str, tail: bytes) -> Index:
    """The index in a shard's last bytes. Raises StoreDamaged: not the bytes written."""
    if google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise StoreDamaged(f"{path}: the shard's index does not match its checksum; {REMEDY}")
    return np.frombuffer(tail[:-4], dtype="<u8").reshape(-1, 2)


REMEDY = "run `sward verify`, delete the receipt it names, and `sward extract` computes that shard again"


def chunk_offset(path: Path | str, index: Index, chunk: int, size: int) -> int:
    """Where an inner chunk begins. Raises StoreDamaged: it is absent, or not of ``size`` bytes."""
    offset, length = index[chunk].tolist()
    if offset == ABSENT or length != size:
        raise StoreDamaged(f"{path}: inner chunk {chunk} is absent or not {size} bytes; {REMEDY}")
    return offset


def room(index: Index, chunk: int, file_bytes: int) -> np.ndarray:
    """For a chunk's stored bytes; an absent one's length is 2**64 - 1."""
    return np.empty(min(int(index[chunk, 1]), file_bytes), np.uint8)


def unpack_chunk(path: Path | str, chunk: int, stored: np.ndarray, out: np.ndarray) -> None:
    """Decompress a chunk's stored bytes into ``out``. Raises StoreDamaged: they do not unpack to it."""
    if not unpack(stored.data, out):
        raise StoreDamaged(f"{path}: inner chunk {chunk} does not unpack to {out.nbytes} bytes; {REMEDY}")


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
