"""Adds path, cause and remedy to the OSErrors of a full or read-only disk, of stores and of run folders."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.cache.errors import KEPT, NotWritable

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EFBIG: "the file is larger than the limit set for files (ulimit -f)",
    errno.EACCES: "permission denied",
    errno.EPERM: "the operation is not permitted",
    errno.EROFS: "the file system is read-only",
}
FULL = (errno.ENOSPC, errno.EDQUOT)


class Remedies(NamedTuple):
    """What to do, by the kind of error.

    Attributes:
        full: the disk or the quota is full.
        limit: the file is larger than allowed.
    """

    full: str
    limit: str


OF_A_STORE = Remedies(
    "make room (`sward plan` estimates the size of the store, `sward prune` lists files it does not use), or choose a "
    "smaller codec or another folder",
    "raise the limit, or write smaller shards (shard_records)",
)
OF_A_RUN = Remedies("make room, or set `runs` to a folder on another disk", "raise the limit")


@contextmanager
def explain_disk_errors(path: Path, remedies: Remedies = OF_A_STORE) -> Iterator[None]:
    """Adds cause and remedy to the errors of writing the store (or run) at ``path``.

    Raises:
        NotWritable: in place of an OSError that means a full or read-only disk. Errors about files outside the store,
            such as an unreadable source, pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS or not concerns(error, path):
            raise
        where = error.filename or path
        raise NotWritable(
            error.errno, f"{REASONS[error.errno]}: {remedy(error.errno, path, remedies)}; {KEPT}", where
        ) from error


@contextmanager
def clear_tmp_on_disk_error(path: Path) -> Iterator[None]:
    """Removes tmp/ of the store at ``path`` if its disk cannot be written, to free space. The caller holds the lock."""
    try:
        yield
    except OSError as error:
        if error.errno in REASONS and concerns(error, path):
            shutil.rmtree(path / "tmp", ignore_errors=True)
        raise


def concerns(error: OSError, path: Path) -> bool:
    """Whether an error is about the store; so are errors without a file name, which calls on open files raise."""
    if error.filename is None:
        return True
    named, own = Path(str(error.filename)).absolute(), path.absolute()
    return named.is_relative_to(own) or own.is_relative_to(named)


def remedy(code: int, path: Path, remedies: Remedies = OF_A_STORE) -> str:
    """Remedy for an errno of ``REASONS``."""
    if code in FULL:
        free = shutil.disk_usage(existing(path)).free / 1e9
        return f"{free:.2f} GB are free there; {remedies.full}"
    if code == errno.EFBIG:
        return remedies.limit
    return "make the folder writable for this user, or choose another folder"


def existing(path: Path) -> Path:
    """The folder, or its nearest parent that exists: it lies on the store's disk."""
    path = path.absolute()
    return path if path.is_dir() else existing(path.parent)
