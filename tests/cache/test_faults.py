"""Whatever writes a store may be killed at any instant, or run out of disk: nothing is lost, nothing wrong is read."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from faults import OPERATIONS, Scene, killed_after, killed_at_call, killed_at_write

from pipeline.cache.errors import NotWritable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
every_operation = pytest.mark.parametrize("name", OPERATIONS)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes by operation, made when first asked for; in memory where that is possible, for the syncs' sake."""
    memory = Path("/dev/shm")
    place = tempfile.mkdtemp(dir=memory) if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("scenes")
    made = {}

    def scene(name):
        made[name] = made.get(name) or Scene(Path(place) / name, name)
        return made[name]

    yield scene
    shutil.rmtree(place)


@every_operation
def test_killed_after_a_sync_a_rename_or_a_write_it_is_continued_to_the_same_bytes(scenes, name):
    """A few of the boundaries; all of them in the slow test."""
    scene, rng = scenes(name), np.random.default_rng(len(name))
    for body, low, high in ((killed_at_call, 1, 6), (killed_at_call, 7, 20), (killed_at_write, 1, 8)):
        if scene.dies(body, int(rng.integers(low, high))):
            scene.check()
        else:
            assert name == "copying", "fewer boundaries than expected"
            scene.reset()


@every_operation
@pytest.mark.slow
@pytest.mark.parametrize("body", [killed_at_call, killed_at_write])
def test_killed_at_every_single_boundary_it_is_continued_to_the_same_bytes(scenes, name, body):
    scene, number = scenes(name), 1
    while scene.dies(body, number):
        scene.check()
        number += 1
    scene.reset()
    assert number > 3 or (name, body) == ("copying", killed_at_write)  # a copy writes no shard anew
    print(f"{name}, {body.__name__}: {number - 1} kills")


@every_operation
@pytest.mark.slow
def test_killed_at_twenty_random_instants_it_is_continued_to_the_same_bytes(scenes, name):
    """A hundred over all operations."""
    scene, rng, kills = scenes(name), np.random.default_rng(1), 0
    began = time.monotonic()
    assert not scene.dies(killed_after, 60.0)
    whole = time.monotonic() - began  # with the child's start: instants after its end are drawn again
    scene.reset()
    while kills < 20:
        if scene.dies(killed_after, float(rng.uniform(0, whole))):
            scene.check()
            kills += 1
        scene.reset()


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of 64 MB, where one can be mounted."""
    place = tmp_path_factory.mktemp("small")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@needs_root
@every_operation
def test_on_a_disk_that_fills_up_it_stops_with_the_remedy_and_is_continued_to_the_same_bytes(small_disk, name):
    scene = Scene(small_disk / name, name)
    before = shutil.disk_usage(small_disk).used
    scene.complete()
    grown = shutil.disk_usage(small_disk).used - before
    scene.reset()
    for part in (0.0, 0.3, 0.6, 0.9):
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - int(part * grown)))
        with pytest.raises(
            NotWritable, match=r"the disk is full: .* make room .* the same command continues"
        ) as raised:
            scene.complete()
        assert str(small_disk) in str(raised.value)
        ballast.unlink()
        scene.check()
    shutil.rmtree(small_disk / name)
