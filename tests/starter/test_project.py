"""`sward init` writes files that load, for each usual layout of folders, and replaces nothing."""

import numpy as np
import pytest
from PIL import Image

from pipeline.cache.config import CacheConfig
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.datasets import load_dataset
from pipeline.experiments.compare_config import CompareConfig
from pipeline.starter.pairs import find_pairing
from pipeline.starter.project import NAMES
from pipeline.training.config import TrainConfig


def picture(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8), mode).save(path)


def folder_of(place, images="images/{}.png", masks="masks/{}.png", foreground=255, count=12):
    """Frames with a square each, which lies elsewhere in every frame."""
    for k in range(count):
        label = np.zeros((64, 96))
        label[10 + k : 30 + k, 20:60] = foreground
        picture(place / images.format(f"f{k}"), np.random.default_rng(k).integers(0, 255, (64, 96, 3)))
        picture(place / masks.format(f"f{k}"), label)
    return place


def test_the_written_files_load_and_say_the_size_of_the_images(tmp_path, capsys):
    place = folder_of(tmp_path / "my frames")
    assert main(["init", str(place)]) == 0
    assert "12 pairs: images/{id}.png with masks/{id}.png" in capsys.readouterr().out
    assert load_config(CacheConfig, place / "cache.yaml").size == (64, 96)
    assert load_config(TrainConfig, place / "train.yaml").cache.dataset == str(place / "card.yaml")
    assert list(load_config(CompareConfig, place / "compare.yaml").methods) == ["student alone", "SWARD"]
    assert load_dataset(place / "card.yaml", "mine").subsets == ("train", "val", "test")


@pytest.mark.parametrize("taken", NAMES)
def test_an_existing_file_is_kept_and_none_is_written(tmp_path, capsys, taken):
    place = folder_of(tmp_path / "set")
    (place / taken).write_text("mine")
    assert main(["init", str(place)]) == 1
    assert f"{taken} exists" in capsys.readouterr().err
    assert (place / taken).read_text() == "mine"
    assert [n for n in NAMES if (place / n).exists()] == [taken]


@pytest.mark.parametrize(
    ("images", "masks", "found"),
    [
        ("{}.png", "{}_mask.png", ("{id}.png", "{id}_mask.png")),
        ("a/img/{}.png", "a/gt/{}_seg.png", ("a/img/{id}.png", "a/gt/{id}_seg.png")),
        ("imagesTr/{}_0000.png", "labelsTr/{}.png", ("imagesTr/{id}_0000.png", "labelsTr/{id}.png")),
    ],
)
def test_masks_are_told_from_images_by_their_names(tmp_path, images, masks, found):
    pairing = find_pairing(folder_of(tmp_path / "set", images, masks))
    assert (pairing.images, pairing.masks) == found
    assert len(pairing.ids) == 12


def test_a_folder_for_each_class_names_the_classes(tmp_path):
    place = folder_of(tmp_path / "set", masks="masks/cat/{}.png")
    picture(place / "masks/dog/f0.png", np.zeros((64, 96)))
    pairing = find_pairing(place)
    assert pairing.masks == "masks/{class}/{id}.png"
    assert pairing.classes == ("background", "cat", "dog")


def test_255_beside_labels_is_suggested_as_void(tmp_path):
    place = folder_of(tmp_path / "set", foreground=3)
    for path in (place / "masks").iterdir():
        values = np.array(Image.open(path))
        values[:4] = 255
        picture(path, values)
    assert main(["init", str(place)]) == 0
    assert "encoding: {kind: indexed, labels: {0: 0, 3: 1}, ignore: [255]}" in (place / "card.yaml").read_text()


@pytest.mark.parametrize("there", [[], ["notes.txt"], ["images/a.png"]])
def test_a_folder_without_pairs_is_refused_with_what_is_expected(tmp_path, capsys, there):
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert main(["init", str(tmp_path)]) == 1
    assert "expected e.g. images/a.png and masks/a.png" in capsys.readouterr().err
    assert not [n for n in NAMES if (tmp_path / n).exists()]
