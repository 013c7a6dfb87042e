"""COCO and LabelMe files, arrays and scanner formats: the labels they mean, or what is wrong and the remedy."""

import base64
import builtins
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import BOX, changed, coco, coco_set, labelme, labelme_set, runs, shape
from PIL import Image, ImageDraw
from scans import dicom, nifti
from sets import IDS, SIZE, encoded, images, labels, masks, truth, write, write_set

from pipeline.datasets import DatasetError, check_all, read_image

T = truth()


def packed(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco

    made = coco.encode(np.asfortranarray(mask))
    return {"size": made["size"], "counts": made["counts"].decode()}


FORMS = {
    "polygon": [BOX],
    "runs": runs(T),
    "packed runs": packed(T),
    "two polygons": [BOX, [8.0, 6.0, 20.0, 6.0, 20.0, 12.0]],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", ["", "images/", "./images/", "C:\\data\\images\\"])
def test_coco_areas_become_labels(tmp_path: Path, form: str, prefix: str) -> None:
    found = labels(coco_set(tmp_path, coco({i: [(1, FORMS[form])] for i in IDS}, prefix=prefix)))
    assert set(found) == set(IDS)
    assert all((label == T).all() for label in found.values())


def test_an_image_without_annotations_is_background(tmp_path: Path) -> None:
    assert not labels(coco_set(tmp_path, coco({"train-a": [], "train-b": [(1, [BOX])], "val-a": []})))["train-a"].any()


PART = np.zeros(SIZE, np.uint8)
PART[20:23, 25:30] = 1
TWO = coco({i: [(1, [BOX]), (2, runs(PART))] for i in IDS}, ("polyp (adenoma)", "instrument"))
THREE = {"classes": ["background", "polyp", "instrument"]}
READINGS: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "by names": (THREE | {"encoding": {"kind": "annotated", "names": {"polyp (adenoma)": "polyp"}}}, T + 2 * PART),
    "one ignored": (
        {"encoding": {"kind": "annotated", "names": {"polyp (adenoma)": "lesion"}, "ignore": ["instrument"]}},
        T + 255 * PART,
    ),
    "two names of one class": (
        {"encoding": {"kind": "annotated", "names": {"polyp (adenoma)": "lesion", "instrument": "lesion"}}},
        T + PART,
    ),
    "by numbers": (THREE | {"encoding": {"kind": "indexed", "labels": {0: 0, 1: 2, 2: 1}}}, 2 * T + PART),
}


@pytest.mark.parametrize("reading", READINGS)
def test_categories_are_read_by_name_or_number(tmp_path: Path, reading: str) -> None:
    card, expected = READINGS[reading]
    assert all((label == expected).all() for label in labels(coco_set(tmp_path, TWO, **card)).values())


GOOD = coco({i: [(1, [BOX])] for i in IDS})
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "two names and a binary encoding": (TWO, {}, r"unknown name 'polyp \(adenoma\)'.*kind: annotated, names"),
    "an image without an entry": (coco({i: [] for i in IDS[:2]}), {}, r"val-a: no entry in annotations\.json \(val\)"),
    "no entry at all": (coco({}), {}, r"masks: annotations\.json has no entry of any image"),
    "a box alone": (changed(GOOD, segmentation=[]), {}, "annotation 0 .*has no segmentation"),
    "a polygon of two points": (changed(GOOD, segmentation=[[1, 1, 2, 2]]), {}, "a polygon of fewer than three points"),
    "runs of another size": (changed(GOOD, segmentation={"size": [5, 5], "counts": [25]}), {}, "the image is .24, 32."),
    "too few runs": (changed(GOOD, segmentation={"size": [24, 32], "counts": [5]}), {}, "run lengths of 5 pixels"),
    "runs beyond the image": (
        changed(GOOD, segmentation={"size": [24, 32], "counts": [0, 10**9]}),
        {},
        "is damaged .*0 p",
    ),
    "a negative run": (changed(GOOD, segmentation={"size": [24, 32], "counts": [-5, 773]}), {}, "a run length of -5"),
    "packed runs that are text": (changed(GOOD, segmentation=packed(T) | {"counts": "~~~~~"}), {}, "the byte 126 in"),
    "packed runs cut within a number": (
        changed(GOOD, segmentation=packed(T) | {"counts": "PP"}),
        {},
        "end within a num",
    ),
    "packed runs of too few pixels": (changed(GOOD, segmentation=packed(T) | {"counts": "11"}), {}, "has 768"),
    "packed runs of another image": (
        changed(GOOD, segmentation=packed(np.ones((24, 33), np.uint8)) | {"size": [24, 32]}),
        {},
        "run lengths of 792 pixels, the image has 768",
    ),
    "a corner that is no number": (changed(GOOD, segmentation=[[float("nan"), *BOX[1:]]]), {}, "no finite numbers"),
    "a corner at infinity": (changed(GOOD, segmentation=[[*BOX[:7], float("inf")]]), {}, "no finite numbers"),
    "one id for two images": (
        GOOD | {"images": [image | {"id": min(n, 1)} for n, image in enumerate(GOOD["images"])], "annotations": []},
        {},
        "has several images with the same id: 1; give each image its own",
    ),
    "two names for one category": (
        GOOD | {"categories": [*GOOD["categories"], {"id": 1, "name": "fold"}]},
        {},
        "calls category 1 both 'lesion' and 'fold'; give each id one name",
    ),
    "text for an area": (changed(GOOD, segmentation="x"), {}, "annotation 0 .*is damaged"),
    "an unlisted category": (changed(GOOD, category_id=9), {}, r"annotation 0 has category 9; expected one of \[1\]"),
    "an unlisted image": (changed(GOOD, image_id=77), {}, "annotations of images that it does not list: image_id 77"),
    "a list at the top": ([1, 2], {}, "its top is a list; expected COCO's images, annotations and categories"),
    "no categories": ({"images": [], "annotations": []}, {}, "has no list of categories"),
    "another size": (
        coco({"train-a": [], "train-b": []})
        | {"images": [{"id": 0, "file_name": "val-a.png", "height": 9, "width": 9}]},
        {},
        "sizes differ",
    ),
    "a palette": (
        GOOD,
        {"encoding": {"kind": "palette", "colours": {"background": [0] * 3, "lesion": [9] * 3}}},
        "no colours",
    ),
    "numbers without 0": (GOOD, {"encoding": {"kind": "indexed", "labels": {1: 1, 2: 0}}}, r"value 0 .* has no label"),
    "a class that is none": (
        GOOD,
        {"encoding": {"kind": "annotated", "names": {"lesion": "cancer"}}},
        r"encoding\.names leads to \['cancer'\]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_coco_file_that_does_not_fit_is_told(tmp_path: Path, name: str) -> None:
    content, card, sentence = WRONG[name]
    with pytest.raises(DatasetError, match=sentence):
        labels(coco_set(tmp_path, content, **card))


def test_the_converted_label_is_the_samples_and_nothing_else_of_the_file(tmp_path: Path) -> None:
    card = coco_set(tmp_path, GOOD)
    before = {s.id: s.digest for s in check_all(card, "official").samples}
    write(tmp_path / "annotations.json", json.dumps(changed(GOOD, area=1, note="looked at"), indent=2))
    assert {s.id: s.digest for s in check_all(card, "official").samples} == before
    write(tmp_path / "annotations.json", json.dumps(changed(GOOD, segmentation=[BOX[:6]])))
    after = {s.id: s.digest for s in check_all(card, "official").samples}
    assert [i for i in IDS if after[i] != before[i]] == ["train-a"]


EXTRAS = {"pycocotools": "annotations", "pydicom": "medical", "nibabel": "medical"}


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_told_with_its_extra(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"no module named {name}")
        return real(name, *args, **more)

    files = images() | masks() | {"masks/val-a.png": dicom(T) if package == "pydicom" else nifti(T)}
    card = coco_set(tmp_path, GOOD) if package == "pycocotools" else write_set(tmp_path, files)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DatasetError, match=rf"pip install 'sward\[{EXTRAS[package]}\]'"):
        labels(card)


def drawn(kind: str, *args: Any) -> np.ndarray:
    area = Image.new("1", SIZE[::-1])
    getattr(ImageDraw.Draw(area), kind)(*args, outline=1, fill=1)
    return np.array(area).astype(np.uint8)


TRIANGLE = [[3.0, 3.0], [25.0, 6.0], [9.0, 20.0]]
PASTED = base64.b64encode(encoded(Image.fromarray(T[6:18, 8:20].astype(bool)))).decode()
SHAPES: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "polygon": (shape("lesion", "polygon", TRIANGLE), drawn("polygon", [tuple(p) for p in TRIANGLE])),
    "rectangle": (shape("lesion", "rectangle", [[19, 17], [8, 6]]), T),
    "circle": (shape("lesion", "circle", [[14, 12], [14, 18]]), drawn("ellipse", [8, 6, 20, 18])),
    "mask": (shape("lesion", "mask", [[8, 6], [19, 17]], mask=PASTED), T),
    "a class by its number": (shape("1", "rectangle", [[8, 6], [19, 17]]), T),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_labelme_shapes_become_labels(tmp_path: Path, kind: str) -> None:
    content, expected = SHAPES[kind]
    encoding = {"kind": "indexed", "labels": {0: 0, 1: 1}} if "number" in kind else {"kind": "binary"}
    found = labels(labelme_set(tmp_path, labelme(content), encoding=encoding))
    assert all((label == expected).all() for label in found.values())


SIZELESS = {
    "version 2": {
        "shapes": [{"label": "lesion", "points": [[8, 6], [19, 6], [19, 17], [8, 17]]}],
        "imagePath": "a.png",
    },
    "nothing annotated": {"shapes": [], "imagePath": "a.png", "flags": {}},
}


@pytest.mark.parametrize("name", SIZELESS)
def test_a_labelme_file_without_a_size_has_that_of_its_image(tmp_path: Path, name: str) -> None:
    found = labels(labelme_set(tmp_path, json.dumps(SIZELESS[name])))
    expected = T if SIZELESS[name]["shapes"] else T * 0
    assert all((label == expected).all() for label in found.values())


CORNERS = [[8, 6], [19, 6], [19, 17], [8, 17]]


@pytest.mark.parametrize("kind", ["oriented_rectangle", "rotation", None])
def test_outlines_of_other_names_are_polygons(tmp_path: Path, kind: str) -> None:
    found = labels(labelme_set(tmp_path, labelme(shape("lesion", kind, CORNERS))))
    assert all((label == T).all() for label in found.values())


WRONG_SHAPES = {
    "a shape of another program": (
        labelme(shape("lesion", "ellipse9", CORNERS)),
        "shape 'lesion' is a ellipse9 of 4 points, a shape that is not read; expected polygons",
    ),
    "a rotated rectangle of two corners": (
        labelme(shape("lesion", "rotation", CORNERS[:2])),
        "is a rotation of 2 points, which has no area",
    ),
    "a corner that is no number": (
        labelme(shape("lesion", "polygon", [[8, float("nan")], *CORNERS])),
        "no finite numb",
    ),
    "a circle without end": (labelme(shape("lesion", "circle", [[8, 8], [1e999, 8]])), "no finite numbers"),
    "neither size nor shapes": (json.dumps({"imagePath": "a.png"}), "is JSON with imagePath; expected LabelMe"),
    "a line": (
        labelme(shape("lesion", "line", [[1, 1], [5, 5]])),
        "shape 'lesion' is a line of 2 points, which has no area",
    ),
    "half a size": (
        json.dumps({"shapes": [], "imageHeight": 24}),
        "is JSON with imageHeight, shapes; expected LabelMe's shapes, imageHeight and imageWidth",
    ),
    "two names": (labelme(shape("a", "polygon", TRIANGLE), shape("b", "polygon", TRIANGLE)), "unknown name 'a'"),
    "broken points": (labelme(shape("lesion", "polygon", [[1]])), "shape 'lesion' is damaged"),
    "a giant": (labelme(imageHeight=10**6, imageWidth=10**6), "expected at most 178956970 pixels"),
    "no JSON": ("polygon", "is not JSON"),
    "a list": ("[]", "its top is a list"),
    "another size": (labelme(imageHeight=9), "sizes differ"),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_a_labelme_file_that_does_not_fit_is_told(tmp_path: Path, name: str) -> None:
    content, sentence = WRONG_SHAPES[name]
    with pytest.raises(DatasetError, match=sentence):
        labels(labelme_set(tmp_path, content))


ARRAYS = {
    "uint8": T,
    "bool": T.astype(bool),
    "int64": T.astype(np.int64),
    "whole floats": T.astype(np.float32),
    "one channel": T[..., None],
    "one slice": T[None],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_masks(tmp_path: Path, name: str) -> None:
    files = images() | masks("masks/{}.npy", value=1) | {"masks/train-a.npy": ARRAYS[name]}
    card = write_set(tmp_path, files, masks="masks/{id}.npy")
    assert all((label == T).all() for label in labels(card).values())


NO_MASKS = {
    "fractions": (T * 0.5, "pixel format F with fractions"),
    "one-hot": (np.stack([T, 1 - T]), r"an array of shape \(2, 24, 32\); .* one-hot masks as their argmax"),
    "objects": (np.array([None, {}], object), "holds Python objects"),
    "text": (np.full(SIZE, "a"), "values of type"),
    "negative": (T.astype(np.int16) - 1, "values -1 to"),
}


@pytest.mark.parametrize("name", NO_MASKS)
def test_arrays_that_are_no_masks_are_told(tmp_path: Path, name: str) -> None:
    array, sentence = NO_MASKS[name]
    card = write_set(tmp_path, images() | masks("masks/{}.npy", value=1), masks="masks/{id}.npy")
    np.save(tmp_path / "masks/train-a.npy", array, allow_pickle=True)
    with pytest.raises(DatasetError, match=sentence):
        labels(card)


HOUNSFIELD = (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * 2).astype(np.uint16)


def test_dicom_images_are_read_in_their_units_through_the_cards_window(tmp_path: Path) -> None:
    scaled = dicom(HOUNSFIELD, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    files = {f"images/{i}.dcm": scaled + bytes(2 * n) for n, i in enumerate(IDS)} | masks("masks/{}.npy", value=1)
    patterns = {"images": "images/{id}.dcm", "masks": "masks/{id}.npy"}
    with pytest.raises(DatasetError, match=r"values -1024 to 510 \(its own window: \[-160, 240\]\)"):
        check_all(write_set(tmp_path, files, **patterns), "official")

    sample = check_all(write_set(tmp_path, files, **patterns, window=[-160, 240]), "official").samples[0]
    expected = np.rint(np.clip((HOUNSFIELD.astype(float) - 1024 + 160) / 400, 0, 1) * 255)
    np.testing.assert_array_equal(read_image(sample)[..., 0], expected)


SCANS = {
    "DICOM": dicom(T),
    "DICOM of 16 bits": dicom(T.astype(np.uint16)),
    "NIfTI": nifti(T),
    "packed NIfTI": gzip.compress(nifti(T.astype(np.int16))),
    "NIfTI of one slice": nifti(T[None]),
}


@pytest.mark.parametrize("name", SCANS)
def test_slices_of_scanner_formats_are_masks(tmp_path: Path, name: str) -> None:
    files = images() | {f"masks/{i}.nii.gz": SCANS[name] for i in IDS}
    card = write_set(tmp_path, files, masks="masks/{id}.nii.gz", encoding={"kind": "indexed", "labels": {0: 0, 1: 1}})
    assert all((label == T).all() for label in labels(card).values())


VOLUMES = {
    "a NIfTI volume of shape": nifti(np.stack([T] * 3)),
    "a DICOM file of 2 frames": dicom(np.stack([T] * 2), NumberOfFrames=2),
}


@pytest.mark.parametrize("sentence", VOLUMES)
def test_volumes_are_refused_with_the_way_to_slices(tmp_path: Path, sentence: str) -> None:
    card = write_set(tmp_path, images() | masks() | {"masks/val-a.png": VOLUMES[sentence]})
    with pytest.raises(DatasetError, match=rf"{sentence}.*save each slice as a file of its own"):
        labels(card)


UNREADABLE = [
    "a list at the top",
    "no categories",
    "an unlisted category",
    "an unlisted image",
    "one id for two images",
]


@pytest.mark.parametrize("name", UNREADABLE)
def test_of_a_coco_file_that_cannot_be_read_nothing_else_is_said(tmp_path: Path, name: str) -> None:
    content, card, _ = WRONG[name]
    with pytest.raises(DatasetError) as error:
        check_all(coco_set(tmp_path, content, **card), "official")
    assert [problem.kind for problem in error.value.problems] == ["mask values"]
