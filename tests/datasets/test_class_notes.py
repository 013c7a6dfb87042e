"""Classes that no mask holds and masks without a label are told before work starts; a set without any is refused."""

from pathlib import Path

import numpy as np
import pytest
from sets import IDS, SIZE, images, masks, truth, write_set

from pipeline.datasets import DatasetError, check_all

INDEXED = {"kind": "indexed", "labels": {0: 0, 1: 1, 2: 2}, "ignore": [255]}
THREE = {"classes": ["background", "one", "two"], "encoding": INDEXED}
T, VOID = truth(), np.full(SIZE, 255, np.uint8)

BOTH = T + 2 * (np.arange(32) > 25).astype(np.uint8)

# name -> (mask of train-a, of val-a, notes)
NOTED = {
    "a class nowhere": (T, T, ["class 'two' is in no mask at all: it cannot be learnt, and its metrics are undefined"]),
    "a class not in training": (T, BOTH, ["class 'two' is in no mask of train: it cannot be learnt"]),
    "a class not in validation": (BOTH, T, ["class 'two' is in no mask of val: its metrics are undefined there"]),
    "every class": (BOTH, BOTH, []),
    "a void training mask": (
        VOID,
        BOTH,
        [
            "training masks with every pixel ignored (1): train-a",
            "class 'two' is in no mask of train: it cannot be learnt",
        ],
    ),
}


@pytest.mark.parametrize("name", NOTED)
def test_missing_classes_and_void_masks_are_noted(tmp_path: Path, name: str) -> None:
    train, val, notes = NOTED[name]
    made = images() | masks(value=1) | {"masks/train-a.png": train, "masks/val-a.png": val}
    assert list(check_all(write_set(tmp_path, made, **THREE), "official").notes) == notes


def test_a_set_whose_training_masks_are_all_void_is_refused(tmp_path: Path) -> None:
    made = images() | masks(value=1) | {f"masks/{i}.png": VOID for i in IDS if i.startswith("train")}
    with pytest.raises(DatasetError, match="every pixel of all 2 training masks is ignored"):
        check_all(write_set(tmp_path, made, **THREE), "official")


def test_transparent_images_are_counted(tmp_path: Path) -> None:
    made = images() | masks()
    image = made["images/train-b.png"].convert("RGBA")
    image.putpixel((3, 3), (1, 2, 3, 0))
    made["images/train-b.png"] = image
    notes = check_all(write_set(tmp_path, made), "official").notes
    assert notes == ("images with transparent pixels, which are put over black as in sward predict (1): train-b",)
