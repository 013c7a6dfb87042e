"""A disk that is full, or may not be written: a clear message, and a store that the same command completes."""

import errno
import os
import subprocess

import pytest
from tiny import tiny_cache, tree

from pipeline.cache.errors import NotWritable, StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.format.shards import ShardWriter
from pipeline.cache.storage.disk_errors import explain_disk_errors
from pipeline.cache.store import Store
from pipeline.cost_estimates.calibration import measure_disk

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere: permissions stop nobody")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where one can be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@needs_root
def test_a_full_disk_is_named_with_its_remedy_and_the_same_command_continues(small_disk, tmp_path):
    config = tiny_cache(tmp_path, store=str(small_disk / "store.zarr"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    with pytest.raises(NotWritable, match=r"the disk is full: .* make room .* the same command continues") as raised:
        extract(config)
    assert str(small_disk) in str(raised.value)
    with pytest.raises(StoreIncomplete):
        Store(config.store)
    assert not (small_disk / "store.zarr/tmp").exists()
    kept = len(Store(config.store, partial=True).receipts)
    assert kept > 0
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    assert extract(config).computed < 17
    assert len(Store(config.store).records["train"]) == 12


@needs_root
def test_a_read_only_file_system_is_named(small_disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(NotWritable, match="read-only: make the folder writable") as raised:
        extract(tiny_cache(tmp_path, store=str(small_disk / "store.zarr")))
    assert str(small_disk / "store.zarr") in str(raised.value)


@needs_user
def test_a_folder_of_somebody_else_is_named(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(NotWritable, match="permission denied: make the folder writable"):
        extract(tiny_cache(tmp_path, store=str(locked / "store.zarr")))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, a teacher and a whole store."""
    folder = tmp_path_factory.mktemp("whole")
    extract(tiny_cache(folder))
    return folder


@pytest.mark.parametrize("call", ["append", "close"])
def test_an_error_at_any_write_leaves_whole_shards_alone_and_is_made_up_for(place, tmp_path, monkeypatch, call):
    """Also where no small disk can be mounted: the 30th write of a shard, or its sync, fails as on a full disk."""
    config = tiny_cache(place, store=str(tmp_path / "store.zarr"))
    usual, calls = getattr(ShardWriter, call), []

    def full(self, *args):
        calls.append(call)
        if len(calls) == 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return usual(self, *args)

    with monkeypatch.context() as broken:
        broken.setattr(ShardWriter, call, full)
        with pytest.raises(NotWritable, match="the disk is full"):
            extract(config)
    assert Store(config.store, partial=True).missing
    extract(config)
    a, b = (tree(folder / "store.zarr") for folder in (tmp_path, place))
    assert {n: c for n, c in a.items() if "/c/" in n} == {n: c for n, c in b.items() if "/c/" in n}


def test_what_a_kill_before_the_first_plan_leaves_is_no_obstacle(place, tmp_path):
    (tmp_path / "store.zarr/plan").mkdir(parents=True)
    (tmp_path / "store.zarr/plan/.0000.json.77.partial").write_text("{")
    assert extract(tiny_cache(place, store=str(tmp_path / "store.zarr"))).computed == 17


def test_an_error_about_another_file_is_not_blamed_on_the_store(tmp_path):
    error = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/image.png")
    with (
        pytest.raises(PermissionError, match=r"/elsewhere/image\.png") as raised,
        explain_disk_errors(tmp_path / "store.zarr"),
    ):
        raise error
    assert raised.value is error


@needs_root
def test_a_disk_too_full_to_be_measured_keeps_what_others_have_there(small_disk):
    (small_disk / "tmp").mkdir()
    (small_disk / "tmp/thesis").write_bytes(bytes(900_000))
    with pytest.raises(NotWritable, match="the disk is full"):
        measure_disk(small_disk, {"fp16": [1 << 20]}, 1)
    assert [p.name for p in small_disk.rglob("*")] == ["tmp", "thesis"]
