"""Mask values to labels: each accepted form against the intended labels, each refused form by its sentence."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from pipeline.datasets.image_files import decode_label
from pipeline.datasets.mask_encodings import Encoding
from pipeline.datasets.masks.values import MaskError
from sward.contracts import IGNORE

SIZE = (40, 48)
TRUTH = np.zeros(SIZE, np.uint8)
TRUTH[8:32, 24:] = 1


def encoding(**content: Any) -> Encoding:
    return TypeAdapter(Encoding).validate_python(content)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def palette_image(indices: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(indices, "L").convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette([value for colour in colours for value in colour])
    return image


BINARY = {
    "0 and 255": encoded(Image.fromarray(TRUTH * 255)),
    "0 and 1": encoded(Image.fromarray(TRUTH)),
    "one bit": encoded(Image.fromarray(TRUTH.astype(bool))),
    "16 bits": encoded(Image.fromarray(TRUTH.astype(np.uint16) * 65535)),
    "grey saved as RGB": encoded(Image.fromarray(np.stack([TRUTH * 255] * 3, -1))),
    "opaque RGBA": encoded(Image.fromarray(np.stack([TRUTH * 255] * 3 + [np.full(SIZE, 255, np.uint8)], -1))),
    "BMP": encoded(Image.fromarray(TRUTH * 255), "BMP"),
    "TIFF": encoded(Image.fromarray(TRUTH * 255), "TIFF"),
    "palette white first": encoded(palette_image(1 - TRUTH, [(255, 255, 255), (0, 0, 0)])),
    "former JPEG noise": encoded(Image.fromarray(np.where(TRUTH == 1, 243, 12).astype(np.uint8))),
}


@pytest.mark.parametrize("form", BINARY)
def test_a_binary_mask_gives_the_same_labels_in_every_form(form: str) -> None:
    np.testing.assert_array_equal(decode_label(BINARY[form], encoding(kind="binary")), TRUTH)


@pytest.mark.parametrize("quality", [30, 75])
def test_a_binary_mask_saved_as_jpeg_keeps_all_but_its_border(quality: int) -> None:
    label = decode_label(encoded(Image.fromarray(TRUTH * 255), "JPEG", quality=quality), encoding(kind="binary"))
    assert (label != TRUTH).mean() < 0.01


def test_an_empty_jpeg_mask_with_noise_stays_empty() -> None:
    noisy = Image.fromarray((np.arange(TRUTH.size).reshape(SIZE) % 2).astype(np.uint8))
    assert decode_label(encoded(noisy, "JPEG", quality=95), encoding(kind="binary")).max() == 0


def test_mid_grey_regions_are_ambiguous() -> None:
    mask = np.where(TRUTH == 1, 128, 0).astype(np.uint8)
    with pytest.raises(MaskError, match=r"30\.0% of the pixels are neither 0 nor 255, e\.g\. 128"):
        decode_label(encoded(Image.fromarray(mask)), encoding(kind="binary"))


def test_a_small_grey_object_is_ambiguous_too() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[:5, :5] = 128  # 0.06 % of the pixels, but more than a border
    with pytest.raises(MaskError, match="neither 0 nor 255"):
        decode_label(encoded(Image.fromarray(mask)), encoding(kind="binary"))


def test_a_dark_foreground_must_be_stated_and_is_then_read() -> None:
    mask = encoded(Image.fromarray(TRUTH * 20))
    with pytest.raises(MaskError, match=r"values 0 to 20 and nothing near 255; state encoding\.foreground"):
        decode_label(mask, encoding(kind="binary"))
    np.testing.assert_array_equal(decode_label(mask, encoding(kind="binary", foreground=20)), TRUTH)


def test_a_coloured_mask_is_not_binary() -> None:
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[TRUTH == 1] = (200, 0, 0)
    with pytest.raises(MaskError, match=r"is coloured .* use encoding palette"):
        decode_label(encoded(Image.fromarray(mask)), encoding(kind="binary"))


INDEXED = {"kind": "indexed", "labels": {7: 0, 8: 1}, "ignore": [0]}


def test_indexed_values_map_to_train_ids_and_ignored_ones_to_255() -> None:
    values = np.array([[7, 8, 0], [8, 8, 7]], np.uint8)
    expected = np.array([[0, 1, IGNORE], [1, 1, 0]])
    for image in (Image.fromarray(values), Image.fromarray(values.astype(np.uint16))):
        np.testing.assert_array_equal(decode_label(encoded(image), encoding(**INDEXED)), expected)
    colours = [(n, 255 - n, 3) for n in range(9)]  # the indices count, whatever their colours are
    np.testing.assert_array_equal(decode_label(encoded(palette_image(values, colours)), encoding(**INDEXED)), expected)


def test_every_unknown_label_is_named_with_its_pixels() -> None:
    values = np.array([[7, 8, 3], [9, 9, 7]], np.uint8)
    with pytest.raises(MaskError, match=r"unknown label 3 \(1 pixels\), 9 \(2 pixels\); expected \[0, 7, 8\]"):
        decode_label(encoded(Image.fromarray(values)), encoding(**INDEXED))


PALETTE = {"kind": "palette", "colours": {"background": [0, 0, 0], "polyp": [255, 0, 0]}, "ignore": [[9, 9, 9]]}


def test_palette_colours_map_to_classes() -> None:
    index = np.array([[0, 1, 2], [1, 1, 0]], np.uint8)
    colours = [(0, 0, 0), (255, 0, 0), (9, 9, 9)]
    expected = np.array([[0, 1, IGNORE], [1, 1, 0]])
    for image in (palette_image(index, colours), palette_image(index, colours).convert("RGB")):
        np.testing.assert_array_equal(decode_label(encoded(image), encoding(**PALETTE)), expected)


def test_an_unknown_colour_is_named() -> None:
    mask = np.zeros((4, 4, 3), np.uint8)
    mask[0, :2] = (255, 0, 1)
    with pytest.raises(MaskError, match=r"unknown colour \(255, 0, 1\) on 2 pixels"):
        decode_label(encoded(Image.fromarray(mask)), encoding(**PALETTE))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({**INDEXED, "ignore": [7]}, r"values \[7\] are both labels and ignored"),
        ({**PALETTE, "ignore": [[0, 0, 0]]}, "a colour is named twice"),
        ({"kind": "colours"}, "does not match any of the expected tags"),
    ],
)
def test_contradictory_encodings_are_refused(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        encoding(**content)
