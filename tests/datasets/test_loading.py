"""Cards and folders to samples; every kind of broken input, alone and all at once."""

import hashlib
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pictures import half_mask, picture
from PIL import Image
from tiny import tiny_dataset

from pipeline.datasets import DatasetError, check, check_all, checks, load_dataset, read_card, read_image, read_label
from pipeline.datasets.formats import large

MakeSet = Callable[..., Path]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_folder_with_a_card_needs_no_code(make_set: MakeSet, suffix: str) -> None:
    dataset = check_all(make_set(10, suffix), "random")
    assert [len(dataset.subset(name)) for name in ("train", "val", "test")] == [8, 1, 1]
    assert dataset.classes == ("background", "polyp")
    for sample in dataset.samples:
        np.testing.assert_array_equal(read_image(sample), np.asarray(picture(sample.id)))
        np.testing.assert_array_equal(read_label(sample), half_mask(value=1))


def test_one_folder_may_mix_image_formats(make_set: MakeSet) -> None:
    card = make_set(9, ".png", images="images/{id}.*")
    picture("b").save(card.parent / "images" / "b.jpg")
    Image.fromarray(half_mask()).save(card.parent / "masks" / "b.png")
    assert {sample.image_path.suffix for sample in check_all(card, "random").samples} == {".png", ".jpg"}


def test_identity_is_the_digest_of_the_bytes_and_not_the_name(make_set: MakeSet) -> None:
    card = make_set()
    before = {sample.id: sample for sample in load_dataset(card, "random").samples}
    image, mask = before["a03"].image_path.read_bytes(), before["a03"].mask_path.read_bytes()
    content = len(image).to_bytes(8, "little") + image + len(mask).to_bytes(8, "little") + mask
    assert before["a03"].digest == hashlib.sha256(content).hexdigest()
    for folder in ("images", "masks"):
        (card.parent / folder / "a03.png").rename(card.parent / folder / "renamed.png")
    after = {sample.id: sample.digest for sample in load_dataset(card, "random").samples}
    assert after["renamed"] == before["a03"].digest
    Image.fromarray(half_mask(value=254)).save(card.parent / "masks" / "renamed.png")
    assert {s.id: s.digest for s in load_dataset(card, "random").samples}["renamed"] != before["a03"].digest


def test_the_card_digest_follows_labels_and_nothing_else(make_set: MakeSet) -> None:
    card = make_set()
    content = yaml.safe_load(card.read_text())
    first = read_card(card).digest
    card.write_text(yaml.safe_dump({**content, "title": "Other"}))
    assert read_card(card).digest == first
    card.write_text(yaml.safe_dump({**content, "classes": ["background", "adenoma"]}))
    assert read_card(card).digest != first


def test_the_split_digest_follows_membership(make_set: MakeSet) -> None:
    card = make_set(splits={"a": {"kind": "drawn"}, "b": {"kind": "drawn"}, "c": {"kind": "drawn", "seed": 1}})
    a, b, c = (load_dataset(card, name).split_digest for name in "abc")
    assert a == b != c


BREAKS = {
    "missing image": lambda f: (f / "images/a00.png").unlink(),
    "missing mask": lambda f: (f / "masks/a01.png").unlink(),
    "unreadable": lambda f: (f / "images/a02.png").write_bytes((f / "images/a02.png").read_bytes()[:200]),
    "sizes differ": lambda f: picture("other", (9, 8)).save(f / "images/a03.png"),
    "mask values": lambda f: Image.fromarray(half_mask(value=100)).save(f / "masks/a04.png"),
    "same bytes": lambda f: shutil.copy(f / "images/a05.png", f / "images/a06.png"),
    "unsupported": lambda f: picture("cmyk").convert("CMYK").save(f / "images/a07.png", "TIFF"),
    "ambiguous": lambda f: shutil.copy(f / "masks/a08.png", f / "masks/a08.bmp"),
}
BROKEN = dict(zip(BREAKS, ("a00", "a01", "a02", "a03", "a04", "a05", "a07", "a08"), strict=True))


@pytest.mark.parametrize("kind", BREAKS)
def test_each_break_is_told_by_its_kind_and_name(make_set: MakeSet, kind: str) -> None:
    card = make_set(masks="masks/{id}.*")
    BREAKS[kind](card.parent)
    problems = check(card, "random")
    assert [problem.kind for problem in problems] == [kind]
    assert BROKEN[kind] in str(problems[0])
    with pytest.raises(DatasetError, match=kind):
        check_all(card, "random")


def test_all_breaks_are_told_in_one_error_with_names_and_remedies(make_set: MakeSet) -> None:
    card = make_set(12, masks="masks/{id}.*")
    for break_ in BREAKS.values():
        break_(card.parent)
    with pytest.raises(DatasetError) as caught:
        check_all(card, "random")
    text = str(caught.value)
    assert text.startswith(f"data set {card}, split random: {len(BREAKS)} problems")
    for kind, name in BROKEN.items():
        assert f"{kind} (1):" in text
        assert name in text


def test_many_problems_of_a_kind_are_counted_and_the_first_twenty_shown(make_set: MakeSet) -> None:
    card = make_set(30)
    for path in (card.parent / "masks").iterdir():
        Image.fromarray(half_mask((5, 6))).save(path)
    with pytest.raises(DatasetError, match=r"sizes differ \(30\)") as caught:
        check_all(card, "random")
    assert str(caught.value).count("image 16x12, mask") == 20
    assert "... and 10 more" in str(caught.value)


def test_truncated_files_pass_the_listing_but_not_the_check(make_set: MakeSet) -> None:
    card = make_set(10, ".jpg")
    path = card.parent / "images" / "a00.jpg"
    path.write_bytes(path.read_bytes()[:-60])
    dataset = load_dataset(card, "random")
    with pytest.raises(DatasetError, match="truncated"):
        read_image(next(sample for sample in dataset.samples if sample.id == "a00"))
    with pytest.raises(DatasetError, match=r"a00\.jpg: OSError: image file is truncated"):
        check_all(card, "random")


def test_absent_files_are_told_once_with_the_place_and_where_to_get_them(make_set: MakeSet) -> None:
    card = make_set(source={"kind": "files", "homepage": "https://example.org"}, images="pictures/{id}.png")
    with pytest.raises(DatasetError, match=r"no such folder.*set SWARD_DATA; files: https://example\.org"):
        load_dataset(card, "random")


def test_a_pattern_that_matches_nothing_shows_what_is_there(make_set: MakeSet) -> None:
    with pytest.raises(DatasetError, match=r"nothing matches images/\{id\}\.jpg \(it has a00\.png, a01\.png"):
        load_dataset(make_set(images="images/{id}.jpg"), "random")


def test_an_unknown_split_lists_the_known_ones(make_set: MakeSet) -> None:
    with pytest.raises(DatasetError, match="unknown split 'sequence'; known: random"):
        load_dataset(make_set(), "sequence")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"known names: .*cvc-clinicdb.*procedural"):
        load_dataset("cvc-clinic", "random")


def test_all_mistakes_of_a_card_are_told_together(make_set: MakeSet) -> None:
    card = make_set(classes=["a", "b", "c"], masks="masks/all.png", licence="")
    with pytest.raises(DatasetError, match="licence: String should have at least 1 character"):
        read_card(card)
    card.write_text(yaml.safe_dump({**yaml.safe_load(card.read_text()), "licence": "none"}))
    with pytest.raises(DatasetError, match=r"exactly one \{id\} in it; 3 classes with a binary mask; expected 2"):
        read_card(card)


def test_cityscapes_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [
        f"{part}/{city}/{city}_000000_{n:06d}" for part, city in (("train", "aachen"), ("val", "ulm")) for n in (1, 2)
    ]
    root = tmp_path / "cityscapes"
    for i in [*ids, "test/bonn/bonn_000000_000001"]:
        image, mask = root / f"leftImg8bit/{i}_leftImg8bit.png", root / f"gtFine/{i}_gtFine_labelIds.png"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(image)
        Image.fromarray(np.array([[7, 33, 0, 26]] * 12, np.uint8).repeat(4, 1)).save(mask)
        mask.with_name(mask.name.replace("labelIds", "instanceIds")).touch()
    monkeypatch.setenv("SWARD_DATA", str(tmp_path))
    dataset = check_all("cityscapes", "official")
    assert [sample.id for sample in dataset.samples] == ids
    assert (dataset.subsets, dataset.evaluation, len(dataset.classes)) == (("train", "val"), "val", 19)
    assert read_label(dataset.samples[0])[0, ::4].tolist() == [0, 18, 255, 13]


def test_a_test_mask_without_a_single_labelled_pixel_is_named(tmp_path):
    card = tiny_dataset(tmp_path / "tiny")
    card.write_text(card.read_text().replace("labels: {0: 0, 1: 1}", "labels: {0: 0, 1: 1}, ignore: [9]"))
    Image.new("L", (80, 72), 9).save(tmp_path / "tiny/masks/test-1.png")
    with pytest.raises(DatasetError, match=r"test-1\.png: every pixel is ignored \(test\)"):
        check_all(card, "random")


def test_only_a_few_large_pictures_are_decoded_at_once(make_set: MakeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    going, most, lock = [0], [0], threading.Lock()
    decode = checks.decode_picture

    def counted(*args: Any) -> Any:
        with lock:
            going[0] += 1
            most[0] = max(most[0], going[0])
        time.sleep(0.02)
        with lock:
            going[0] -= 1
        return decode(*args)

    monkeypatch.setattr(checks, "decode_picture", counted)
    card = make_set(16)
    check_all(card, "random")
    assert most[0] > 2
    monkeypatch.setattr(large, "LARGE", 1)
    most[0] = 0
    check_all(card, "random")
    assert most[0] <= 2


def test_a_key_that_a_card_gives_twice_is_refused_with_both_lines(make_set: MakeSet) -> None:
    card = make_set()
    text = card.read_text()
    card.write_text(text + "images: other/{id}.png\n")
    with pytest.raises(DatasetError, match=rf"'images' is given twice, in lines \d+ and {len(text.splitlines()) + 1}"):
        read_card(card)
