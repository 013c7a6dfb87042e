"""The labelled part of the images: nested, the same in every order, whole sequences on request."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.inputs.labels import LabelsConfig, labelled_part

IDS = [f"frame-{n:03d}" for n in range(200)]
SEQUENCES = {i: f"video {int(i[-3:]) // 12}" for i in IDS}


def part(fraction, by="image", ids=IDS, seed=0):
    return labelled_part(LabelsConfig(fraction=fraction, by=by, seed=seed), ids, SEQUENCES)


@pytest.mark.parametrize("by", ["image", "sequence"])
@given(small=st.floats(0, 1), large=st.floats(0, 1))
def test_a_smaller_part_lies_within_every_larger_one(by, small, large):
    assert part(min(small, large), by) <= part(max(small, large), by)


def test_ten_percent_lie_in_twenty_five_and_these_in_all():
    parts = [part(fraction) for fraction in (0.1, 0.25, 1)]
    assert [len(p) for p in parts] == [20, 50, 200]
    assert parts[0] < parts[1] < parts[2]


@given(st.randoms())
def test_the_order_of_the_images_changes_nothing(shuffler: random.Random):
    mixed = shuffler.sample(IDS, len(IDS))
    assert part(0.1, ids=mixed) == part(0.1)
    assert part(0.3, "sequence", mixed) == part(0.3, "sequence")


def test_the_draw_is_that_of_every_machine_and_version():
    assert sorted(part(0.02)) == ["frame-010", "frame-075", "frame-171", "frame-199"]
    assert part(0.1, seed=1) != part(0.1)


def test_an_image_that_is_added_moves_no_other_except_across_the_cut():
    before, after = part(0.5), labelled_part(LabelsConfig(fraction=0.5), [*IDS, "new"], {})
    assert len(before - after) <= 1


def test_sequences_are_drawn_whole_and_as_near_to_the_share_as_they_allow():
    kept = part(0.3, "sequence")
    videos = {SEQUENCES[i] for i in kept}
    assert kept == {i for i in IDS if SEQUENCES[i] in videos}
    assert abs(len(kept) - 60) <= 6


def test_some_image_keeps_its_label_unless_the_share_is_zero():
    assert len(part(1e-9)) == 1
    assert len({SEQUENCES[i] for i in part(1e-9, "sequence")}) == 1
    assert part(0) == set()
