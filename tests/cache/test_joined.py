"""Joined stores are read like one: every record's arrays come from the store of their teacher."""

import re

import numpy as np
import pytest
import torch
from joined import HIERA, VIT, two_caches

from pipeline.cache.errors import CacheMismatch
from pipeline.cache.extraction.extract import extract
from pipeline.cache.joined import JoinedStore
from pipeline.cache.store import Store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The second has grown, so its rows are others; its shards and codec are its own."""
    folder = tmp_path_factory.mktemp("two")
    first, second = two_caches(folder, shard_records=3, codec={"kind": "int8"}, mean=(0.5, 0.5, 0.5))
    extract(first)
    for count in (1, 2):
        extract(second.model_copy(update={"views": second.views.model_copy(update={"count": count})}))
    return {HIERA: Store(first.store), VIT: Store(second.store)}


def test_every_level_is_read_from_its_teachers_store_and_pixels_from_the_first(stores):
    both, rows = JoinedStore(stores), {}
    assert list(both.channels) == [f"{n}:{level}" for n, s in stores.items() for level in s.channels]
    for subset, records in both.records.items():
        for record in records:
            for name, store in stores.items():
                own = next(r for r in store.records[subset] if r.name == record.name)
                rows.setdefault(name, []).append(own.row)
                for level, f in store.features(own).items():
                    assert torch.equal(both.features(record, [f"{name}:{level}"])[f"{name}:{level}"], f)
            pixels = both.arrays(record, ("image", "label"))
            for name, array in stores[HIERA].arrays(record, ("image", "label")).items():
                assert np.array_equal(pixels[name], array)
            assert both.arrays(record).keys() == both.specs(subset).keys()
    assert rows[HIERA] != rows[VIT]  # the test would see records matched by row
    assert both.normalisation == stores[HIERA].normalisation != stores[VIT].normalisation


def test_each_teacher_keeps_its_own_statistics(stores):
    found = JoinedStore(stores).statistics()
    for name, store in stores.items():
        for level, (mean, std) in store.statistics().items():
            assert torch.equal(found[f"{name}:{level}"][0], mean)
            assert torch.equal(found[f"{name}:{level}"][1], std)


def test_a_missing_level_is_answered_with_those_there_are(stores):
    with pytest.raises(KeyError, match=f"have no level s4; they have {HIERA}:s4, "):
        JoinedStore(stores).level_arrays("s4")


def test_the_content_is_that_of_all_stores_in_their_order(stores):
    one = JoinedStore(stores)
    assert one.content_id == JoinedStore(stores).content_id
    assert one.content_id not in [store.content_id for store in stores.values()]
    assert one.content_id != JoinedStore(dict(reversed(stores.items()))).content_id


def test_a_fold_is_that_of_every_store(tmp_path):
    stores = {}
    for name, config in zip((HIERA, VIT), two_caches(tmp_path), strict=True):
        folds = config.model_copy(update={"split": "folds", "store": f"{config.store}.folds"})
        extract(folds)
        stores[name] = Store(folds.store)
    both = JoinedStore(stores).of_fold(1)
    assert both.folds == 3
    for name, store in stores.items():
        own = store.of_fold(1)
        assert {k: [r.name for r in v] for k, v in both.records.items()} == {
            k: [r.name for r in v] for k, v in own.records.items()
        }
        for level, (mean, _) in own.statistics().items():
            assert torch.equal(both.statistics()[f"{name}:{level}"][0], mean)
            assert not torch.equal(store.statistics()[level][0], mean)


@pytest.mark.parametrize(
    ("views", "lines"),
    [
        ({"count": 2, "seed": 1}, (r"views\.seed: 0 and 1", r"train/train-0 view 1: view\.\w+ \S+ and ")),
        ({"count": 1, "seed": 0}, (r"views\.count: 2 and 1", r"train/train-0 view 1: in \S+store\.zarr alone")),
        ({"count": 2, "seed": 0, "hflip": False}, (r"views\.hflip: True and False", "train/train-")),
    ],
    ids=["another seed", "fewer views", "other flips"],
)
def test_other_views_are_refused_by_field_and_the_first_one_is_named(stores, tmp_path, views, lines):
    other = two_caches(stores[HIERA].path.parent, views=views)[1].model_copy(update={"store": str(tmp_path / "o.zarr")})
    extract(other)
    with pytest.raises(CacheMismatch, match=r"cannot be joined, their views differ:\n") as raised:
        JoinedStore({HIERA: stores[HIERA], VIT: Store(other.store)})
    for line in lines:
        assert re.search(rf"^  {line}", str(raised.value), re.MULTILINE), raised.value
    assert "Extract them with the same dataset" in str(raised.value)
    assert len(set(re.findall(r"^  (\S+ view \d+):", str(raised.value), re.MULTILINE))) == 1
