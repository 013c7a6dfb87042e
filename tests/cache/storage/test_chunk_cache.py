"""The read-through cache: what it gives is what was put, it stays below its limit, and nothing torn is ever read."""

import multiprocessing
import os
import time

import numpy as np
import pytest

from pipeline.cache.storage.chunk_cache import ChunkCache, found, key

CONTEXT = multiprocessing.get_context("forkserver")


def chunk(number, size=1000):
    return np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)


def read(cache, number, size=1000):
    out = np.empty(size, np.uint8)
    return out if cache.read(key(number), out) else None


def used(folder):
    return sum(size for _, size, _ in found(folder))


def test_what_was_put_comes_back_whatever_its_type_and_shape(tmp_path):
    cache, array = ChunkCache(tmp_path, 10**6), np.random.default_rng(0).random((3, 4, 5)).astype("float16")
    cache.write("ab12", memoryview(array).cast("B"))
    out = np.empty_like(array)
    assert cache.read("ab12", out)
    assert out.tobytes() == array.tobytes()
    assert not cache.read("ab34", out)


@pytest.mark.parametrize("harm", ["torn", "flipped", "longer", "of another size", "empty"])
def test_a_harmed_file_is_never_read_and_goes(tmp_path, harm):
    cache = ChunkCache(tmp_path, 10**6)
    cache.write(key(1), chunk(1))
    ((_, _, path),) = found(tmp_path)
    data = bytearray(path.read_bytes())
    changed = {"torn": data[:-5], "longer": data + b"x", "of another size": data[1:], "empty": b""}
    data[17] ^= 1
    path.write_bytes(changed.get(harm, data))
    assert read(cache, 1) is None
    assert not path.exists()
    cache.write(key(1), chunk(1))
    assert np.array_equal(read(cache, 1), chunk(1))


def test_the_least_recently_read_go_first_and_the_limit_holds(tmp_path):
    cache = ChunkCache(tmp_path, 10 * 1004)
    for number in range(10):
        cache.write(key(number), chunk(number))
        ((_, _, path),) = [f for f in found(tmp_path) if f[2] == cache._path(key(number))]
        os.utime(path, (time.time() - 100 + number,) * 2)
    assert np.array_equal(read(cache, 0), chunk(0))  # the oldest, but just read
    for number in range(10, 13):
        cache.write(key(number), chunk(number))
        assert used(tmp_path) <= 10 * 1004
    kept = {number for number in range(13) if read(cache, number) is not None}
    assert {0, 10, 11, 12} <= kept
    assert not {1, 2} & kept


def test_a_chunk_larger_than_the_limit_and_a_limit_of_nothing_keep_nothing(tmp_path):
    for limit in (0, 500):
        ChunkCache(tmp_path, limit).write(key(1), chunk(1))
    assert not found(tmp_path)


def test_what_a_kill_left_behind_goes_when_room_is_made(tmp_path):
    left = tmp_path / "ab" / ".cd.1.2.partial"
    left.parent.mkdir()
    left.write_bytes(b"torn")
    os.utime(left, (1, 1))
    ChunkCache(tmp_path, 10**6).write(key(1), chunk(1))
    assert not left.exists()


def test_a_disk_that_takes_nothing_is_said_once_and_reading_goes_on(tmp_path, capsys, monkeypatch):
    cache = ChunkCache(tmp_path, 10**6)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    for number in range(3):
        cache.write(key(number), chunk(number))
    said = capsys.readouterr().err
    assert said.count("No space left on device; reading on without a cache") == 1
    assert not found(tmp_path)


def churn(folder, start):
    """Body of a process: writes and reads chunks that others write, read and evict too."""
    cache = ChunkCache(folder, 40 * 1004)
    for step in range(60):
        number = (start + step * 7) % 100
        got = read(cache, number)
        assert got is None or np.array_equal(got, chunk(number))
        if got is None:
            cache.write(key(number), chunk(number))


def test_processes_share_it(tmp_path):
    children = [CONTEXT.Process(target=churn, args=(tmp_path, start)) for start in (0, 31, 62)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert used(tmp_path) <= 40 * 1004 * (1 + 3 / 32) + 3 * 1004


def test_who_was_told_no_limit_adds_where_there_is_room_and_removes_nothing(tmp_path):
    run = ChunkCache(tmp_path, 40 * 1004)
    for number in range(30):
        run.write(key(number), chunk(number))
    passing = ChunkCache(tmp_path, 10 * 1004, evicts=False)
    passing.write(key(99), chunk(99))
    assert len(found(tmp_path)) == 30
    roomy = ChunkCache(tmp_path, 60 * 1004, evicts=False)
    for number in range(100, 140):
        roomy.write(key(number), chunk(number))
    assert len(found(tmp_path)) == 60
    assert all(run.read(key(number), np.empty(1000, np.uint8)) for number in range(30))


def test_a_folder_that_cannot_be_used_is_gone_without(tmp_path, capsys):
    (tmp_path / "file").touch()
    cache = ChunkCache(tmp_path / "file" / "chunks", 10**6)
    cache.write(key(1), chunk(1))
    assert not cache.read(key(1), np.empty(1000, np.uint8))
    assert "reading on without a cache" in capsys.readouterr().err
