"""Grey borders that interpolation makes are cut at half of white and named; a third value between two others is not."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sets import images, jpeg, labels, write_set

from pipeline.datasets import DatasetError, check_all

SIDE = 64


def discs(side: int = SIDE) -> np.ndarray:
    """Two discs and a bar, (side, side) bool."""
    y, x = np.mgrid[:side, :side] / side
    return ((y - 0.4) ** 2 + (x - 0.4) ** 2 < 0.06) | ((y - 0.8) ** 2 + (x - 0.8) ** 2 < 0.01) | ((x > 0.9) & (y < 0.3))


def resized(label: np.ndarray, how: str, side: int = SIDE) -> np.ndarray:
    picture = Image.fromarray(label.astype(np.uint8) * 255)
    return np.asarray(picture.resize((side, side), Image.Resampling[how]))


def ring(width: int, value: int = 128) -> np.ndarray:
    """The discs with a border of another value around them."""
    from scipy import ndimage

    label = discs()
    return np.where(label, 255, ndimage.binary_dilation(label, iterations=width) * value).astype(np.uint8)


ACCEPTED = {
    "halved, bilinear": resized(discs(128), "BILINEAR"),
    "halved, bicubic": resized(discs(128), "BICUBIC"),
    "halved, means of four": resized(discs(128), "BOX"),
    "a third, bilinear": resized(discs(192), "BILINEAR"),
    "by 1.37, bilinear": resized(discs(88), "BILINEAR"),
    "doubled, bilinear": resized(discs(32), "BILINEAR"),
    "16 bits": resized(discs(128), "BILINEAR").astype(np.uint16) * 257,
}


def card_of(folder: Path, mask: np.ndarray) -> Path:
    pictures = {name: picture.resize((SIDE, SIDE)) for name, picture in images().items()}
    return write_set(folder, pictures | {f"masks/{i}.png": mask for i in ("train-a", "train-b", "val-a")})


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_smooth_border_is_cut_at_half_and_named(tmp_path: Path, name: str) -> None:
    mask = ACCEPTED[name]
    card = card_of(tmp_path, mask)
    half = 128 if mask.dtype == np.uint8 else 32768
    for label in labels(card).values():
        np.testing.assert_array_equal(label, mask >= half)
    notes = check_all(card, "official").notes
    assert any(re.search(r"smooth grey borders.*cut at half of white \(3\): train-a\.png", note) for note in notes)


REFUSED = {
    "a border of two pixels": ring(2),
    "a border of one pixel": ring(1),
    "a border of one pixel, once a JPEG": np.asarray(jpeg(ring(1))),
    "a border of two pixels, once a poor JPEG": np.asarray(jpeg(ring(2), 50)),
    "a border of four pixels, once a JPEG": np.asarray(jpeg(ring(4), 90)),
    "probabilities": np.asarray(Image.fromarray(ring(0)).resize((6, 6)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)),
    "a grey object beside white ones": np.where(np.roll(discs(), 30, 0) & ~discs(), 128, discs() * 255).astype(
        np.uint8
    ),
    "grey lines": np.where(np.arange(SIDE) % 16 == 5, 128, discs() * 255).astype(np.uint8),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_third_value_is_no_smooth_border(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"encoding\.threshold: 128"):
        labels(card_of(tmp_path, REFUSED[name]))


def test_a_thin_line_of_a_third_value_is_told_however_large_the_mask_is(tmp_path: Path) -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[100:300, 100:300], mask[99, 99:301], mask[300, 99:301] = 255, 128, 128  # 0.25 % of the pixels
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    pictures = {name: picture.resize((400, 400)) for name, picture in images().items()}
    card = write_set(tmp_path, pictures | {f"masks/{i}.png": file.getvalue() for i in ("train-a", "train-b", "val-a")})
    with pytest.raises(DatasetError, match=r"holds 128 on 404 pixels in lines.*threshold: 128"):
        labels(card)
