"""Folder of `sward plan` for files that are only measured: it asks for room first, and sweeps what a kill left."""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.cache.errors import NotWritable
from pipeline.cache.storage.disk_errors import explain_disk_errors
from pipeline.files import locked

PREFIX = ".sward-plan-"


@contextmanager
def scratch_folder(folder: Path, size: int) -> Iterator[Path]:
    """Yields an empty folder under ``folder`` for files of ``size`` bytes; it is removed afterwards.

    Raises:
        NotWritable: ``folder`` cannot be written, or its disk has no room for twice the size.
    """
    sweep(folder)
    if (free := shutil.disk_usage(folder).free) < 2 * size:
        raise NotWritable(
            errno.ENOSPC,
            f"the disk is full, too little room to measure the disk: {free / 1e9:.2f} GB are free there, "
            f"{2 * size / 1e9:.2f} GB are wanted; make room, or set store to a folder on another disk",
            folder,
        )
    with (
        explain_disk_errors(folder),
        tempfile.TemporaryDirectory(dir=folder, prefix=PREFIX) as place,
        locked(Path(place)),
    ):
        yield Path(place)


def sweep(folder: Path) -> None:
    """Removes the folders of plans that were killed: nobody holds their locks."""
    for left in folder.glob(f"{PREFIX}*"):
        with suppress(OSError), locked(left):  # another plan is at work there, or this user may not
            shutil.rmtree(left, ignore_errors=True)
