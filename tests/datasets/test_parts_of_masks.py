"""Numbered masks beside the mask of an image are parts of its label unless they overlap: nothing is silent."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import picture
from sets import SIZE, images, labels, masks, truth, write_set

from pipeline.datasets import DatasetError, check_all

T = truth()


def area(rows: slice, columns: slice, value: int = 255) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[rows, columns] = value
    return mask


A, B, INNER = area(slice(20, 23), slice(25, 30)), area(slice(0, 3), slice(0, 5)), area(slice(8, 12), slice(10, 14))

# name -> (further files, suffix of the masks, what the card says, areas beside the block of train-a)
UNITED: dict[str, tuple[dict[str, Any], str, dict[str, Any], list[np.ndarray]]] = {
    "BUSI": ({"masks/train-a_mask_1.png": A, "masks/train-a_mask_2.png": B}, "_mask", {}, [A, B]),
    "a copy of Windows": ({"masks/train-a_mask (2).png": A}, "_mask", {}, [A]),
    "a hyphen": ({"masks/train-a_mask-1.png": A}, "_mask", {}, [A]),
    "a number alone": ({"masks/train-a_mask2.png": A}, "_mask", {}, [A]),
    "ten and more": ({f"masks/train-a_mask_{n}.png": area(slice(0, 2), slice(n, n + 1)) for n in range(8, 12)},
                     "_mask", {}, [area(slice(0, 2), slice(8, 12))]),
    "an empty part": ({"masks/train-a_mask_1.png": A * 0}, "_mask", {}, []),
    "in one folder with the images": ({"images/train-a_mask_1.png": A}, "_mask",
                                      {"masks": "images/{id}_mask.png"}, [A]),
    "in one folder below others": ({"images/x/train-a_mask_1.png": B, "images/x/train-a.png": picture("x", SIZE),
                                    "images/x/train-a_mask.png": A}, "_mask", {"masks": "images/{id}_mask.png"}, []),
    "overlapping, and the card says so": ({"masks/train-a_mask_1.png": INNER}, "_mask",
                                          {"masks": "masks/{id}_mask*.png", "several_masks": "union"}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", UNITED)
def test_numbered_masks_are_united_and_named(tmp_path: Path, name: str) -> None:
    files, suffix, said, areas = UNITED[name]
    card = {"masks": f"masks/{{id}}{suffix}.png", **said}
    folder = card["masks"].partition("/")[0]
    card_path = write_set(tmp_path, images() | masks(f"{folder}/{{}}{suffix}.png") | files, **card)
    found = labels(card_path)
    expected = T.astype(bool) | np.any([a > 0 for a in areas] or [T * 0], axis=0)
    np.testing.assert_array_equal(found["train-a"], expected)
    np.testing.assert_array_equal(found["val-a"], T)
    if card.get("several_masks") != "union":
        notes = check_all(card_path, "official").notes
        assert any("numbered masks, united with the first of their image" in note for note in notes), notes
        assert not any("no pattern" in note for note in notes)


# name -> (further files, what the card says, sentence)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "two people's masks": (
        {"masks/train-a_mask_1.png": T * np.uint8(255)},
        {},
        r"144 pixels lie in several of its masks \(train-a_mask.png, train-a_mask_1.png\).*several_masks: union.*skip",
    ),
    "one within the other": ({"masks/train-a_mask_1.png": INNER}, {}, "16 pixels lie in several of its masks"),
    "another size": ({"masks/train-a_mask_1.png": A[:5]}, {}, "masks have different sizes"),
    "another format": ({"masks/train-a_mask_1.tif": A}, {}, r"second mask.*\n.*train-a_mask_1\.tif: no pattern"),
    "a word": ({"masks/train-a_mask_old.png": A}, {}, r"second mask.*\n.*train-a_mask_old\.png: no pattern"),
    "no parts": ({"masks/train-a_mask_1.png": A}, {"several_masks": "error"}, "second mask"),
    "coloured": (
        {"masks/train-a_mask_1.png": np.stack([A, A * 0, A * 0], -1)},
        {},
        r"train-a_mask\.png: is coloured|train-a_mask_1\.png: is coloured",
    ),
    "a third value": ({"masks/train-a_mask_1.png": area(slice(0, 5), slice(0, 5), 128)}, {}, "128"),
    "unreadable": ({"masks/train-a_mask_1.png": b"<html>"}, {}, "an HTML page"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_part_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    files, said, sentence = REFUSED[name]
    card = write_set(tmp_path, images() | masks("masks/{}_mask.png") | files, masks="masks/{id}_mask.png", **said)
    with pytest.raises(DatasetError) as raised:
        labels(card)
    assert re.search(sentence, str(raised.value), re.DOTALL), raised.value


def test_a_part_is_in_the_digest_of_its_sample_alone(tmp_path: Path) -> None:
    pairs = images() | masks("masks/{}_mask.png")
    without = write_set(tmp_path / "a", pairs, masks="masks/{id}_mask.png")
    part = write_set(tmp_path / "b", pairs | {"masks/train-a_mask_1.png": A}, masks="masks/{id}_mask.png")
    before, after = ({s.id: s.digest for s in check_all(card, "official").samples} for card in (without, part))
    assert [i for i in before if before[i] != after[i]] == ["train-a"]
