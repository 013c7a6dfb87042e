"""Pixels reach a student as stage 1's views do: bit for bit Pillow's resize, on any sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.augmented_views import View, render
from sward.pixels import at_size, normaliser, resize

LENGTH = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(LENGTH, LENGTH, LENGTH, LENGTH, st.integers(0, 2**32 - 1))
def test_tensors_are_resized_as_views_are_rendered(height, width, new_height, new_width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rendered, _ = render(image, image[..., 0], View(0, 0, 0, height, width), (new_height, new_width))
    resized = resize(torch.from_numpy(image).permute(2, 0, 1), (new_height, new_width))
    assert (resized.permute(1, 2, 0).numpy() == rendered).all()


@pytest.mark.parametrize("size", [(256, 256), (144, 144), (288, 384)])
def test_a_landscape_picture_is_resized_as_pillow_does_in_one_call(size):
    image = np.random.default_rng(0).integers(0, 256, (288, 384, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    resized = resize(torch.from_numpy(image).permute(2, 0, 1), size).permute(1, 2, 0).numpy()
    assert (resized == expected).all()


def test_black_and_white_stay_what_they_are():
    for value in (0, 255):
        assert (resize(torch.full((1, 7, 9), value, dtype=torch.uint8), (40, 3)) == value).all()


def test_a_picture_of_the_right_size_is_not_touched():
    image = torch.arange(60, dtype=torch.uint8).view(3, 4, 5)
    assert torch.equal(resize(image, (4, 5)), image)


def test_pixels_are_normalised_by_the_formula():
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1)
    found = normaliser([0.5, 0.4, 0.3], [0.1, 0.2, 0.5], torch.device("cpu"))(image).flatten().tolist()
    expected = [(0 / 255 - 0.5) / 0.1, (128 / 255 - 0.4) / 0.2, (255 / 255 - 0.3) / 0.5]
    assert found == pytest.approx(expected, abs=1e-6)


def test_logits_are_enlarged_between_cell_centres():
    logits = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert at_size(logits, (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]
