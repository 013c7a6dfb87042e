"""Image files to RGB: same pixels from every lossless form, and a plain refusal of what is open to interpretation."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.image_files import UnsupportedImageError, decode_image
from sward import seeds

RGB = seeds.integers(10 * 14 * 3, 256, "reading").reshape(10, 14, 3).astype(np.uint8)
GREY = RGB[..., 0]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_forms_give_the_stored_pixels(form: str) -> None:
    image = decode_image(encoded(Image.fromarray(RGB), form))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RGB)


def test_grey_palette_and_opaque_rgba_become_rgb() -> None:
    grey = np.stack([GREY] * 3, -1)
    opaque = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(GREY), "PNG")), grey)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(GREY).convert("P"), "PNG")), grey)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(opaque), "PNG")), RGB)


def test_jpeg_is_read_as_pillow_decodes_it() -> None:
    content = encoded(Image.fromarray(RGB), "JPEG")
    np.testing.assert_array_equal(decode_image(content), np.asarray(Image.open(io.BytesIO(content))))


def turned(form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(RGB), form, exif=exif)


REFUSED = {
    "EXIF orientation 6": turned("JPEG"),
    "orientation 6; turn": turned("TIFF"),
    "I;16 of more than 8 bits": encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
    "transparent pixels": encoded(Image.fromarray(np.dstack([RGB, GREY])), "PNG"),
    "CMYK of another colour model": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "2 frames in one file": encoded(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_open_to_interpretation_is_refused(sentence: str) -> None:
    with pytest.raises(UnsupportedImageError, match=sentence):
        decode_image(REFUSED[sentence])
