"""Tiles cover a picture, overlap enough, and blend to what every tile would say of its own."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prediction.tiles import OVERLAP, bands, ramp, starts, tile_size


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(32, 700))
def test_tiles_cover_an_axis_and_overlap_by_a_quarter(length, tile):
    first = starts(length, tile)
    assert first[0] == 0
    assert first[-1] + tile >= length if length > tile else first == [0]
    assert all(a + tile - b >= OVERLAP * tile - 1 for a, b in pairwise(first))


@pytest.mark.parametrize("size", [(100, 70), (64, 200), (41, 41), (33, 129)])
def test_blended_tiles_of_a_pointwise_answer_are_the_answer_of_the_whole(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)

    def ask(part):
        return torch.from_numpy(part.astype(np.float32)).permute(2, 0, 1) / 255

    found = list(bands(ask, image, (40, 48)))
    rows = [(top, top + band.shape[1]) for top, band in found]
    assert [a for a, _ in rows] == [0, *(b for _, b in rows[:-1])]
    torch.testing.assert_close(torch.cat([band for _, band in found], dim=1), ask(image))


def test_where_tiles_disagree_the_one_that_sees_more_context_weighs_more():
    seen = []

    def ask(part):
        seen.append(part)
        return torch.full((1, *part.shape[:2]), float(len(seen)))

    ((_, band),) = bands(ask, np.zeros((8, 70, 3), np.uint8), (40, 40))
    row = band[0, 4]
    assert (row[0], row[-1]) == (1, 2)
    assert (row.diff() >= -1e-6).all()


def test_a_ramp_is_symmetric_one_inside_and_never_nothing():
    weights = ramp(40)
    assert torch.equal(weights, weights.flip(0))
    assert (weights.min() > 0, weights.max(), int((weights == 1).sum())) == (True, 1, 22)


def test_tiles_have_the_aspect_of_what_the_student_reads():
    assert tile_size(300, (512, 1024)) == (300, 600)
    assert tile_size(300, (256, 256)) == (300, 300)
