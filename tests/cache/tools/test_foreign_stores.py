"""Stores from elsewhere, or spread over disks: nothing outside is read or written, nothing needed is removed."""

import json
import shutil

import numpy as np
import pytest
from tiny import HEAD, tiny_cache, tiny_train, tree

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.extraction.extract import extract
from pipeline.cache.manifest.sealed import write_sealed
from pipeline.cache.store import Store
from pipeline.cache.tools.copy import LeavesStoreError, copy
from pipeline.cache.tools.prune import prune
from pipeline.cache.tools.verify import verify
from pipeline.cache.tools.verify_statistics import wrong_statistics
from pipeline.cli import main
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


def resealed(path, change):
    """Changes a plan or receipt as whoever made the store can: with a valid checksum."""
    value = json.loads(path.read_bytes())
    change(value)
    write_sealed(path, value)


@pytest.mark.parametrize("linked", ["train", "train/s4", "receipts", "train/s4/c", "plan"])
def test_prune_keeps_a_store_on_several_disks_whole(store, tmp_path, linked):
    disk = tmp_path / "disk"
    shutil.move(store / linked, disk)
    (store / linked).symlink_to(disk)
    before = tree(disk)
    (disk / "left").mkdir()
    (disk / "left" / "over.bin").write_bytes(b"123")
    found = prune(store, remove=True)
    assert {str(p.relative_to(store)): n for p, n in found.items()} == {f"{linked}/left/over.bin": 3}
    assert tree(disk) == before
    assert Store(store).appended
    assert not verify(store, sources=False).problems


def test_prune_keeps_the_link_to_a_disk_that_is_not_there_now(store, tmp_path):
    shutil.move(store / "train", tmp_path / "disk")
    (store / "train").symlink_to(tmp_path / "disk")
    (tmp_path / "disk").rename(tmp_path / "away")
    assert prune(store, remove=True) == {}
    (tmp_path / "away").rename(tmp_path / "disk")
    assert Store(store).appended


def test_prune_removes_a_needless_link_but_not_what_it_points_to(store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("text")
    (store / "shortcut").symlink_to(tmp_path / "mine")
    assert [p.name for p in prune(store, remove=True)] == ["shortcut"]
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "text"


OUTSIDE = ["../x", "/etc/passwd", "train/../../x", "a//b", "", ".", "a\\b", "a\0b", "train/.hidden", "..", "x/"]


@pytest.mark.parametrize("verb", ["copy", "prune", "verify", "inspect"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_receipt_that_names_a_file_outside_is_refused(store, tmp_path, name, verb, capsys):
    (tmp_path / "x").write_text("mine")
    facts = {"bytes": 4, "crc32c": 0}
    resealed(store / "receipts/train-00000.json", lambda receipt: receipt["files"].update({name: facts}))
    before = {k: v for k, v in tree(tmp_path).items() if not k.endswith(".lock")}
    arguments = [verb, str(store)] + ([str(tmp_path / "copy")] if verb == "copy" else [])
    assert main(arguments) == 1
    assert "which is no path within the store" in capsys.readouterr().err
    assert {k: v for k, v in tree(tmp_path).items() if not k.endswith(".lock")} == before


def rename_unit(plan):
    plan["units"][0]["name"] = "../../elsewhere"


def rename_subset(plan):
    plan["units"][0]["subset"] = "../train"


def rename_digest(plan):
    plan["units"][0]["records"][0]["digest"] = "../../../etc/passwd"


def rename_level(plan):
    plan["channels"]["s4/../.."] = 3


@pytest.mark.parametrize("change", [rename_unit, rename_subset, rename_digest, rename_level])
def test_a_plan_that_leads_outside_is_refused(store, change):
    resealed(store / "plan/0000.json", change)
    reason = (
        r"names .* which is no path within the store|units\.0\.subset: .*'\.\./train'|expected levels .*'s4/\.\./\.\.'"
    )
    with pytest.raises(StoreDamaged, match=rf"plan/0000\.json.*({reason})"):
        Store(store)


@pytest.mark.parametrize("file", ["appended/plan.json", "appended/receipts/train-00000.json"])
def test_appended_tensors_that_lead_outside_are_not_used(store, file):
    def change(value):
        value.setdefault("files", {})["../x"] = {"bytes": 1, "crc32c": 0}

    resealed(store / file, change)
    assert Store(store).appended is None
    with pytest.raises(StoreDamaged, match="no path within the store"):
        prune(store, remove=True)


@pytest.mark.parametrize("linked", ["train/s4/c/0/0/0/0", "receipts/train-00000.json", "val", "zarr.json"])
def test_copy_follows_links_out_of_the_store_only_on_request(store, tmp_path, linked):
    real = tmp_path / "secret"
    shutil.move(store / linked, real)
    (store / linked).symlink_to(real)
    with pytest.raises(LeavesStoreError, match=r"is really .*secret.*, outside the store; .*--follow-links"):
        copy(store, tmp_path / "copy.zarr")
    assert not (tmp_path / "copy.zarr").exists()
    assert main(["copy", str(store), str(tmp_path / "copy.zarr"), "--follow-links"]) == 0
    assert not verify(tmp_path / "copy.zarr", sources=False).problems


@pytest.mark.parametrize("codec", ["fp32", "int16", "fp16", "bf16", "int8", "int6", "int4"])
def test_the_statistics_of_every_codec_are_found_right_and_changed_ones_wrong(tmp_path, codec):
    path = extract(tiny_cache(tmp_path, codec={"kind": codec})).path
    assert wrong_statistics(Store(path)) == []
    for name, factor in {"sum": 100.0, "sum_squares": 100.0, "min": 2.0, "max": 2.0, "count": 2}.items():
        receipt = path / "receipts/train-00000.json"
        kept = receipt.read_bytes()
        resealed(receipt, lambda r, n=name, f=factor: r["levels"]["s8"].update({n: scaled(r["levels"]["s8"][n], f)}))
        assert [f"s8 {name}" in line for line in wrong_statistics(Store(path))] == [True], name
        receipt.write_bytes(kept)


def scaled(value, factor):
    return (np.asarray(value) * factor).tolist()


@pytest.mark.parametrize("value", [None, "text", [1.0], float("nan"), {}])
def test_statistics_of_another_shape_are_wrong_without_a_traceback(store, value, capsys):
    resealed(store / "receipts/val-00000.json", lambda receipt: receipt["levels"]["s4"].update(sum=value))
    for verb in (["verify", "--files-only"], ["inspect"]):
        assert main([verb[0], str(store), *verb[1:]]) == 1
        assert "val-00000.json" in (said := capsys.readouterr().err)
        assert "delete it and run the command that made the store again" in said
