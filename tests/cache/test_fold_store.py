"""A store of a split in folds shows each fold its own training, validation and test records."""

import numpy as np
import pytest
import torch
from tiny import tiny_cache, tiny_train

from pipeline.cache.errors import CacheMismatch
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import verify
from pipeline.training.setup import open_store


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    found = tiny_cache(tmp_path_factory.mktemp("folds"), split="folds", shard_records=3)
    extract(found)
    return found


@pytest.fixture(scope="module")
def store(config):
    return Store(config.store)


def test_every_image_is_tested_in_one_fold_and_validated_in_one(store):
    assert store.folds == 3
    for subset in ("val", "test"):
        tested = [record.digest for k in range(3) for record in store.of_fold(k).records[subset]]
        assert len(tested) == len(set(tested)) == 11


def test_no_group_is_on_two_sides_of_a_fold(store):
    for k in range(3):
        sides = [{r.group for r in records} for records in store.of_fold(k).records.values()]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
        assert sum(map(len, sides)) == 11


def test_training_records_have_all_views_and_evaluation_records_one(store):
    fold = store.of_fold(1)
    trained = {r.digest for r in fold.records["train"]}
    assert len(fold.records["train"]) == 2 * len(trained)
    assert {r.view.number for r in fold.records["test"]} == {0}
    assert fold.full_label(fold.records["val"][0]).shape == (72, 80)


def test_the_statistics_of_a_fold_are_those_of_its_training_records(store):
    fold = store.of_fold(2)
    values = [store.features(record, ["s8"])["s8"].flatten(1) for record in fold.records["train"]]
    every = torch.cat(values, 1).double()
    mean, std = fold.statistics()["s8"]
    np.testing.assert_allclose(mean, every.mean(1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(std, every.std(1, correction=0), rtol=1e-3, atol=1e-4)
    assert not torch.equal(mean, store.statistics()["s8"][0])


def test_it_is_verified_like_any_other(config):
    assert verify(config.store, records=6).ok


@pytest.mark.parametrize(
    ("fold", "message"), [(None, r"fold: expected one of 0 … 2 .*found none"), (3, r"fold: expected 0 … 2, found 3")]
)
def test_a_run_must_name_one_of_its_folds(config, tmp_path, fold, message):
    with pytest.raises(CacheMismatch, match=message):
        open_store(tiny_train(tmp_path, config, fold=fold))


def test_a_fold_of_a_store_without_folds_is_refused(cache, tmp_path):
    with pytest.raises(CacheMismatch, match=r"fold: expected none, found 0"):
        open_store(tiny_train(tmp_path, cache, fold=0))
