"""A store of every codec: extracted, verified against the teacher, read by others, streamed."""

import numpy as np
import pytest
import tensorstore
import torch
import zarr
from tiny import tiny_cache

from pipeline.cache.extraction.extract import extract
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import verify
from pipeline.training.batch_order import Order
from pipeline.training.stream import Stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("codecs")


@pytest.fixture(params=CODECS)
def store(request, folder):
    config = tiny_cache(folder, codec={"kind": request.param}, store=str(folder / f"{request.param}.zarr"))
    if not (folder / f"{request.param}.zarr").exists():
        extract(config)
    return Store(config.store)


def test_its_features_are_the_teachers_within_the_codecs_tolerance(store):
    found = verify(store.path, records=4)
    assert found.ok, found.problems
    assert all(error <= store.codec.tolerance for _, error in found.levels.values())


def test_zarr_and_tensorstore_read_the_bytes_that_we_read(store):
    record = store.records["train"][5]
    for name, (shape, dtype) in store.specs("train").items():
        ours = np.empty(shape, dtype)
        store.read(record, {name: ours})
        path = store.path / "train" / name
        assert np.array_equal(zarr.open_array(path, mode="r")[record.row], ours)
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
        assert np.array_equal(tensorstore.open(spec).result()[record.row].read().result(), ours)


def test_what_the_bytes_mean_is_said_where_their_type_does_not(store):
    attributes = zarr.open_array(store.path / "train" / "s8", mode="r").attrs.asdict()
    assert attributes == store.codec.attributes


def test_the_stream_gives_the_same_maps_as_the_store(store):
    records = store.records["train"][:3]
    stream = Stream(store, Order(tuple(records), 3, 0), ("s4", "s32"), torch.device("cpu"))
    batch = stream.batch_of(records)
    for i, record in enumerate(records):
        alone = store.features(record, ["s4", "s32"])
        assert all(torch.equal(batch.features[level][i], alone[level]) for level in alone)
