"""Folds keep groups whole, are about equally large, and do not depend on order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_dataset

from pipeline.datasets import load_dataset
from pipeline.datasets.card import read_card
from pipeline.datasets.folds import assign_folds
from pipeline.datasets.split_rules import Folds

GROUPS = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.sampled_from("uvwxyz"), min_size=1, max_size=30)


@given(groups=GROUPS, count=st.integers(3, 5))
def test_a_group_is_never_divided(groups, count):
    folds = assign_folds(groups, Folds(count=count))
    assert folds.keys() == groups.keys()
    assert set(folds.values()) <= set(range(count))
    assert all(folds[a] == folds[b] for a in groups for b in groups if groups[a] == groups[b])


@given(groups=GROUPS, count=st.integers(3, 5))
def test_the_folds_differ_by_no_more_than_the_largest_group(groups, count):
    folds = list(assign_folds(groups, Folds(count=count)).values())
    sizes = [folds.count(k) for k in range(count)]
    largest = max(list(groups.values()).count(name) for name in groups.values())
    assert max(sizes) - min(sizes) <= largest


@given(groups=GROUPS)
def test_they_do_not_depend_on_the_order_of_the_ids(groups):
    rule = Folds(count=4)
    assert assign_folds(groups, rule) == assign_folds(dict(reversed(groups.items())), rule)


def test_another_seed_deals_images_of_one_size_otherwise():
    groups = {f"i{n}": f"i{n}" for n in range(20)}
    assert assign_folds(groups, Folds(seed=0)) != assign_folds(groups, Folds(seed=1))


def test_every_image_stands_once_for_training_views_and_once_for_its_evaluation_view(tmp_path):
    dataset = load_dataset(tiny_dataset(tmp_path / "tiny"), "folds")
    by_subset = {s: {(x.id, x.fold) for x in dataset.samples if x.subset == s} for s in ("train", "val", "test")}
    assert by_subset["train"] == by_subset["test"]
    assert len(by_subset["train"]) == 11
    assert not by_subset["val"]
    assert {fold for _, fold in by_subset["train"]} == {0, 1, 2}


@pytest.mark.parametrize("name", ["cvc-clinicdb", "cvc-colondb"])
def test_the_shipped_cards_have_folds_by_sequence(name):
    rule = read_card(name).splits["folds"]
    assert (rule.kind, rule.count, rule.by) == ("folds", 5, "sequence")


@pytest.mark.real
def test_no_sequence_of_clinicdb_lies_in_two_folds(shared, monkeypatch):
    monkeypatch.setenv("SWARD_DATA", str(shared / "datasets"))
    samples = load_dataset("cvc-clinicdb", "folds").samples
    folds = {s.group: {x.fold for x in samples if x.group == s.group} for s in samples}
    assert len(folds) == 29
    assert all(len(found) == 1 for found in folds.values())
