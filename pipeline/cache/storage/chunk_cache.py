"""What was read from a store at a URL, kept on the local disk up to so many bytes.

One file for each inner chunk, named by what it holds (content id, the shard object's version, chunk): it is never
out of date. It holds the bytes as stored, then their crc32c; it appears by rename and is checked on every read, and one
that is torn or changed is removed and read again from the store. The least recently read go first. Any number of
processes share the folder; each counts what it adds, so the limit holds within a thirty-second part for each.
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
SHARE = 32  # of the limit may be added between two looks at what is there
LEFT_BEHIND = 3600  # seconds after which what a kill left is removed


def key(*parts: object) -> str:
    """Name of a chunk, of everything that determines its bytes."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:40]


class ChunkCache:
    """Chunks below ``folder``, of at most ``limit`` bytes in all; safe to share between threads.

    ``evicts``: whether old chunks make room for new ones; who has not been told a limit takes the room that is there.
    """

    def __init__(self, folder: Path, limit: int, evicts: bool = True) -> None:
        self.folder, self.limit, self.evicts = folder, limit, evicts
        self._lock, self._used, self._added = threading.Lock(), -1, 0

    def read(self, name: str, out: np.ndarray) -> bool:
        """Whether the chunk was there, and is now in ``out`` (C-contiguous, of exactly its bytes)."""
        path, trailer = self._path(name), bytearray(TRAILER + 1)
        try:
            with path.open("rb", buffering=0) as file:
                count = os.preadv(file.fileno(), [out.data.cast("B"), trailer], 0)
        except OSError:  # it is not there, or this disk does not give it: it is read from the store
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
        """Keep a chunk. Where the disk does not take it, reading goes on without: said once, on stderr."""
        chunk, path = np.frombuffer(data, np.uint8), self._path(name)
        partial = path.with_name(f".{name}.{os.getpid()}.{threading.get_ident()}.partial")
        try:
            if not self._room(chunk.nbytes + TRAILER):
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

    def _room(self, size: int) -> bool:
        """Count ``size`` more bytes, making room for them; False where they never fit."""
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
        """Remove the least recently read until a tenth, and ``size``, is free; returns the bytes that stay."""
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
    """(last read, bytes, file) of everything kept."""
    files = []
    for path in folder.glob("??/*"):
        with suppress(FileNotFoundError):
            facts = path.stat()
            files.append((facts.st_mtime, facts.st_size, path))
    return files
