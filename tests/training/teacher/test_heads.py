"""The teacher's head: fitted without a trunk, frozen, its tensors recomputed or read from the store, never mixed up."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorstore
import torch
import yaml
import zarr
from safetensors.torch import load_file, save_file
from tiny import HEAD, tiny_cache, tiny_train, tree

from pipeline.cache.errors import CacheMismatch, ExtractionError
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import verify
from pipeline.files import read_json
from pipeline.training.batch_order import Order
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.loop import train
from pipeline.training.stream import Stream
from pipeline.training.teacher.append import append
from pipeline.training.teacher.heads import HeadMissing, head_source

CPU = torch.device("cpu")
KD = {"kind": "kd"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(cache, folder of runs, folder of the fitted head)"""
    cache = tiny_cache(tmp_path_factory.mktemp("cache"))
    extract(cache)
    runs = tmp_path_factory.mktemp("head")
    return cache, runs, train(tiny_train(runs, cache, head=HEAD).head_run())


@pytest.fixture
def copied(made, tmp_path):
    """A store of the test's own."""
    cache, runs, head = made
    shutil.copytree(cache.store, tmp_path / "store.zarr")
    return cache.model_copy(update={"store": str(tmp_path / "store.zarr")}), runs, head


BLOCKED = """
import sys
sys.modules["sam2"] = sys.modules["hydra"] = None
from pipeline.cli import main
sys.exit(main(["fit-head", sys.argv[1]]))
"""


@pytest.mark.parametrize("kind", ["teacher-head", "resunetpp-head"])
def test_it_is_fitted_where_neither_trunk_nor_weights_nor_images_can_be_had(kind, made, tmp_path):
    cache, _, _ = made
    gone = cache.model_dump(mode="json")
    head = {"steps": 2, "network": {"kind": kind, "width": 8}}
    config = tiny_train(tmp_path, cache, head=head)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json") | {"cache": gone}))
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "train.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = read_json(config.head_run().folder / "run.json")
    assert facts["status"] == "finished"
    assert 0 <= facts["test"]["dice"] <= 1


def test_it_is_one_run_for_students_of_all_seeds_and_methods(made):
    cache, runs, _ = made
    folders = {
        tiny_train(runs, cache, head=HEAD, seed=s, method=m).head_run().folder
        for s in (0, 1)
        for m in (KD, {"kind": "plain"})
    }
    assert len(folders) == 1


def test_only_runs_that_use_it_have_it_in_their_identity(made):
    cache, runs, _ = made
    other = HEAD | {"steps": 4}
    plain, kd = (
        {tiny_train(runs, cache, head=h, method=m).identity() for h in (HEAD, other)} for m in ({"kind": "plain"}, KD)
    )
    assert len(plain) == 1
    assert len(kd) == 2


def test_a_run_that_needs_it_says_how_to_get_it(made, tmp_path):
    cache, _, _ = made
    with pytest.raises(HeadMissing, match=r"not fitted.*sward fit-head CONFIG"):
        train(tiny_train(tmp_path, cache, head=HEAD, method=KD))
    with pytest.raises(ValueError, match=r"reads the teacher's logits.*head: \{steps: 300\}.*sward fit-head"):
        train(tiny_train(tmp_path, cache, method=KD))


def batch_of(config, store):
    source = head_source(config, store, CPU)
    order = Order(tuple(store.records["train"]), 4, 0)
    stream = Stream(store, order, ("s32", "penultimate", "logits"), CPU, head=source.network)
    return source, stream.calibration_batch(4)


def test_recomputed_tensors_are_the_heads_on_the_stored_levels(made):
    cache, runs, _ = made
    store = Store(cache.store)
    source, batch = batch_of(tiny_train(runs, cache, head=HEAD, method=KD), store)
    levels = [store.features(r) for r in store.records["train"][:4]]
    wanted = source.network({k: torch.stack([f[k] for f in levels]) for k in store.channels})
    assert set(batch.features) == {"s32", "penultimate", "logits"}
    torch.testing.assert_close(batch.features["logits"], wanted.logits)
    torch.testing.assert_close(batch.features["penultimate"], wanted.penultimate)
    assert not any(p.requires_grad for p in source.network.parameters())
    assert not source.network.training


def test_appended_tensors_are_the_recomputed_ones_in_half_precision_and_need_no_head_folder(copied, tmp_path):
    cache, runs, head = copied
    before = {k: v for k, v in tree(tmp_path / "store.zarr").items() if "zarr.json" not in k}
    count = append(tmp_path / "store.zarr", ("logits", "penultimate"), head)
    after = tree(tmp_path / "store.zarr")
    assert all(after[k] == v for k, v in before.items())
    store = Store(cache.store)
    assert count == sum(map(len, store.records.values()))
    live = batch_of(tiny_train(runs, cache, head=HEAD, method=KD), store)[1]
    elsewhere = tiny_train(tmp_path, cache, head=HEAD | {"tensors": "appended"}, method=KD)
    stored = batch_of(elsewhere.model_copy(update={"runs": str(tmp_path / "no runs here")}), store)[1]
    for name in ("logits", "penultimate"):
        error = (stored.features[name] - live.features[name]).norm() / live.features[name].norm()
        assert 0 < error < 1e-3
    with np.errstate(all="ignore"):
        path = {"driver": "file", "path": str(tmp_path / "store.zarr/train/logits")}
        values = tensorstore.open({"driver": "zarr3", "kvstore": path}).result()[: len(live.ids)].read().result()
    assert np.array_equal(values.astype(np.float32), stored.features["logits"].numpy())
    assert verify(tmp_path / "store.zarr", sources=False).ok
    facts = read_json(train(elsewhere) / "run.json")
    assert facts["status"] == "finished"
    assert len(facts["sources"]["head"]) == 64


def test_appending_twice_computes_nothing_and_after_a_loss_only_what_is_lost(copied, tmp_path):
    _, _, head = copied
    path = tmp_path / "store.zarr"
    append(path, ("logits",), head)
    first = tree(path)
    assert append(path, ("logits",), head) == 0
    (path / "appended" / "receipts" / "train-00001.json").unlink()
    assert Store(path).appended is None
    assert append(path, ("logits",), head) == 4
    assert tree(path) == first


def test_what_another_head_appended_is_never_used(copied, tmp_path):
    cache, runs, head = copied
    path = tmp_path / "store.zarr"
    wanted = tiny_train(runs, cache, head=HEAD | {"tensors": "appended"}, method=KD)
    with pytest.raises(HeadMissing, match=r"holds none, not those of.*--append logits,penultimate --head"):
        train(wanted)
    append(path, ("logits",), head)
    other = tiny_train(tmp_path, cache, head=HEAD | {"steps": 2, "tensors": "appended"}, method=KD)
    with pytest.raises(HeadMissing, match="holds those of head"):
        train(other)
    with pytest.raises(CacheMismatch, match=r"other appended tensors:\n  head: expected.*\nremove the folder"):
        append(path, ("logits",), train(other.head_run()))
    with pytest.raises(CacheMismatch, match="channels: expected"):
        append(path, ("logits", "penultimate"), head)


def test_a_store_that_grew_has_nothing_appended_until_it_is_made_anew(copied, tmp_path):
    cache, _, head = copied
    append(tmp_path / "store.zarr", ("logits",), head)
    extract(cache.model_copy(update={"views": cache.views.model_copy(update={"count": 3})}))
    assert Store(cache.store).appended is None


def test_a_damaged_appended_file_is_appended_again_and_stops_nobody_who_does_not_read_it(copied, tmp_path):
    cache, _, head = copied
    path = tmp_path / "store.zarr"
    append(path, ("logits",), head)
    whole = tree(path)
    file = next((path / "train/logits/c").rglob("*/0/0/0"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    (problem,) = verify(path, sources=False).problems
    assert "appended/receipts/train-" in problem
    assert "append again" in problem
    file.write_bytes(file.read_bytes()[:-1])
    train(tiny_train(tmp_path, cache, method={"kind": "plain"}, steps=2))
    wanted = tiny_train(tmp_path, cache, head=HEAD | {"tensors": "appended"}, method=KD)
    with pytest.raises(HeadMissing, match="holds none"):
        train(wanted)
    assert append(path, ("logits",), head) == 4
    assert tree(path) == whole


def test_receipts_of_a_lost_plan_count_for_nothing(copied, tmp_path):
    cache, _, head = copied
    path = tmp_path / "store.zarr"
    append(path, ("logits",), head)
    (path / "appended/plan.json").unlink()
    other = train(tiny_train(tmp_path, cache, head=HEAD | {"steps": 2}).head_run())
    assert append(path, ("logits",), other) == sum(map(len, Store(path).records.values()))


def broken(head, tmp_path, change):
    """A copy of the head's folder with its classifier changed."""
    folder = tmp_path / head.name
    shutil.copytree(head, folder)
    state = load_file(folder / "student.safetensors")
    state["classifier.bias"] = change(state["classifier.bias"])
    save_file(state, folder / "student.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda bias: bias * float("nan"), r"logits of \w+/\S+ view 0 has NaN"),
        (lambda bias: bias + 1e6, r"train/\S+ view 0: logits: .* exceeds fp16.*recomputed"),
    ],
)
def test_a_tensor_that_cannot_be_stored_stops_the_shard_and_names_the_sample(copied, tmp_path, change, words):
    _, _, head = copied
    path = tmp_path / "store.zarr"
    with pytest.raises(ExtractionError, match=words):
        append(path, ("logits",), broken(head, tmp_path, change))
    assert Store(path).appended is None
    assert append(path, ("logits",), head) > 0


def test_a_wider_head_in_its_place_is_readable_by_zarr_too(copied, tmp_path):
    cache, _, head = copied
    path = tmp_path / "store.zarr"
    append(path, ("logits", "penultimate"), head)
    shutil.rmtree(path / "appended")
    wide = HEAD | {"network": {"kind": "teacher-head", "width": 16, "rates": [1]}}
    append(path, ("penultimate",), train(tiny_train(tmp_path, cache, head=wide).head_run()))
    group = zarr.open_group(path / "train", mode="r")
    assert group["penultimate"][0].shape == (16, 16, 16)
    assert "logits" not in group


def test_only_a_heads_folder_can_be_appended(copied, tmp_path):
    cache, _, _ = copied
    path = tmp_path / "store.zarr"
    student = train(tiny_train(tmp_path, cache, method={"kind": "plain"}, steps=2))
    with pytest.raises(HeadMissing, match=r"holds a student \(unext\)"):
        append(path, ("logits",), student)
    with pytest.raises(HeadMissing, match=r"is no run.*fit-head"):
        append(path, ("logits",), tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"takes penultimate, logits; found \['s4'\]"):
        append(path, ("s4",), student)
    assert not (path / "appended").exists()


def test_a_pre_stage_is_not_learned_with_another_head_than_the_one_that_was_appended(copied, tmp_path):
    cache, _, head = copied
    runs = tmp_path / "runs"
    shutil.copytree(head.parent, runs)
    append(tmp_path / "store.zarr", ("logits", "penultimate"), runs / head.name)
    replaced = broken(head, tmp_path, lambda bias: bias + 1)
    shutil.copy(replaced / "student.safetensors", runs / head.name / "student.safetensors")
    method = {"kind": "maskd", "level": "penultimate", "prestage": {"steps": 2, "batch_size": 4}}
    config = tiny_train(tmp_path, cache, head=HEAD | {"tensors": "appended"}, method=method, steps=2)
    with pytest.raises(HeadMissing, match="is not the head whose tensors"):
        train(config)


def test_a_finished_run_is_not_taken_for_one_with_a_head_that_was_fitted_again(copied, tmp_path):
    cache, _, head = copied
    shutil.copytree(head.parent, tmp_path / "runs")
    config = tiny_train(tmp_path, cache, head=HEAD, method=KD, steps=2)
    folder = train(config)
    assert train(config) == folder
    replaced = broken(head, tmp_path, lambda bias: bias + 1)
    shutil.copy(replaced / "student.safetensors", tmp_path / "runs" / head.name / "student.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"was trained with a teacher's head of digest.*remove"):
        train(config)


def test_a_checkpoint_of_another_head_is_not_continued(copied, tmp_path):
    cache, _, _ = copied
    config = tiny_train(tmp_path, cache, head=HEAD, method=KD)
    train(config.head_run())
    folder = train(config)
    facts = read_json(folder / "run.json")
    (folder / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    weights = config.head_run().folder / "student.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(ValueError, match=r"head is \w+, this run has"):
        train(config)
