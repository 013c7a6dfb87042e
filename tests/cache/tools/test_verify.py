"""`sward verify` exits 0 on a good store; otherwise it fails and names what was changed."""

import shutil

import pytest
import yaml
from PIL import Image
from tiny import tiny_cache, tiny_weights

from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.teacher_writer import render_twice
from pipeline.cache.tools.verify import verify
from pipeline.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    extract(tiny_cache(folder))
    return folder


@pytest.fixture
def place(made, tmp_path):
    """A store and its sources that may be damaged; the config says where they are now."""
    shutil.copytree(made, tmp_path / "copy")
    config = tiny_cache(tmp_path / "copy")
    (tmp_path / "cache.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return tmp_path / "copy", tmp_path / "cache.yaml"


def outcome(place, capsys, *more):
    """(exit status, what was printed) of the command."""
    status = main(["verify", str(place[0] / "store.zarr"), "--config", str(place[1]), "--records", "4", *more])
    return status, capsys.readouterr().out


def test_a_good_store_passes_with_its_levels_cosines(place, capsys):
    status, said = outcome(place, capsys)
    assert status == 0
    assert "all good" in said
    assert "s32  worst cosine 1.0000000" in said or "s32  worst cosine 0.99999" in said


@pytest.mark.parametrize("array", ["s4", "image", "label"])
def test_one_flipped_byte_in_a_shard_is_found_and_the_file_named(place, capsys, array):
    shard = next((place[0] / "store.zarr/train" / array / "c/1").rglob("0"))
    while shard.is_dir():
        shard = next(shard.iterdir())
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    status, said = outcome(place, capsys, "--files-only")
    assert status == 1
    assert f"damaged file: {shard}" in said
    assert "delete" in said


def test_a_changed_weight_is_found(place, capsys):
    tiny_weights(place[0] / "teacher.safetensors", seed=3)
    status, said = outcome(place, capsys)
    assert status == 1
    assert "changed weights" in said


def test_a_changed_image_is_found_by_name(place, capsys):
    Image.new("RGB", (80, 72), (1, 2, 3)).save(place[0] / "tiny/images/val-1.png")
    status, said = outcome(place, capsys)
    assert status == 1
    assert "changed image" in said
    assert "val-1.png" in said


def test_a_missing_image_is_found_by_name(place, capsys):
    (place[0] / "tiny/images/val-1.png").unlink()
    status, said = outcome(place, capsys)
    assert status == 1
    assert "val-1" in said


def test_pixels_that_render_otherwise_are_found(place, monkeypatch):
    """As after an update of Pillow: sums and sources are right, the view is not the same."""
    monkeypatch.setattr("pipeline.cache.tools.verify.render_twice", inverted)
    found = verify(place[0] / "store.zarr", 3, config=tiny_cache(place[0]))
    assert len([p for p in found.problems if "other pixels" in p]) == 3


def inverted(*args):
    image, label, seen = render_twice(*args)
    return 255 - image, label, seen
