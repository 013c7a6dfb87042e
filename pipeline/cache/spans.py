"""Byte ranges of several files, as fast as the disk gives them.

The kernel reads a range in the middle of a file in small pieces, one after the other. So what is in memory is copied
first; the rest is asked of the disk for all files together, before any of it is waited for.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux
PIECE = 1 << 20  # bytes; of a longer request Linux takes only the beginning, as much as the device takes at once
UNKNOWN = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # file systems that cannot say what is in memory


@dataclass(frozen=True)
class Span:
    """``out`` is to hold the file's bytes from ``start`` on."""

    path: Path
    start: int
    out: memoryview


def read_spans(spans: Sequence[Span]) -> None:
    """Fill every span.

    Raises:
        EOFError: a file ends before its span does; its path.
        OSError: a file cannot be opened or read.
    """
    handles: list[int] = []
    try:
        for span in spans:
            handles.append(os.open(span.path, os.O_RDONLY))
        done = [in_memory(handle, span) for handle, span in zip(handles, spans, strict=True)]
        for handle, span, count in zip(handles, spans, done, strict=True):
            request(handle, span, count)
        for handle, span, count in zip(handles, spans, done, strict=True):
            finish(handle, span, count)
    finally:
        for handle in handles:
            os.close(handle)


def in_memory(handle: int, span: Span) -> int:
    """Bytes of the span, from its start on, that were read without waiting for the disk."""
    if not NOWAIT:
        return 0
    try:
        return os.preadv(handle, [span.out], span.start, NOWAIT)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno in UNKNOWN:
            return 0
        raise


def request(handle: int, span: Span, done: int) -> None:
    """Ask the disk for what is missing, without waiting."""
    if not hasattr(os, "posix_fadvise"):
        return
    for at in range(done, len(span.out), PIECE):
        os.posix_fadvise(handle, span.start + at, min(PIECE, len(span.out) - at), os.POSIX_FADV_WILLNEED)


def finish(handle: int, span: Span, done: int) -> None:
    """Read what is missing."""
    while done < len(span.out):
        count = os.preadv(handle, [span.out[done:]], span.start + done)
        if count == 0:
            raise EOFError(span.path)
        done += count
