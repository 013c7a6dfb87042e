"""Folders as people have them: every pair found, nothing invented, what is passed over counted and named."""

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import picture
from PIL import Image
from sets import IDS, SIZE, encoded, images, labels, masks, truth, write, write_set

from pipeline.datasets import DatasetError, check, check_all

T = truth()
SPLIT_FOLDERS = {"official": {"kind": "matched", "patterns": {"train": "train/*", "val": "val/*"}}}


def renamed(files: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {name.replace(old, new): content for name, content in files.items()}


def split_folders(image: str, mask: str) -> dict[str, Any]:
    """Images and masks with the same names 1 and 2 in folders per subset."""
    made: dict[str, Any] = {}
    for subset in ("train", "val"):
        for n in "12":
            made[image.format(subset, n)] = picture(subset + n, SIZE)
            made[mask.format(subset, n)] = T * np.uint8(255)
    return made


NFD = {i: unicodedata.normalize("NFD", f"{i}-é") for i in IDS}

# name -> (files, what the card says, ids)
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "image and mask in one folder": (
        images("data/{}.png") | masks("data/{}_mask.png"),
        {"images": "data/{id}.png", "masks": "data/{id}_mask.png"},
        set(IDS),
    ),
    "the image has the suffix": (
        images("data/{}_rgb.png") | masks("data/{}.png"),
        {"images": "data/{id}_rgb.png", "masks": "data/{id}.png"},
        set(IDS),
    ),
    "a folder beside each image": (
        images("{}/image.png") | masks("{}/mask.png"),
        {"images": "{id}/image.png", "masks": "{id}/mask.png"},
        set(IDS),
    ),
    "CamVid": (
        renamed(images("train/{}.png") | masks("trainannot/{}.png"), "train/val", "val/val"),
        {"images": "*/{id}.png", "masks": "*annot/{id}.png"},
        set(IDS),
    ),
    "the same names in every subset": (
        split_folders("{}/{}.png", "{}annot/{}.png"),
        {
            "images": {"train": "train/{id}.png", "val": "val/{id}.png"},
            "masks": {"train": "trainannot/{id}.png", "val": "valannot/{id}.png"},
            "splits": {"official": {"kind": "given"}},
        },
        {"train/1", "train/2", "val/1", "val/2"},
    ),
    "YOLO and ADE20K": (
        split_folders("images/{}/{}.png", "annotations/{}/{}.png"),
        {"images": "images/{id}.png", "masks": "annotations/{id}.png", "splits": SPLIT_FOLDERS},
        {"train/1", "train/2", "val/1", "val/2"},
    ),
    "nnU-Net": (
        images("imagesTr/{}_0000.png") | masks("labelsTr/{}.png", value=1),
        {"images": "imagesTr/{id}_0000.png", "masks": "labelsTr/{id}.png"},
        set(IDS),
    ),
    "upper and lower case mixed": (
        images("images/{}.png", IDS[:1]) | images("images/{}.PNG", IDS[1:]) | masks("masks/{}.Png"),
        {},
        set(IDS),
    ),
    "packed names in upper case": (
        images() | {f"masks/{i}.NPY": encoded_npy for i, encoded_npy in ((i, None) for i in IDS)},
        {"masks": "masks/{id}.npy"},
        set(IDS),
    ),
    "folders with brackets": (
        images("set [1]/images/{}.png") | masks("set [1]/masks/{}.png"),
        {
            "images": "set [1]/images/{id}.png",
            "masks": "set [1]/masks/{id}.png",
        },
        set(IDS),
    ),
    "ids with brackets": (
        images("images/[1]/{}.png") | masks("masks/[1]/{}.png"),
        {"splits": {"official": {"kind": "matched", "patterns": {"train": "[1]/train*", "val": "[1]/val*"}}}},
        {f"[1]/{i}" for i in IDS},
    ),
    "several patterns a subset": (
        images() | masks(),
        {"splits": {"official": {"kind": "matched", "patterns": {"train": ["train-a", "*-b"], "val": "val*"}}}},
        set(IDS),
    ),
    "names that a Mac decomposed on one side": (
        {f"images/{i}-é.png": picture(i, SIZE) for i in IDS}
        | {f"masks/{n}.png": T * np.uint8(255) for n in NFD.values()},
        {},
        {f"{i}-é" for i in IDS},
    ),
    "leftovers of programs": (
        images()
        | masks()
        | images("images/.ipynb_checkpoints/{}-checkpoint.png")
        | masks("masks/.ipynb_checkpoints/{}-checkpoint.png")
        | images("images/@eaDir/{}.png")
        | images("images/__MACOSX/{}.png")
        | {"images/._train-a.png": b"AppleDouble", "masks/.DS_Store": b"x", "images/Thumbs.db": b"x"},
        {},
        set(IDS),
    ),
    "a hidden folder that the card names": (
        images(".data/images/{}.png") | masks(".data/masks/{}.png"),
        {"images": ".data/images/{id}.png", "masks": ".data/masks/{id}.png"},
        set(IDS),
    ),
    "skipped files": (
        images() | masks() | images("images/{}_overlay.png"),
        {"skip": ["images/*_overlay.png"]},
        set(IDS),
    ),
    "names with every sign that a disk takes": (
        images(ids=(" train ", "-train#%20'\"", "val{a}*?[b]🙂"))
        | masks(ids=(" train ", "-train#%20'\"", "val{a}*?[b]🙂")),
        {},
        {" train ", "-train#%20'\"", "val{a}*?[b]🙂"},
    ),
    "no share for test": (
        images() | masks(),
        {"splits": {"official": {"kind": "drawn", "fractions": [0.6, 0.4, 0.0]}}},
        set(IDS),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_pair_is_found_and_no_other(tmp_path: Path, name: str) -> None:
    files, card, ids = LAYOUTS[name]
    if "packed" in name:
        files = {k: v for k, v in files.items() if v is not None}
        (tmp_path / "masks").mkdir()
        for i in IDS:
            with (tmp_path / f"masks/{i}.NPY").open("wb") as file:
                np.save(file, T)
    found = labels(write_set(tmp_path, files, **card))
    assert set(found) == ids
    assert all((label == T).all() for label in found.values())


def linked_folder(folder: Path) -> None:
    for kind in ("images", "masks"):
        (folder / "elsewhere" / kind).mkdir(parents=True)
        (folder / kind / "train-b.png").rename(folder / "elsewhere" / kind / "train-b.png")
        (folder / kind / "p2").symlink_to(folder / "elsewhere" / kind)


def linked_to_itself(folder: Path) -> None:
    linked_folder(folder)
    (folder / "elsewhere" / "images" / "again").symlink_to(folder / "elsewhere" / "images")
    (folder / "images" / "up").symlink_to(folder)


@pytest.mark.parametrize("links", [linked_folder, linked_to_itself])
def test_linked_folders_are_followed_and_never_in_a_circle(tmp_path: Path, links: Callable[[Path], None]) -> None:
    card = write_set(tmp_path, images() | masks())
    links(tmp_path)
    assert {sample.id for sample in check_all(card, "official").samples} == {"train-a", "p2/train-b", "val-a"}


# name -> (files beside the pairs, what the note says)
NOTED = {
    "hidden": ({"images/.x.png": b"x", "images/._y.png": b"x"}, r"hidden or of the system \(2\): images/\._y\.png"),
    "another extension": (
        {"images/more.jpg": encoded(picture("more"), "JPEG")},
        r"no pattern .* \(1\): images/more\.jpg",
    ),
    "masks of nothing": ({"masks/orphan.tif": b"x"}, r"pictures that no pattern .* \(1\): masks/orphan\.tif"),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_is_passed_over_is_counted_and_named(tmp_path: Path, name: str) -> None:
    files, sentence = NOTED[name]
    notes = check_all(write_set(tmp_path, images() | masks() | files), "official").notes
    assert any(re.search(sentence, note) for note in notes), notes


PART = np.zeros(SIZE, np.uint8)
PART[20:23, 25:30] = 255
SECOND = {
    "x_1": "train-a_mask_1.png",
    "x (2)": "train-a_mask (2).png",
    "x2": "train-a_mask2.png",
    "xb": "train-a_mask_b.tif",
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_mask_is_refused_and_united_where_the_card_says_so(tmp_path: Path, name: str) -> None:
    files = images() | masks("masks/{}_mask.png") | {f"masks/{SECOND[name]}": PART}
    with pytest.raises(
        DatasetError, match=r"second mask .*\n.*no pattern of the card matches it; beside it train-a_mask"
    ):
        labels(write_set(tmp_path, files, masks="masks/{id}_mask.png", several_masks="error"))
    card = write_set(tmp_path, files, masks="masks/{id}_mask*", several_masks="union")
    found = labels(card)
    np.testing.assert_array_equal(found["train-a"], T | PART.astype(bool))
    np.testing.assert_array_equal(found["val-a"], T)


def test_every_mask_of_a_union_is_in_the_samples_digest(tmp_path: Path) -> None:
    files = images() | masks("masks/{}_mask.png") | {"masks/train-a_mask_1.png": PART}
    card = write_set(tmp_path, files, masks="masks/{id}_mask*", several_masks="union")
    before = {sample.id: sample.digest for sample in check_all(card, "official").samples}
    write(tmp_path / "masks/train-a_mask_1.png", PART[::-1].copy())
    after = {sample.id: sample.digest for sample in check_all(card, "official").samples}
    assert [i for i in IDS if before[i] != after[i]] == ["train-a"]


CAT, DOG = T * np.uint8(255), PART
PETS = {"classes": ["background", "cat", "dog"], "masks": "masks/{class}/{id}.png"}


def pets(**more: Any) -> dict[str, Any]:
    return images() | masks("masks/cat/{}.png") | {"masks/dog/train-a.png": DOG} | more


def test_a_folder_a_class_becomes_one_label(tmp_path: Path) -> None:
    found = labels(write_set(tmp_path, pets(), **PETS))
    np.testing.assert_array_equal(found["train-a"], T + 2 * (DOG > 0))
    np.testing.assert_array_equal(found["val-a"], T)


def test_a_mask_that_changes_its_class_changes_the_digest(tmp_path: Path) -> None:
    card = write_set(tmp_path, pets(), **PETS)
    before = {sample.id: sample.digest for sample in check_all(card, "official").samples}
    (tmp_path / "masks/dog/val-a.png").write_bytes((tmp_path / "masks/cat/val-a.png").read_bytes())
    (tmp_path / "masks/cat/val-a.png").unlink()
    after = {sample.id: sample.digest for sample in check_all(card, "official").samples}
    assert [i for i in IDS if before[i] != after[i]] == ["val-a"]


BOTH = np.zeros(SIZE, np.uint8)
BOTH[10:14, 10:30] = 255
OVERLAPS = {"ignore": 255, "last": 2}


def test_pixels_of_two_classes_are_refused_unless_the_card_says_what_they_are(tmp_path: Path) -> None:
    files = pets(**{"masks/dog/train-b.png": BOTH})
    with pytest.raises(DatasetError, match=r"40 pixels belong to two classes; .* overlap: ignore or last"):
        labels(write_set(tmp_path, files, **PETS))
    for rule, value in OVERLAPS.items():
        found = labels(write_set(tmp_path, files, **PETS, overlap=rule))["train-b"]
        assert set(found[(T > 0) & (BOTH > 0)]) == {value}


# name -> (files, card, sentence)
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a folder of no class": (pets(**{"masks/bird/train-a.png": DOG}), PETS, r"folder of class 'bird'; expected one of"),
    "no mask of any class": (
        pets(**{"images/train-c.png": picture("c", SIZE)}),
        PETS,
        "train-c: no file masks/{class}/",
    ),
    "masks of two sizes": (
        pets(**{"masks/dog/val-a.png": np.zeros((5, 5), np.uint8)}),
        PETS,
        "the image's masks have different sizes: val-a.png 32x24, val-a.png 5x5",
    ),
    "indexed folders of a class": (
        pets(),
        PETS | {"encoding": {"kind": "indexed", "labels": {0: 0, 1: 1}}},
        r"encoding is indexed with {class} in masks; expected binary",
    ),
    "patterns per subset for images alone": (
        images(),
        {"images": {"train": "a/{id}.png"}},
        "images and masks name different subsets",
    ),
    "given subsets with one pattern": (images(), {"splits": {"s": {"kind": "given"}}}, "kind given needs images per"),
    "the class in the images": (images(), {"images": "{class}/{id}.png"}, "images have {class} in their pattern"),
    "bits and window": (images(), {"bits": 12, "window": [0, 4095]}, "bits is 12 and window .*; expected one of them"),
    "an empty window": (images(), {"window": [5, 5]}, "low < high"),
    "a choice of letters and brackets": (
        images("images/{}.png", ("s[1]/a", "s1/a", "v")) | masks("masks/{}.png", ("s[1]/a", "s1/a", "v")),
        {"splits": {"official": {"kind": "matched", "patterns": {"train": "s[1]/*", "val": "v"}}}},
        r"s\[1\]/\* fits s\[1\]/a, and as a choice of letters s1/a",
    ),
    "an umlaut in Latin-1": ({}, {}, r"card\.yaml: byte 0xe9 in line 1 is not UTF-8; save the file as UTF-8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told_in_a_sentence(tmp_path: Path, name: str) -> None:
    files, content, sentence = WRONG[name]
    card = write_set(tmp_path, files, **content)
    if "Latin-1" in name:
        card.write_bytes("title: Polypé\n".encode("latin-1") + card.read_bytes())
    with pytest.raises(DatasetError, match=sentence):
        labels(card)


def test_all_mistakes_of_a_set_are_told_together(tmp_path: Path) -> None:
    files = images() | masks("masks/{}_m.png") | {"masks/train-a_m_b.png": PART, "masks/train-c_m.png": PART}
    files["masks/val-a_m.png"] = T * np.uint8(255) // 2
    card = write_set(tmp_path, files, masks="masks/{id}_m.png")
    assert {p.kind for p in check(card, "official")} == {"second mask", "missing image", "mask values"}


def exif(tag: int, size: tuple[int, int]) -> bytes:
    data = Image.Exif()
    data[0x0112] = tag
    return encoded(picture("exif", size), "JPEG", exif=data)


# name -> (stored size, mask size, EXIF, orientation on the card, what is said; empty: accepted)
TURNED = {
    "mask painted upright": ((32, 24), (24, 32), 6, "auto", ""),
    "mask painted as stored": ((24, 32), (24, 32), 6, "auto", "mask fits it as stored: orientation: stored"),
    "mask painted as stored, and told": ((24, 32), (24, 32), 6, "stored", ""),
    "square": ((24, 24), (24, 24), 6, "auto", "the mask fits the image upright and as stored; .* orientation: turned"),
    "upside down": ((24, 32), (24, 32), 3, "auto", "the mask fits the image upright and as stored"),
    "upside down, and told": ((24, 32), (24, 32), 3, "turned", ""),
}


@pytest.mark.parametrize("name", TURNED)
def test_a_turned_image_is_paired_by_its_size_or_by_the_card(tmp_path: Path, name: str) -> None:
    stored, painted, tag, orientation, sentence = TURNED[name]
    files = images("images/{}.jpg", IDS[1:]) | masks("masks/{}.png", IDS[1:])
    files |= {"images/train-a.jpg": exif(tag, stored), "masks/train-a.png": truth(painted) * np.uint8(255)}
    card = write_set(tmp_path, files, images="images/{id}.jpg", orientation=orientation)
    if sentence:
        with pytest.raises(DatasetError, match=sentence):
            labels(card)
    else:
        assert labels(card)["train-a"].shape == painted


def test_the_window_is_part_of_what_turns_files_into_arrays(tmp_path: Path) -> None:
    deep = {f"images/{i}.png": (np.asarray(picture(i, SIZE))[..., 0].astype(np.uint16) * 16) for i in IDS}
    digests = {check_all(write_set(tmp_path, deep | masks(), bits=bits), "official").card_digest for bits in (12, 16)}
    assert len(digests) == 2


def test_a_dangling_link_is_told_by_its_name(tmp_path: Path) -> None:
    card = write_set(tmp_path, images() | masks())
    (tmp_path / "images/train-b.png").unlink()
    (tmp_path / "images/train-b.png").symlink_to(tmp_path / "gone.png")
    assert "train-b.png: FileNotFoundError" in str(check(card, "official")[0])


NO_TEXT = [("images/train-\udcff.png", "masks/train-\udcff.png"), ("images/\udce9/train.png", "masks/\udce9/train.png")]


@pytest.mark.parametrize("names", NO_TEXT)
def test_files_whose_names_are_no_text_are_told_with_the_remedy(tmp_path: Path, names: tuple[str, str]) -> None:
    extra = {names[0]: picture("z", SIZE), names[1]: T * np.uint8(255)}
    problems = check(write_set(tmp_path, images() | masks() | extra), "official")
    assert [problem.kind for problem in problems] == ["name", "name"]
    assert "\\x" in problems[0].subject
    with pytest.raises(DatasetError, match=r"rename it, e\.g\. with convmv"):
        check_all(tmp_path / "card.yaml", "official")


def test_a_name_with_a_line_break_is_told_and_not_passed_over(tmp_path: Path) -> None:
    files = images() | masks() | images(ids=("train\n1",)) | masks(ids=("train\n1",))
    told = check(write_set(tmp_path, files), "official")
    assert [(problem.kind, problem.found) for problem in told] == [("name", "the name has a line break")] * 2
    assert told[0].subject.endswith("images/train\\n1.png")


@pytest.mark.timeout(60)
def test_pipes_and_sockets_are_passed_over_and_never_waited_for(tmp_path: Path) -> None:
    card = write_set(tmp_path, images() | masks())
    os.mkfifo(tmp_path / "images/train-z.png")
    os.mkfifo(tmp_path / "masks/train-z.png")
    found = check_all(card, "official")
    assert {sample.id for sample in found.samples} == set(IDS)
    assert "passed over, hidden or of the system (2): images/train-z.png, masks/train-z.png" in found.notes


HOMES = ("~", "$MY_SETS", "${MY_SETS}")


@pytest.mark.parametrize("home", HOMES)
def test_patterns_may_begin_with_the_home_folder_or_a_variable(
    tmp_path: Path, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME" if home == "~" else "MY_SETS", str(tmp_path / "sets"))
    write_set(tmp_path / "sets", images() | masks())
    places = {"images": f"{home}/images/{{id}}.png", "masks": f"{home}/masks/{{id}}.png"}
    (tmp_path / "card").mkdir()
    assert set(labels(write_set(tmp_path / "card", {}, **places))) == set(IDS)


def test_a_folder_stands_for_the_card_in_it(tmp_path: Path) -> None:
    write_set(tmp_path / "set", images() | masks())
    assert set(labels(tmp_path / "set")) == set(IDS)
    with pytest.raises(DatasetError, match="no card at"):
        check_all(tmp_path / "set/images", "official")


RED = np.zeros((*SIZE, 3), np.uint8)
RED[T > 0] = (255, 128, 0)


def test_colours_may_be_written_as_in_web_pages(tmp_path: Path) -> None:
    colours = {"background": "#000000", "polyp": "#FF8000"}
    numbers = {"background": [0, 0, 0], "polyp": [255, 128, 0]}
    files = images() | {f"masks/{i}.png": RED for i in IDS}
    card = write_set(tmp_path, files, encoding={"kind": "palette", "colours": colours})
    found = check_all(card, "official")
    assert all((label == T).all() for label in labels(card).values())
    again = check_all(write_set(tmp_path, {}, encoding={"kind": "palette", "colours": numbers}), "official")
    assert found.card_digest == again.card_digest


# what the card says -> the line about it
CARDS: dict[str, tuple[dict[str, Any], str]] = {
    "classes in one text": ({"classes": "background, polyp"}, r"classes: .*valid tuple; found 'background, polyp'"),
    "classes that are numbers": ({"classes": [0, 1]}, r"classes\.0: .*valid string; found 0\n.*classes\.1: .*found 1$"),
    "classes by number": ({"classes": {0: "a", 1: "b"}}, r"classes: .*; found {0: 'a', 1: 'b'}"),
    "a name with blanks": ({"name": "My Set"}, "name: String should match .*; found 'My Set'"),
    "labels by name": (
        {"encoding": {"kind": "indexed", "labels": {"background": 0, "polyp": 1}}},
        r"labels\.background\.\[key\]: .*; found 'background'",
    ),
    "a colour without numbers": (
        {"encoding": {"kind": "palette", "colours": {"background": "black", "polyp": "red"}}},
        r"colours\.polyp: .*; found 'red'",
    ),
    "an encoding without its kind": ({"encoding": "binary"}, "encoding: Input should be .*; found 'binary'"),
    "a misspelt key": ({"encodings": 1}, "encodings: unknown key; did you mean encoding"),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_wrong_card_is_told_with_what_stands_there(tmp_path: Path, name: str) -> None:
    content, sentence = CARDS[name]
    with pytest.raises(DatasetError, match=sentence):
        check_all(write_set(tmp_path, images() | masks(), **content), "official")


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_a_class_has_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="expected a name for each"):
        check_all(write_set(tmp_path, images() | masks(), classes=["background", name]), "official")
