"""Views: drawn from their key alone, rendered the same for ever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.augmented_views import View, ViewsConfig, adjust_colours, draw, pixel_digest, render
from sward import seeds

CONFIG = ViewsConfig(count=4, zoom=(1.0, 2.0), rot90=True)


def picture(height=40, width=56):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 3, (height, width), np.uint8)


def test_a_view_depends_on_seed_digest_and_number_alone():
    views = {draw(CONFIG, (32, 32), (40, 56), d, n) for d in ("a", "b") for n in (1, 2)}
    again = {draw(CONFIG, (32, 32), (40, 56), d, n) for n in (2, 1) for d in ("b", "a")}
    assert views == again
    assert len(views) == 4
    assert draw(CONFIG.model_copy(update={"seed": 1}), (32, 32), (40, 56), "a", 1) not in views


def test_seed_and_number_do_not_add_up():
    assert seeds.key(0, 1) != seeds.key(1, 0)
    assert seeds.key("a", 1) != seeds.key("a1")


def test_the_raw_words_are_those_of_philox_for_ever():
    assert seeds.words(2, "view", 0).tolist() == [14292520465897056055, 9268869241940890463]


def test_view_zero_is_the_whole_image():
    image, label = picture()
    pixels, classes = render(image, label, draw(CONFIG, (40, 56), (40, 56), "a", 0), (40, 56))
    assert np.array_equal(pixels, image)
    assert np.array_equal(classes, label)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 50), st.sampled_from(["image", "native"]))
def test_a_box_always_lies_within_the_image(height, width, number, base):
    config = ViewsConfig(count=51, zoom=(0.5, 3.0), base=base)
    view = draw(config, (64, 128), (height, width), "digest", number)
    assert view.top >= 0
    assert view.left >= 0
    assert 1 <= view.height <= height - view.top
    assert 1 <= view.width <= width - view.left


def test_geometry_moves_image_and_label_alike():
    label = (np.add.outer(np.arange(32), np.arange(32)) % 7).astype(np.uint8)
    image = np.repeat(label[..., None] * 30, 3, axis=2)
    plain = {"zoom": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    for number in range(1, 9):
        view = draw(CONFIG.model_copy(update=plain), (32, 32), (32, 32), "x", number)
        pixels, classes = render(image, label, view, (32, 32))
        assert np.array_equal(pixels[..., 0], classes * 30)


def test_a_crop_is_the_part_of_the_image():
    image, label = picture()
    pixels, classes = render(image, label, View(1, 4, 8, 16, 24), (16, 24))
    assert np.array_equal(pixels, image[4:20, 8:32])
    assert np.array_equal(classes, label[4:20, 8:32])


def test_labels_are_never_interpolated():
    image, label = picture()
    _, classes = render(image, np.where(label == 2, 255, 0).astype(np.uint8), View(1, 1, 1, 30, 41), (64, 64))
    assert set(np.unique(classes)) <= {0, 255}


def test_neutral_colours_change_nothing_and_others_do():
    image, _ = picture()
    assert adjust_colours(image, 1.0, 1.0, 1.0) is image
    assert adjust_colours(image, 0.5, 1.0, 1.0).mean() == pytest.approx(image.mean() / 2, rel=0.01)
    grey = adjust_colours(image, 1.0, 1.0, 0.0)
    assert np.ptp(grey.astype(int), axis=2).max() == 0


def test_a_views_digest_tells_one_pixel():
    image, label = picture()
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert pixel_digest(image, label) != pixel_digest(other, label)


def test_an_impossible_range_is_refused():
    with pytest.raises(ValidationError, match="low <= high"):
        ViewsConfig(zoom=(2.0, 1.0))
