"""`sward prune`: what belongs to nothing goes, on request; everything else stays to the byte."""

import shutil

import pytest
from tiny import HEAD, tiny_cache, tiny_train, tree

from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.prune import prune
from pipeline.cache.tools.verify import verify
from pipeline.cli import main
from pipeline.files import Busy, locked
from pipeline.training.loop import train
from pipeline.training.teacher.append import append


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose store has appended logits."""
    folder = tmp_path_factory.mktemp("place")
    config = tiny_cache(folder)
    extract(config)
    append(folder / "store.zarr", ("logits",), train(tiny_train(folder, config, head=HEAD).head_run()))
    return folder


@pytest.fixture
def store(place, tmp_path):
    return shutil.copytree(place / "store.zarr", tmp_path / "store.zarr")


def test_of_a_whole_store_nothing_is_left_over(store):
    assert prune(store, remove=True) == {}
    assert Store(store).appended


def test_leftovers_of_kills_are_shown_first_and_removed_on_request(store):
    kept = tree(store)
    left = {"tmp/train-00001/train/s4/c/1/0/0/0": 40, "receipts/.train-00001.json.77.partial": 3,
            "train/s4/c/9/0/0/0": 11, "copying.json": 2}  # fmt: skip
    for name, size in left.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(bytes(size))
    found = prune(store)
    assert {str(p.relative_to(store)): size for p, size in found.items()} == left
    assert all(path.exists() for path in found)
    assert prune(store, remove=True) == found
    assert tree(store) == kept
    assert not (store / "tmp").exists()


def test_the_shards_of_a_unit_without_receipt_are_left_over_and_extraction_makes_them_again(place, store):
    whole = tree(store)
    (store / "receipts/train-00001.json").unlink()
    found = prune(store, remove=True)
    assert {p.relative_to(store).parts[:2] for p in found} >= {("train", "s4"), ("train", "image")}
    assert all(p.relative_to(store).parts[3] == "1" for p in found)
    assert extract(tiny_cache(place, store=str(store))).computed == 4
    assert {n: c for n, c in tree(store).items() if "/c/" in n} == {n: c for n, c in whole.items() if "/c/" in n}


def test_appended_tensors_go_with_their_plan(store):
    shutil.rmtree(store / "appended")
    found = {p.relative_to(store).parts[1] for p in prune(store, remove=True)}
    assert found == {"logits"}
    assert not (store / "train/logits").exists()
    assert not verify(store, sources=False).problems


def test_it_never_touches_a_store_that_is_being_written(store):
    (store / "tmp").mkdir()
    (store / "tmp/half").write_bytes(b"x")
    with locked(store), pytest.raises(Busy, match="another process is writing"):
        prune(store, remove=True)
    assert (store / "tmp/half").exists()


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match="nothing is removed from other folders"):
        prune(tmp_path, remove=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_command_removes_only_with_yes(store, capsys):
    (store / "tmp").mkdir()
    (store / "tmp/half").write_bytes(b"xy")
    assert main(["prune", str(store)]) == 0
    said = capsys.readouterr()
    assert f"           2 {store / 'tmp/half'}" in said.out
    assert "remove them with --yes" in said.err
    assert main(["prune", str(store), "--yes"]) == 0
    assert not (store / "tmp/half").exists()
    assert main(["prune", str(store)]) == 0
    assert "nothing is left over" in capsys.readouterr().err
