"""Size-limited local cache of chunks read from a remote store.

Each inner chunk is one file, named by everything that determines its bytes (content id, version of the shard object,
chunk number), so it is never out of date. The file holds the bytes as stored, then their crc32c. It appears by rename
and is checked on every read; a torn or changed file is removed and its chunk read again from the store. The least
recently read chunks are removed first. Any number of processes may share the folder. Each counts only what it adds
itself, so the total may exceed the limit by 1/32 of it per process.
"""

import fcntl
import hashlib
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

TRAILER = 4  # bytes: crc32c, little-endian
SHARE = 32  # after adding 1/32 of the limit, a process measures the folder again
LEFT_BEHIND = 3600  # seconds after which a partial file counts as left by a killed process, and is removed


def key(*parts: object) -> str:
    """File name of a chunk: a hash of everything that determines its bytes."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:40]


class ChunkCache:
    """Cache of chunks in a folder; threads may share it.

    Args:
        folder: of the cache.
        limit: bytes of all chunks together.
        evicts: True: at ``limit``, remove the least recently read chunks. False (no limit configured): stop adding
            chunks at ``limit`` instead of removing old ones.
    """

    def __init__(self, folder: Path, limit: int, evicts: bool = True) -> None:
        self.folder, self.limit, self.evicts = folder, limit, evicts
        self._lock, self._used, self._added = threading.Lock(), -1, 0

    def read(self, name: str, out: np.ndarray) -> bool:
        """Reads a chunk into ``out`` (C-contiguous, exactly its size); returns False if the cache does not have it."""
        path, trailer = self._path(name), bytearray(TRAILER + 1)
        try:
            with path.open("rb", buffering=0) as file:
                count = os.preadv(file.fileno(), [out.data.cast("B"), trailer], 0)
        except OSError:  # not in the cache, or unreadable: the caller reads it from the store
            return False
        crc = google_crc32c.value(out.reshape(-1).view(np.uint8))
        if count != out.nbytes + TRAILER or crc != int.from_bytes(trailer[:TRAILER], "little"):
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return False
        with suppress(OSError):
            os.utime(path)
        return True

    def write(self, name: str, data: Any) -> None:
        """Adds a chunk. If the disk refuses it, nothing more is added, and one line on stderr says so."""
        chunk, path = np.frombuffer(data, np.uint8), self._path(name)
        partial = path.with_name(f".{name}.{os.getpid()}.{threading.get_ident()}.partial")
        try:
            if not self._reserve(chunk.nbytes + TRAILER):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(chunk.data)
                file.write(google_crc32c.value(chunk).to_bytes(TRAILER, "little"))
            partial.replace(path)
        except OSError as error:
            self.limit = 0
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            print(f"note: {self.folder}: {error.strerror}; reading on without a cache", file=sys.stderr)

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    def _reserve(self, size: int) -> bool:
        """Counts ``size`` more bytes and removes old chunks if needed; False if the bytes do not fit."""
        if size > self.limit:
            return False
        with self._lock:
            if self._used < 0 or self._used + size > self.limit or self._added > self.limit // SHARE:
                self._used, self._added = self._evict(size), 0
            if self._used + size > self.limit:
                return False
            self._used, self._added = self._used + size, self._added + size
        return True

    def _evict(self, size: int) -> int:
        """Removes old partial files and, if ``size`` bytes do not fit, chunks; returns the bytes that remain.

        Chunks go from the least recently read on, until ``size`` bytes and a tenth of the limit are free.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            files = sorted(found(self.folder))
            total = sum(size for _, size, _ in files)
            enough = total + size <= self.limit or not self.evicts
            target = total if enough else max(0, int(0.9 * self.limit) - size)
            for used, bytes_, path in files:
                torn = path.suffix == ".partial" and time.time() - used > LEFT_BEHIND
                if total > target or torn:
                    path.unlink(missing_ok=True)
                    total -= bytes_
        return total


def found(folder: Path) -> list[tuple[float, int, Path]]:
    """Files of the cache as (time of the last read, size in bytes, path)."""
    files = []
    for path in folder.glob("??/*"):
        with suppress(FileNotFoundError):
            facts = path.stat()
            files.append((facts.st_mtime, facts.st_size, path))
    return files
