"""White is decided once for a whole set of binary masks; a third value is told, noise of a JPEG is forgiven."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sets import SIZE, encoded, images, jpeg, labels, truth, write_set

from pipeline.datasets import DatasetError, check
from sward import seeds

LARGE = (96, 96)
T = truth()


def disc() -> np.ndarray:
    y, x = np.mgrid[: LARGE[0], : LARGE[1]]
    return ((y - 48) ** 2 + (x - 44) ** 2 < 30**2).astype(np.uint8)


D = disc()
SPARSE = (seeds.integers(SIZE[0] * SIZE[1], 40, "noise").reshape(SIZE) == 0).astype(np.uint8)  # one pixel in forty
STRAY = np.eye(*SIZE, k=22) > 0  # ten pixels in a corner
NOTHING = np.zeros(SIZE, np.uint8)


def with_border(inner: int, border: int) -> np.ndarray:
    """The block as ``inner``, a frame of two pixels around it as ``border``."""
    mask = T * inner
    mask[4:6, 6:22] = mask[18:20, 6:22] = border
    mask[4:20, 6:8] = mask[4:20, 20:22] = border
    return mask.astype(np.uint8)


def soft(label: np.ndarray) -> np.ndarray:
    """The mask shrunk and enlarged again with interpolation: grey borders."""
    size = label.shape[1] // 3, label.shape[0] // 3
    small = Image.fromarray(label * 255).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(small.resize(label.shape[::-1], Image.Resampling.BILINEAR))


def former_jpeg(label: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(jpeg(label * np.uint8(255), quality))


# name -> masks of train-a, train-b, val-a, and the labels they mean
ACCEPTED: dict[str, tuple[list[Any], list[np.ndarray]]] = {
    "0/255": ([T * 255, T * 255, T * 255], [T, T, T]),
    "0/1": ([T, T, T], [T, T, T]),
    "0/1 with an empty one": ([T, NOTHING, T], [T, NOTHING, T]),
    "16 bits, 0/65535": ([T.astype(np.uint16) * 65535] * 3, [T, T, T]),
    "16 bits, 0/255": ([T.astype(np.uint16) * 255] * 3, [T, T, T]),
    "16 bits beside 8 bits": ([T.astype(np.uint16) * 65535, T * 255, T * 255], [T, T, T]),
    "1 bit beside 8 bits": ([T.astype(bool), T * 255, T * 255], [T, T, T]),
    "all object": ([np.full(SIZE, 255, np.uint8), T * 255, T * 255], [np.ones(SIZE, np.uint8), T, T]),
    "all empty": ([NOTHING] * 3, [NOTHING] * 3),
    "noise of 1 in an empty mask": ([T * 255, SPARSE, T * 255], [T, NOTHING, T]),
    "noise of 254 in the object": ([T * 255 - SPARSE * T, T * 255, T * 255], [T, T, T]),
    "a few stray values": ([T * 255, np.where(STRAY, 3, T * 255).astype(np.uint8), T * 255], [T] * 3),
    "black lifted to 3 everywhere": ([np.where(T, 255, 3).astype(np.uint8)] * 3, [T, T, T]),
    "former JPEG, quality 95": ([former_jpeg(D, 95)] * 3, [D, D, D]),
    "former JPEG, quality 50": ([former_jpeg(D, 50)] * 3, [D, D, D]),
    "former JPEG whose black became 1": ([former_jpeg(D, 70), former_jpeg(D * 0, 70), D * 255], [D, D * 0, D]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_masks_of_a_set_are_read_alike(tmp_path: Path, name: str) -> None:
    made, expected = ACCEPTED[name]
    files = dict(zip(("masks/train-a.png", "masks/train-b.png", "masks/val-a.png"), made, strict=True))
    pictures = {k: v.resize(expected[0].shape[::-1]) for k, v in images().items()}
    found = labels(write_set(tmp_path, pictures | files))
    for label, right in zip(found.values(), expected, strict=True):
        assert (label != right).mean() <= (0.01 if "JPEG" in name else 0)


REFUSED: dict[str, tuple[list[Any], str]] = {
    "0/1/255, 255 is void": ([with_border(1, 255)] * 3, r"holds 1 on 144 pixels in solid areas.*ignore: \[255\]"),
    "0/1/255 in one file": ([with_border(1, 255), T * 255, T * 255], "train-a.png: holds 1 on"),
    "0/20/255": ([with_border(255, 20)] * 3, "holds 20 on 1"),
    "0/20/255 in one file": ([with_border(20, 255), T * 255, T * 255], "holds 20 on 144 pixels in solid areas"),
    "0/240/255": ([with_border(240, 255)] * 3, "holds 2(40|55) on"),
    "0/128/255": ([with_border(255, 128)] * 3, "neither 0 nor 255, e.g. 128"),
    "a small area of 128": (
        [np.where(np.arange(32) < 3, [[128]] * 3 + [[0]] * 21, T * 255).astype(np.uint8)] * 3,
        "128",
    ),
    "0/1 beside 0/255": ([T, T * 255, T * 255], "train-a.png: holds 1 on 144 pixels in solid areas"),
    "0/38": ([T * 38] * 3, "values 0 to 38|neither 0 nor 255, e.g. 38"),
    "0/1/2": ([with_border(1, 2)] * 3, "values 0 to 2 and nothing near 255"),
    "0/255 beside 0/65535, 16 bits": (
        [T.astype(np.uint16) * n for n in (255, 65535, 65535)],
        "holds 255 on 144 pixels",
    ),
    "32 bits": ([Image.fromarray(T.astype(np.int32) * 2**30)] * 3, "values 0 to 1073741824 in the set"),
    "resized with interpolation": ([soft(T)] * 3, r"resized with interpolation: encoding\.threshold: 128"),
    "lines of 20": ([np.where(np.arange(24)[:, None] % 6 == 5, 20, T * 255).astype(np.uint8)] * 3, "20 on .* no noise"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_third_value_is_named_with_its_file_and_what_to_do(tmp_path: Path, name: str) -> None:
    made, sentence = REFUSED[name]
    suffix = "tif" if "32 bits" in name else "png"
    files = {f"masks/{i}.{suffix}": m for i, m in zip(("train-a", "train-b", "val-a"), made, strict=True)}
    card = write_set(tmp_path, images() | files, masks=f"masks/{{id}}.{suffix}")
    with pytest.raises(DatasetError, match=sentence):
        labels(card)


@pytest.mark.parametrize("quality", [60, 75, 90])
def test_a_jpeg_mask_with_a_third_value_is_refused_and_one_without_is_read(tmp_path: Path, quality: int) -> None:
    third = D * np.uint8(255)
    third[70:90, 5:40] = 20
    for name, mask in (("two", D * np.uint8(255)), ("three", third)):
        files = {
            f"masks/{i}.jpg": encoded(Image.fromarray(mask), "JPEG", quality=quality) for i in ("train-a", "val-a")
        }
        pictures = {f"images/{i}.png": images()[f"images/{i}.png"].resize(LARGE) for i in ("train-a", "val-a")}
        card = write_set(tmp_path / name, pictures | files, masks="masks/{id}.jpg")
        problems = [str(problem) for problem in check(card, "official")]
        assert bool(problems) == (name == "three")
        assert all("smooth areas of about" in problem for problem in problems)


THRESHOLDS = {
    "soft": soft(T),
    "0/20/255": with_border(255, 20),
    "0/1/255": with_border(1, 255),
    "one bit": T.astype(bool),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_settles_every_mask(tmp_path: Path, name: str) -> None:
    mask = THRESHOLDS[name]
    card = write_set(
        tmp_path,
        images() | {f"masks/{i}.png": mask for i in ("train-a", "train-b", "val-a")},
        encoding={"kind": "binary", "threshold": 128},
    )
    expected = mask if mask.dtype == bool else mask >= 128
    assert all((label == expected).all() for label in labels(card).values())


def test_a_threshold_and_a_foreground_exclude_each_other(tmp_path: Path) -> None:
    card = write_set(tmp_path, {}, encoding={"kind": "binary", "threshold": 128, "foreground": 255})
    with pytest.raises(DatasetError, match="threshold is 128 and foreground 255; expected one of them"):
        labels(card)
