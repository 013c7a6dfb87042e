"""COCO and LabelMe files as other programs write them: names, sizes, numbers and encodings, over several files."""

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from annotated import BOX, changed, coco, coco_set, labelme, labelme_set, shape
from sets import IDS, images, labels, truth, write_set

from pipeline.datasets import DatasetError, check

T = truth()
GOOD = coco({i: [(1, [BOX])] for i in IDS})
NFD = {i: unicodedata.normalize("NFD", f"{i}-é") for i in IDS}


def with_images(**changes: Any) -> dict[str, Any]:
    return GOOD | {"images": [image | {k: f(image) for k, f in changes.items()} for image in GOOD["images"]]}


def named(*names: str) -> dict[str, Any]:
    return coco({name: [(1, [BOX])] for name in names})


# name -> (ids of the files, COCO file)
ACCEPTED: dict[str, tuple[tuple[str, ...], Any]] = {
    "names that a Mac decomposed": (tuple(f"{i}-é" for i in IDS), named(*NFD.values())),
    "an extension in upper case": (IDS, with_images(file_name=lambda image: image["file_name"].replace("png", "PNG"))),
    "addresses": (IDS, coco({i: [(1, [BOX])] for i in IDS}, prefix="https://labels.example/files%20of%20me/")),
    "names escaped as in addresses": (("train a", "train%b", "val a"), named("train%20a", "train%25b", "val%20a")),
    "folders of another machine": (
        ("train/a", "train/b", "val/a"),
        named("/set/train/a", "/set/train/b", "/set/val/a"),
    ),
    "numbers of images as text": (IDS, with_images(id=lambda image: str(image["id"]))),
    "numbers of images with a point, as tables write columns with gaps": (
        IDS,
        with_images(id=lambda image: float(image["id"])),
    ),
    "a polygon without the list around it": (IDS, changed(GOOD, segmentation=BOX)),
    "UTF-16, as Windows' shell writes it": (IDS, json.dumps(GOOD).encode("utf-16")),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_coco_file_means_the_same_labels_however_it_is_written(tmp_path: Path, name: str) -> None:
    ids, content = ACCEPTED[name]
    files = images(ids=ids) | {"annotations.json": content if isinstance(content, bytes) else json.dumps(content)}
    found = labels(write_set(tmp_path, files, masks="annotations.json", classes=["background", "lesion"]))
    assert set(found) == set(ids)
    assert all((label == T).all() for label in found.values())


PANOPTIC = GOOD | {"annotations": [{"image_id": 0, "file_name": "train-a.png", "segments_info": [{"id": 1}]}]}
REFUSED: dict[str, tuple[Any, str]] = {
    "packed by gzip": (gzip.compress(json.dumps(GOOD).encode()), "is no plain text but packed by gzip; unpack it"),
    "COCO's panoptic form": (PANOPTIC, "is COCO's panoptic form, .*; export instances"),
    "a polygon that is farther away than pycocotools can count": (
        changed(GOOD, segmentation=[[0, 0, 1e10, 0, 1e10, 1e10]]), r"coordinates that are no finite numbers below"),
    "another code page, marked as UTF-8": (
        b"\xef\xbb\xbf" + json.dumps(GOOD).replace("lesion", "L\xe4sion").encode("latin-1"), "byte 0xe4 in line 1"),
    "another code page": (json.dumps(GOOD).replace("lesion", "Läsion").encode("latin-1"), "byte 0xe4 in line 1 is not"),
    "names that fit two images": (
        GOOD | {"images": [*with_images(file_name=lambda image: f"a/{image['file_name']}")["images"],
                           *with_images(file_name=lambda image: f"b/{image['file_name']}",
                                        id=lambda image: image["id"] + 9)["images"]]},
        r"annotations\.json has no entry of any image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_coco_file_that_cannot_be_meant_is_told_by_what_it_is(tmp_path: Path, name: str) -> None:
    content, sentence = REFUSED[name]
    files = images() | {"annotations.json": content if isinstance(content, bytes) else json.dumps(content)}
    with pytest.raises(DatasetError, match=sentence):
        labels(write_set(tmp_path, files, masks="annotations.json", classes=["background", "lesion"]))


def two_files(folder: Path, first: dict[str, Any], second: dict[str, Any], **card: Any) -> Path:
    """A COCO file of train and one of val."""
    files = images("train/{}.png", IDS[:2]) | images("val/{}.png", IDS[2:])
    return write_set(
        folder,
        files | {"train.json": json.dumps(first), "val.json": json.dumps(second)},
        images={"train": "train/{id}.png", "val": "val/{id}.png"},
        masks={"train": "train.json", "val": "val.json"},
        splits={"official": {"kind": "given"}},
        **card,
    )


def category(name: str, *ids: str, number: int = 1, names: tuple[str, ...] = ()) -> dict[str, Any]:
    return coco({i: [(number, [BOX])] for i in ids}, names or (name,))


LESIONS = category("lesion", *IDS[:2])
BINARY = {"classes": ["background", "polyp"]}


@pytest.mark.parametrize("name", ["lesion", "an instrument"])
def test_the_only_name_of_a_binary_set_is_that_of_all_its_coco_files_together(tmp_path: Path, name: str) -> None:
    card = two_files(tmp_path, LESIONS, category(name, *IDS[2:]), **BINARY)
    if name == "lesion":
        assert all((label == T).all() for label in labels(card).values())
    else:
        told = check(card, "official")
        assert {problem.kind for problem in told} == {"mask values"}
        assert {problem.found.partition(";")[0] for problem in told} == {
            f"unknown name {n!r}" for n in (name, "lesion")
        }


def test_the_only_name_of_a_binary_set_is_that_of_all_images_of_a_file_not_of_one_split(tmp_path: Path) -> None:
    content = coco({"train-a": [(1, [BOX])], "train-b": [(1, [BOX])], "val-a": [(1, [BOX])], "later": [(2, [BOX])]},
                   ("lesion", "an instrument"))  # fmt: skip
    with pytest.raises(DatasetError, match="unknown name 'lesion'"):
        labels(coco_set(tmp_path, content, **BINARY))


NUMBERS = {"encoding": {"kind": "indexed", "labels": {0: 0, 1: 1, 2: 2}}}
NAMES = {"encoding": {"kind": "annotated"}}
THREE = {"classes": ["background", "lesion", "instrument"]}


def test_a_number_that_two_coco_files_give_two_names_is_no_label(tmp_path: Path) -> None:
    other = category("", *IDS[2:], number=2, names=("instrument", "lesion"))
    same = category("", *IDS[2:], number=1, names=("lesion", "instrument"))
    clash = category("", *IDS[2:], number=1, names=("instrument", "lesion"))
    with pytest.raises(
        DatasetError, match=r"val\.json: category 1 is 'instrument', in train\.json 'lesion'; use enc.*ann"
    ):
        labels(two_files(tmp_path / "clash", LESIONS, clash, **THREE, **NUMBERS))
    assert (labels(two_files(tmp_path / "same", LESIONS, same, **THREE, **NUMBERS))["val/val-a"] == T).all()
    assert (labels(two_files(tmp_path / "names", LESIONS, other, **THREE, **NAMES))["val/val-a"] == T).all()
    assert (labels(two_files(tmp_path / "also", LESIONS, clash, **THREE, **NAMES))["val/val-a"] == 2 * T).all()


CORNERS = [[8, 6], [19, 6], [19, 17], [8, 17]]
POLYGON = shape("lesion", "polygon", CORNERS)
WRITTEN: dict[str, Any] = {
    "no size, said as null": labelme(POLYGON, imageHeight=None, imageWidth=None),
    "a size in floating point": labelme(POLYGON, imageHeight=24.0, imageWidth=32.0),
    "UTF-16": labelme(POLYGON).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + labelme(POLYGON).encode(),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_labelme_file_means_the_same_label_however_it_is_written(tmp_path: Path, name: str) -> None:
    assert all((label == T).all() for label in labels(labelme_set(tmp_path, WRITTEN[name])).values())


NO_LABELS: dict[str, tuple[Any, str]] = {
    "a COCO file for each image": (json.dumps(GOOD), "is JSON with annotations, categories, images; .*name it alone"),
    "a Chinese code page": (
        labelme(POLYGON).replace('"flags": {}', '"flags": {"息肉": true}').encode("gbk"),
        "byte 0xc8 in line 1 is not UTF-8; save the file as UTF-8",
    ),
    "half a size": (labelme(POLYGON, imageHeight=None), "expected LabelMe's shapes, imageHeight and imageWidth"),
    "a broken size": (labelme(POLYGON, imageHeight=24.5), "expected LabelMe's shapes, imageHeight and imageWidth"),
}


@pytest.mark.parametrize("name", NO_LABELS)
def test_a_labelme_file_that_cannot_be_read_is_told_by_what_it_is(tmp_path: Path, name: str) -> None:
    content, sentence = NO_LABELS[name]
    with pytest.raises(DatasetError, match=sentence):
        labels(labelme_set(tmp_path, content))
