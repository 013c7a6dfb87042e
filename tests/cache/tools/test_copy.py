"""`sward copy`: a whole store or none, every byte checked."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tiny import HEAD, tiny_cache, tiny_train, tree

from pipeline.cache.errors import CacheMismatch, StoreDamaged, StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.copy import copy
from pipeline.cache.tools.verify import verify
from pipeline.cli import main
from pipeline.training.loop import train
from pipeline.training.teacher.append import append


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store of two generations with appended logits."""
    folder = tmp_path_factory.mktemp("source")
    extract(tiny_cache(folder))
    config = tiny_cache(folder, views={"count": 3, "seed": 0})
    extract(config)
    head = train(tiny_train(folder, config, head=HEAD).head_run())
    append(folder / "store.zarr", ("logits",), head)
    return folder / "store.zarr"


def content(store):
    return {name: data for name, data in tree(store).items() if name != ".lock"}


def test_a_copy_is_the_store_to_the_byte_appended_tensors_included(source, tmp_path):
    made = copy(source, tmp_path / "copy.zarr")
    assert content(made.path) == content(source)
    assert made.copied == made.bytes > 0
    assert Store(made.path).appended["channels"] == {"logits": 2}
    assert not verify(made.path, sources=False).problems


def test_a_second_time_it_checks_and_copies_nothing(source, tmp_path):
    copy(source, tmp_path / "copy.zarr")
    again = copy(source, tmp_path / "copy.zarr")
    assert (again.copied, again.bytes) == (0, copy(source, tmp_path / "other.zarr").copied)


def test_a_changed_file_of_the_copy_is_replaced(source, tmp_path):
    made = copy(source, tmp_path / "copy.zarr")
    shard = made.path / "train/s8/c/0/0/0/0"
    size = shard.stat().st_size
    shard.write_bytes(bytes(size))
    assert copy(source, made.path).copied == size
    assert content(made.path) == content(source)


def test_a_changed_file_of_the_source_stops_it_by_name(source, tmp_path):
    damaged = shutil.copytree(source, tmp_path / "damaged.zarr")
    shard = damaged / "train/s8/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[7] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreDamaged, match=r"damaged file: .*train/s8/c/0/0/0/0 \(crc32c"):
        copy(damaged, tmp_path / "copy.zarr")
    with pytest.raises(FileNotFoundError):
        Store(tmp_path / "copy.zarr")
    assert not (tmp_path / "copy.zarr/train/s8/c/0/0/0/0").exists()


class Torn(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("step", ["copy_checked", "copy_plans", "small_files"])
def test_a_torn_copy_is_no_store_and_is_continued(source, tmp_path, monkeypatch, step):
    target = tmp_path / "copy.zarr"

    def torn(*args):
        raise Torn

    with monkeypatch.context() as broken:
        broken.setattr(f"pipeline.cache.tools.copy.{step}", torn)
        with pytest.raises(Torn):
            copy(source, target)
    with pytest.raises(FileNotFoundError):
        Store(target)
    copy(source, target)
    assert content(target) == content(source)


def test_killed_at_any_instant_it_is_no_store_or_a_whole_one(source, tmp_path):
    target = tmp_path / "copy.zarr"
    code = (
        f"from pathlib import Path as P; from pipeline.cache.tools.copy import copy; copy(P('{source}'), P('{target}'))"
    )
    for wait in (0.0, 0.02, 0.05):
        child = subprocess.Popen([sys.executable, "-c", code])
        while child.poll() is None and not (target / "copying.json").exists():
            time.sleep(0.005)
        time.sleep(wait)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        if (target / "plan").exists():
            assert not verify(target, sources=False).problems
    copy(source, target)
    assert content(target) == content(source)


@pytest.mark.parametrize("other", ["a file", "another store"])
def test_a_folder_with_something_else_is_refused_and_left_alone(source, tmp_path, other):
    target = tmp_path / "tiny"
    if other == "a file":
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    else:
        target = extract(tiny_cache(tmp_path, views={"count": 1, "seed": 3})).path
    before = tree(target)
    with pytest.raises(CacheMismatch, match="holds something else"):
        copy(source, target)
    assert tree(target) == before


def test_an_incomplete_store_and_a_place_inside_it_are_refused(source, tmp_path):
    with pytest.raises(CacheMismatch, match="a folder of its own"):
        copy(source, source / "copy")
    incomplete = shutil.copytree(source, tmp_path / "incomplete.zarr")
    (incomplete / "receipts/train-00000.json").unlink()
    with pytest.raises(StoreIncomplete):
        copy(incomplete, tmp_path / "copy.zarr")


def test_the_command_says_what_it_copied(source, tmp_path, capsys):
    assert main(["copy", str(source), str(tmp_path / "copy.zarr")]) == 0
    assert "all checked" in capsys.readouterr().out
