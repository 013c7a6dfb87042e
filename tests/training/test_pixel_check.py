"""Images and labels are compared with their receipt when a run reads them for the first time."""

import json

import pytest
import torch
from tiny import tiny_cache

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.extraction.extract import extract
from pipeline.cache.manifest.sealed import write_sealed
from pipeline.cache.store import Store
from pipeline.training.batch_order import Order
from pipeline.training.pixel_check import PixelCheck
from pipeline.training.stream import Stream


@pytest.fixture
def path(tmp_path):
    return extract(tiny_cache(tmp_path)).path


def read_all(path, workers=0):
    store = Store(path)
    order = Order(store.records["train"], batch_size=4, seed=3)
    return list(Stream(store, order, (), torch.device("cpu"), workers).batches(0, 6))


@pytest.mark.parametrize("array", ["image", "label"])
@pytest.mark.parametrize("workers", [0, 2])
def test_two_shards_of_equal_size_that_were_exchanged_are_noticed(path, array, workers):
    one, other = (next(p for p in (path / f"train/{array}/c/{i}").rglob("*") if p.is_file()) for i in (0, 1))
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.raises(StoreDamaged, match=r"damaged record: .* of train/train-\d view \d .*sward verify"):
        read_all(path, workers)


def test_each_record_is_compared_once(path):
    store = Store(path)
    check, record = PixelCheck(store), store.records["train"][0]
    arrays = store.arrays(record, ("image", "label"))
    check.check(record, arrays)
    arrays["image"][:] ^= 1
    check.check(record, arrays)
    with pytest.raises(StoreDamaged):
        PixelCheck(store).check(record, arrays)


def test_receipts_of_earlier_versions_have_nothing_to_compare(path):
    for file in (path / "receipts").glob("*.json"):
        receipt = json.loads(file.read_bytes())
        del receipt["pixel_digests"]
        write_sealed(file, receipt)
    assert len(read_all(path)) == 6
