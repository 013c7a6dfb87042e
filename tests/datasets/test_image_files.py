"""Image files to RGB: the stored pixels, upright, through a window; what is open to interpretation is refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter
from sets import encoded

from pipeline.datasets.formats.errors import UnsupportedImageError
from pipeline.datasets.image_files import Reading, decode_image, picture_size
from sward import seeds

RGB = seeds.integers(10 * 14 * 3, 256, "reading").reshape(10, 14, 3).astype(np.uint8)
GREY = RGB[..., 0]
DEEP = seeds.integers(10 * 14 * 3, 4096, "deep").reshape(10, 14, 3).astype(np.uint16)  # 12 bits


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


def turned(form: str, tag: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"lossless": True} if form == "WEBP" else {}
    return encoded(Image.fromarray(RGB), form, exif=exif, **options)


UPRIGHT = {
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.swapaxes(0, 1),
    6: np.rot90(RGB, -1),
    7: RGB[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(RGB),
}


@pytest.mark.parametrize("tag", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright_by_their_exif_orientation(form: str, tag: int) -> None:
    content = turned(form, tag)
    np.testing.assert_array_equal(decode_image(content), UPRIGHT[tag])
    assert picture_size(content, Reading()) == UPRIGHT[tag].shape[:2]


def test_an_image_is_read_as_stored_where_the_card_says_so() -> None:
    np.testing.assert_array_equal(decode_image(turned("PNG"), Reading(stored=True)), RGB)
    with pytest.raises(UnsupportedImageError, match="never read as stored"):
        decode_image(turned("TIFF"), Reading(stored=True))


def test_transparent_pixels_are_put_over_black() -> None:
    alpha = np.where(np.arange(14) < 5, 0, 255).astype(np.uint8) + np.zeros_like(GREY)
    expected = np.where(alpha[..., None] == 0, 0, RGB)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(np.dstack([RGB, alpha])))), expected)


def test_the_first_picture_of_a_multi_picture_jpeg_is_the_image() -> None:
    second = Image.fromarray(RGB[::-1].copy())
    content = encoded(Image.fromarray(RGB), "MPO", save_all=True, append_images=[second], quality=95)
    alone = decode_image(encoded(Image.fromarray(RGB), "JPEG", quality=95))
    np.testing.assert_array_equal(decode_image(content), alone)


def test_the_first_page_of_a_tiff_with_smaller_copies_is_the_image() -> None:
    file, first = io.BytesIO(), Image.fromarray(RGB)
    with AppendingTiffWriter(file, True) as pages:
        first.save(pages, format="TIFF")
        for size in ((7, 5), (3, 2)):
            pages.newFrame()
            first.resize(size).save(pages, format="TIFF", tiffinfo={254: 1})
        content = file.getvalue()
    np.testing.assert_array_equal(decode_image(content), RGB)
    assert picture_size(content, Reading()) == RGB.shape[:2]


def png(values: np.ndarray) -> bytes:
    """A 16-bit PNG of (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGBA."""
    kind = {2: 0, 3: {2: 4, 3: 2, 4: 6}.get(values.shape[-1])}[values.ndim]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values: np.ndarray, **options: Any) -> bytes:

    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb" if values.ndim == 3 else "minisblack", **options)
    return file.getvalue()


FULL = np.full((10, 14, 1), 65535, np.uint16)
DEEP_FORMS = {
    "PNG, grey": png(DEEP[..., 0]),
    "PNG, RGB": png(DEEP),
    "PNG, opaque RGBA": png(np.concatenate([DEEP, FULL], -1)),
    "TIFF, grey": encoded(Image.fromarray(DEEP[..., 0]), "TIFF"),
    "TIFF, RGB": tiff(DEEP),
    "TIFF, big-endian RGB": tiff(DEEP, byteorder=">"),
    "TIFF, packed RGB": tiff(DEEP, compression="zlib"),
    "TIFF, 32-bit integers": encoded(Image.fromarray(DEEP[..., 0].astype(np.int32)), "TIFF"),
    "TIFF, floats": encoded(Image.fromarray(DEEP[..., 0].astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("form", DEEP_FORMS)
def test_more_than_8_bits_are_read_through_a_window_and_refused_with_their_range_without(form: str) -> None:
    values = DEEP if "RGB" in form else np.stack([DEEP[..., 0]] * 3, -1)
    expected = np.rint(values / 4095 * 255)
    np.testing.assert_array_equal(decode_image(DEEP_FORMS[form], Reading(window=(0, 4095))), expected)
    window = decode_image(DEEP_FORMS[form], Reading(window=(1000, 2000)))
    np.testing.assert_array_equal(window, np.rint(np.clip((values - 1000.0) / 1000, 0, 1) * 255))
    with pytest.raises(
        UnsupportedImageError, match=r"more than 8 bits a channel, values \d+ to (39|40)\d\d; .*bits: 12"
    ):
        decode_image(DEEP_FORMS[form])


REFUSED = {
    "I;16 of more than 8 bits": encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
    "CMYK of another colour model": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "2 frames in one file": encoded(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
    "16 bits with transparent pixels": png(np.concatenate([DEEP, FULL // 2], -1)),
    "16 bits in pixel format LA": png(DEEP[..., :2]),
    "masks may be .npy, images not": b"\x93NUMPY\x01\x00",
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_open_to_interpretation_is_refused(sentence: str) -> None:
    with pytest.raises(UnsupportedImageError, match=sentence):
        decode_image(REFUSED[sentence])


def test_8_bits_are_refused_where_the_card_gives_a_window() -> None:
    with pytest.raises(UnsupportedImageError, match="8 bits a channel, but the card gives bits or window"):
        decode_image(encoded(Image.fromarray(RGB)), Reading(window=(0, 4095)))


NO_PICTURES = {
    "the file is empty": b"",
    "zeros only": bytes(300),
    "an HTML page": b"<!doctype html><html><body>Sign in</body></html>",
    "a Git LFS pointer; .* git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "a video or HEIF file; extract its frames": b"\0\0\0\x20ftypisom" + bytes(40),
    "a zip archive": b"PK\x03\x04" + bytes(40),
    "an HDF5 file .*; save each slice": b"\x89HDF\r\n\x1a\n" + bytes(80),
    "not a picture, or of a format": b"GRIB" + bytes(80),
    "JSON text": b'{"shapes": []}',
    "PNG, JPEG, TIFF, BMP, GIF and WebP are read": b"some words",
}


@pytest.mark.parametrize("sentence", NO_PICTURES)
def test_what_is_no_picture_is_called_by_its_name(sentence: str) -> None:
    with pytest.raises(Image.UnidentifiedImageError, match=sentence):
        decode_image(NO_PICTURES[sentence])
