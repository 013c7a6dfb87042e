"""Ranges of several files: right whatever lies in memory, and the disk is asked for all before any is awaited."""

import errno
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.storage.disk_ranges import PIECE, File, Span, read_spans

STARTS, SIZE = (0, 4096, 12_345), 300_000


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for seed, path in enumerate(paths):
        path.write_bytes(np.random.default_rng(seed).bytes(400_000))
    return paths


def read(files):
    buffers = [np.empty(SIZE, np.uint8) for _ in files]
    read_spans([Span(File(f), start, b.data.cast("B")) for f, start, b in zip(files, STARTS, buffers, strict=True)])
    return [b.tobytes() for b in buffers]


def expected(files):
    return [file.read_bytes()[start : start + SIZE] for file, start in zip(files, STARTS, strict=True)]


def test_bytes_in_memory_and_bytes_on_the_disk_are_those_of_the_files(files):
    right = expected(files)
    assert read(files) == right
    with files[1].open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert read(files) == right


def fail(number):
    def preadv(*args):
        raise OSError(number, os.strerror(number))

    return preadv


usual = os.preadv
KERNELS = {
    "nothing is in memory": fail(errno.EAGAIN),
    "the file system cannot say": fail(errno.EOPNOTSUPP),
    "a part is in memory": lambda handle, buffers, start: usual(handle, [buffers[0][:1000]], start),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_could_not_be_read_at_once_is_read_in_the_end(files, monkeypatch, kernel):
    at_once = lambda handle, buffers, start, flags=0: (KERNELS[kernel] if flags else usual)(handle, buffers, start)  # noqa: E731
    monkeypatch.setattr(os, "preadv", at_once)
    assert read(files) == expected(files)


def test_the_disk_is_asked_for_all_files_before_any_is_waited_for(files, monkeypatch):
    happened, advise, read_rest = [], os.posix_fadvise, File.read
    monkeypatch.setattr(File, "in_memory", lambda file, start, out: 7)
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: (happened.append(args[1:]), advise(*args)))
    monkeypatch.setattr(File, "read", lambda *args: (happened.append("wait"), read_rest(*args)))
    read(files)
    pieces = [(start + 7, PIECE, start + 7 + PIECE, SIZE - 7 - PIECE) for start in STARTS]
    asked = [(*piece, os.POSIX_FADV_WILLNEED) for a, n, b, m in pieces for piece in ((a, n), (b, m))]
    assert happened == [*asked, "wait", "wait", "wait"]


def test_only_what_is_not_in_memory_is_asked_for_ahead(files, monkeypatch):
    asked, file = [], File(files[0])
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, *args: asked.append(args))
    monkeypatch.setattr(File, "in_memory", lambda file, start, out: 1)
    file.request_unread(4096, SIZE)
    assert asked == []
    monkeypatch.setattr(File, "in_memory", lambda file, start, out: 0)
    file.request_unread(4096, SIZE)
    assert [end - start for start, end in pairwise(a for a, _, _ in asked)] == [PIECE]
    assert sum(n for _, n, _ in asked) == SIZE


def test_an_error_of_the_disk_is_raised(files, monkeypatch):
    monkeypatch.setattr(os, "preadv", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        read(files)


def test_a_file_that_ends_early_is_named_and_no_file_stays_open(files):
    before = len(list(Path("/proc/self/fd").iterdir()))
    files[2].write_bytes(b"short")
    with pytest.raises(EOFError, match=str(files[2])):
        read(files)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
