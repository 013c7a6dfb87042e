"""Others open our stores by name and read the same values: zarr-python, tensorstore, xarray and dask."""

import dask.array
import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from tiny import tiny_cache

from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.repack import repack


@pytest.fixture(scope="module", params=["fp16", "int4", "repacked", "zstd"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interop")
    if request.param == "repacked":
        return Store(repack(extract(tiny_cache(folder)).path, folder / "out.zarr", codec="int6", shard_records=5).path)
    if request.param == "zstd":
        return Store(extract(tiny_cache(folder, codec={"kind": "int8"}, compression="zstd")).path)
    return Store(extract(tiny_cache(folder, codec={"kind": request.param})).path)


def by_zarr(path, subset, name):
    return np.asarray(zarr.open_group(path, mode="r")[f"{subset}/{name}"][:])


def by_tensorstore(path, subset, name):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / subset / name)}}
    return np.asarray(tensorstore.open(spec).result().read().result())


def by_xarray(path, subset, name):
    return opened(path, subset)[name].values


def by_dask(path, subset, name):
    return dask.array.from_zarr(str(path / subset / name))[:].compute(scheduler="synchronous")


def opened(path, subset):
    """A subset as a dataset."""
    return xarray.open_zarr(path, group=subset, consolidated=False, chunks=None)


@pytest.mark.parametrize("read", [by_zarr, by_tensorstore, by_xarray, by_dask])
def test_it_reads_the_values_that_our_reader_reads(store, read):
    for name, spec in store.specs("train").items():
        theirs = read(store.path, "train", name)
        for record in store.records["train"]:
            ours = np.empty(*spec)
            store.read(record, {name: ours})
            assert np.array_equal(theirs[record.row], ours), (name, record.title)


def test_xarray_opens_each_subset_as_one_dataset(store):
    for subset, records in store.records.items():
        found = opened(store.path, subset)
        assert set(found.data_vars) == set(store.specs(subset))
        assert found.sizes["record"] == len(records)
        assert found["s4"].dims[0] == found["image"].dims[0] == "record"
