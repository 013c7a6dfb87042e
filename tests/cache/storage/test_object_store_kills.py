"""Killed while it writes to a URL, or two at once: the same objects in the end, to the byte."""

import os
import signal

import pytest
import torch
from faults import CONTEXT, cache
from s3server import environment, objects, serving, without_place
from tiny import extract_quietly, tree

from pipeline.cache.errors import StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.paths import read_path


def extract_with(variables, config):
    """Body of a child process."""
    os.environ.update(variables)
    extract_quietly(config)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """(folder, door, variables of the environment, the objects that belong to any store of this configuration)."""
    place = tmp_path_factory.mktemp("kills")
    with serving() as (url, door), pytest.MonkeyPatch.context() as patch:
        variables = environment(url) | {"SWARD_CACHE": str(place / "sward-cache")}
        for name, value in variables.items():
            patch.setenv(name, value)
        torch.set_num_threads(1)
        extract(cache(place, views=2))
        yield place, door, variables, without_place(tree(place / "store.zarr"))


SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (1, 30, 31, 37, 38, 45)]


@pytest.mark.parametrize("number", [9, 36, *SLOW])
def test_killed_at_any_request_that_writes_it_continues_to_the_same_objects(scene, number):
    place, door, variables, right = scene
    url = f"s3://features/killed-{number}.zarr"
    config = cache(place, views=2, store=url)
    child, writes = CONTEXT.Process(target=extract_with, args=(variables, config)), []

    def kill(method, path):
        writes.append(path) if method == "PUT" else None
        if len(writes) == number and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)

    door.watch = kill
    child.start()
    child.join()
    door.watch = lambda *_: None
    assert child.exitcode == -signal.SIGKILL
    left = without_place(objects(url))
    if "plan/0000.json" in left:
        with pytest.raises(StoreIncomplete):
            Store(read_path(url))
    receipts = [name for name in left if name.startswith("receipts/")]
    assert {name: right[name] for name in receipts} == {name: left[name] for name in receipts}
    assert len(Store(read_path(url), partial=True).receipts if "plan/0000.json" in left else []) == len(receipts)
    computed = extract(config).computed
    assert computed > 0
    assert without_place(objects(url)) == right


def test_two_machines_extracting_one_store_at_once_do_no_harm(scene, tmp_path):
    place, door, variables, right = scene
    url = "s3://features/two.zarr"
    children = [
        CONTEXT.Process(target=extract_with, args=(variables | {"SWARD_CACHE": str(tmp_path / name)}, config))
        for name in ("one", "other")
        for config in [cache(place, views=2, store=url)]
    ]
    door.share = 0.05
    for child in children:
        child.start()
    for child in children:
        child.join()
    door.share = 0.0
    assert [child.exitcode for child in children] == [0, 0]
    assert without_place(objects(url)) == right
