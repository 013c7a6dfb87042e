"""A store that is moved, made read-only, written by two at once, or read by eight while it grows."""

import os
import shutil
import subprocess
import sys
import time
import zlib
from contextlib import suppress

import pytest
import torch
from faults import CONTEXT, Scene, cache, content, readable
from tiny import tiny_train, tree

from pipeline.cache.errors import StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.inspect import inspect
from pipeline.cache.tools.verify import verify
from pipeline.files import Busy
from pipeline.training.loop import train

BUSY, READERS = 75, 8


def extract_at_once(place, ready):
    """Body of one of two extractors; its exit status says whether it did the work or was refused."""
    torch.set_num_threads(1)
    ready.wait()
    try:
        extract(cache(place, views=2))
    except Busy as refusal:
        named = str(place / "store.zarr") in str(refusal) and "wait for it, or stop it" in str(refusal)
        sys.exit(BUSY if named else 1)


def test_of_two_extractors_started_at_once_one_works_and_the_other_is_refused_or_finds_it_done(tmp_path):
    scene = Scene(tmp_path, "extraction")
    for _ in range(2):
        ready = CONTEXT.Barrier(2)
        both = [CONTEXT.Process(target=extract_at_once, args=(tmp_path, ready)) for _ in range(2)]
        for child in both:
            child.start()
        for child in both:
            child.join()
        assert sorted(child.exitcode for child in both) in ([0, 0], [0, BUSY])
        assert content(scene.target) == scene.whole
        scene.reset()


@pytest.fixture
def read_only(tmp_path):
    """A whole store at a place where nothing can be written."""
    scene = Scene(tmp_path / "scene", "extraction")
    scene.complete()
    place = tmp_path / "elsewhere"
    scene.target.rename(place)
    if os.geteuid():
        subprocess.run(["chmod", "-R", "a-w", place], check=True)
        yield scene, place
        subprocess.run(["chmod", "-R", "u+w", place], check=True)
        return
    commands = [["mount", "--bind", place, place], ["mount", "-o", "remount,bind,ro", place]]
    if any(subprocess.run(command, capture_output=True).returncode for command in commands):
        pytest.skip("root may write everywhere, and no file system can be mounted read-only here")
    yield scene, place
    subprocess.run(["umount", place], check=True)


def test_a_store_that_was_moved_and_made_read_only_opens_verifies_and_trains(read_only, tmp_path):
    scene, place = read_only
    before = tree(place)
    with pytest.raises(OSError, match=r"Read-only|Permission"):
        (place / "file").write_text("")
    assert readable(Store(place)) == scene.right
    assert inspect(place)["complete"]
    assert verify(place, records=2).problems == []
    moved = cache(scene.place, views=2, store=str(place))
    assert (train(tiny_train(tmp_path, moved, steps=2)) / "run.json").is_file()
    assert tree(place) == before


def read_on(path, right, ready, stop):
    """Body of a reader: what it opened before stays readable, what it opens later is refused or right."""
    early = Store(path)
    ready.release()
    while not stop.is_set():
        assert_part(early, right)
        with suppress(StoreIncomplete):
            assert_part(Store(path), right)
        assert_part(Store(path, partial=True), right)
    assert_part(early, right)
    assert len(readable(Store(path))) == len(right)


def assert_part(store, right):
    assert {key: zlib.crc32(data) for key, data in readable(store).items()}.items() <= right.items()


def test_eight_readers_of_a_growing_store_read_nothing_but_what_is_right(tmp_path):
    scene = Scene(tmp_path, "extension")
    right = {key: zlib.crc32(data) for key, data in scene.right.items()}
    ready, stop = CONTEXT.Semaphore(0), CONTEXT.Event()
    readers = [CONTEXT.Process(target=read_on, args=(scene.target, right, ready, stop)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    for _ in readers:
        assert ready.acquire(timeout=60)
    scene.complete()
    time.sleep(0.1)
    stop.set()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0] * READERS
    assert content(scene.target) == scene.whole


def test_a_renamed_store_is_continued_at_its_new_place(tmp_path):
    scene = Scene(tmp_path, "extension")
    moved = shutil.move(scene.target, tmp_path / "renamed.zarr")
    extract(cache(tmp_path, views=2, store=str(moved)))
    assert readable(Store(moved)) == scene.right
