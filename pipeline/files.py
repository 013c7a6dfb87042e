"""Writes files durably: a file visible under its final name is complete and on the disk."""

import fcntl
import glob
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial")  # temporary names of ``atomic``; other .partial files are people's

LONGEST = 228  # bytes of a file's name in a temporary one, which may have 255


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Yields a file with a temporary name next to ``path``; fsync and rename on success, remove on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    short = os.fsencode(path.name)[:LONGEST].decode(errors="ignore")
    partial = path.with_name(f".{short}.{os.urandom(8).hex()}.partial")  # differs between threads and machines
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class ErrorKept:
    """Binary file for libraries that replace an OSError of writing by an error of their own.

    Attributes:
        error: the first OSError.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def os_errors_first(file: BinaryIO) -> Iterator[Any]:
    """Yields the file to a library; if writing it failed, raises that OSError in place of the library's error."""
    kept = ErrorKept(file)
    try:
        yield kept
    except Exception as error:
        if kept.error is not None:
            raise kept.error from error
        raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file with ``atomic``; text is encoded as UTF-8."""
    with atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_partials(folder: Path) -> None:
    """Remove temporary files that a kill in ``atomic`` left anywhere below a folder; hold the folder's lock.

    Unpublished folders, such as that of an export that is running, and what is in them stay.
    """
    for left in folder.rglob(".*.partial"):
        unpublished = any(parent.suffix == ".partial" for parent in left.relative_to(folder).parents)
        if PARTIAL.fullmatch(left.name) and not (unpublished or left.is_dir()):
            left.unlink(missing_ok=True)


def publish(partial: Path, path: Path) -> None:
    """Rename on the same file system; fsync the folder, and the folders created for it, so that the rename lasts."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(path)
    for folder in [path.parent, *(folder.parent for folder in made)]:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that its entries are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Busy(OSError):
    """Another process holds the lock of a folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock while writing to it; the system releases it when the process ends, however it ends.

    Raises:
        Busy: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Busy(f"another process is writing {folder}; wait for it, or stop it and run this again") from error
        yield


@contextmanager
def unpublished(out: Path) -> Iterator[Path]:
    """Yields a new hidden folder next to ``out``, to be filled and published; removes it otherwise.

    The system holds its lock for this process, so that those of killed processes are known: they are removed too.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        if left.is_dir():
            with suppress(OSError), folder_locked(left):
                shutil.rmtree(left, ignore_errors=True)
    partial = out.with_name(f".{out.name}.{os.urandom(8).hex()}.partial")
    partial.mkdir()
    try:
        with folder_locked(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Holds a lock of the folder itself, without a file in it. Raises OSError if another process holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON atomically: equal values give equal bytes. NaN and infinities become null."""
    write_atomic(path, canonical(value))


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, one per line. NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), sort_keys=True, indent=1, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """The JSON value of a file.

    Raises:
        ValueError: the file is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged (not JSON: {error}); restore the file, or remove the store and extract again"
        ) from error
