"""What a disk that cannot be written says to people: which path, why, what to do; and the room it leaves."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.cache.errors import NotWritable

KEPT = "what is finished is kept: the same command continues"
REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EFBIG: "the file is larger than the limit set for files (ulimit -f)",
    errno.EACCES: "permission denied",
    errno.EPERM: "the system does not permit it",
    errno.EROFS: "the file system is read-only",
}
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Give errors of writing the store at ``path`` a reason and a remedy.

    Raises:
        NotWritable: in place of an OSError that says the disk is full or may not be written. Errors about a file
            elsewhere (a source that may not be read) pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS or not concerns(error, path):
            raise
        where = error.filename or path
        raise NotWritable(error.errno, f"{REASONS[error.errno]}: {remedy(error.errno, path)}; {KEPT}", where) from error


@contextmanager
def clear_tmp_on_disk_error(path: Path) -> Iterator[None]:
    """While the lock of the store at ``path`` is held: where it cannot be written, what was in flight makes room."""
    try:
        yield
    except OSError as error:
        if error.errno in REASONS and concerns(error, path):
            shutil.rmtree(path / "tmp", ignore_errors=True)
        raise


def concerns(error: OSError, path: Path) -> bool:
    """Whether it is about the store: a call on an open file names none."""
    if error.filename is None:
        return True
    named, own = Path(str(error.filename)).absolute(), path.absolute()
    return named.is_relative_to(own) or own.is_relative_to(named)


def remedy(code: int, path: Path) -> str:
    if code in FULL:
        free = shutil.disk_usage(existing(path)).free / 1e9
        return (
            f"{free:.2f} GB are free there; make room (`sward plan` says how much it takes, `sward prune` what is left "
            "over), or choose a smaller codec or another place"
        )
    if code == errno.EFBIG:
        return "raise the limit, or write smaller shards (shard_records)"
    return "make the folder writable for this user, or choose another place"


def existing(path: Path) -> Path:
    """The nearest folder that exists: where the store's disk is."""
    path = path.absolute()
    return path if path.is_dir() else existing(path.parent)
