"""Stage 1: what is stored, when it becomes visible, and that it survives being killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count

import numpy as np
import pytest
import tensorstore
import torch
import yaml
import zarr
from faults import CONTEXT
from PIL import Image
from tiny import extract_quietly, tiny_cache, tiny_dataset, tiny_weights, tree

from pipeline.cache.errors import CacheMismatch, ExtractionError, StoreDamaged, StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.teacher_writer import TeacherWriter
from pipeline.cache.extraction.timing import extraction_cost
from pipeline.cache.format.shards import read_index
from pipeline.cache.store import Store
from pipeline.cache.tools.inspect import inspect
from pipeline.cache.tools.verify import verify
from pipeline.files import Busy, locked
from pipeline.weights import read_state
from sward.teachers.hiera import MEAN, STD, make_trunk, trunk_tensors


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    config = tiny_cache(folder)
    return config, extract(config)


def test_every_image_has_its_views_and_validation_has_one(made):
    _, result = made
    store = Store(result.path)
    assert {s: len(r) for s, r in store.records.items()} == {"train": 12, "val": 2, "test": 3}
    assert [r.view.number for r in store.records["train"][:4]] == [0, 1, 0, 1]
    assert result.computed == result.records == 17


@pytest.mark.parametrize(("codec", "limit"), [("fp16", 1e-3), ("int8", 1.5e-2)])
def test_stored_features_are_those_of_sam2s_own_hiera(tmp_path, codec, limit):
    config = tiny_cache(tmp_path, codec={"kind": codec})
    store = Store(extract(config).path)
    trunk = make_trunk("pocket").eval()
    trunk.load_state_dict(trunk_tensors(read_state(tmp_path / "teacher.safetensors")))
    for record in store.records["train"][:4] + store.records["test"][:1]:
        image = np.empty((3, 64, 64), np.uint8)
        store.read(record, {"image": image})
        x = (torch.from_numpy(image).float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        with torch.no_grad():
            direct = dict(zip(("s4", "s8", "s16", "s32"), trunk(x[None]), strict=True))
        for level, stored in store.features(record).items():
            assert (stored - direct[level][0]).norm() / direct[level][0].norm() < limit


def test_zarr_and_tensorstore_read_what_our_reader_reads(made):
    store = Store(made[1].path)
    record = store.records["train"][5]
    ours = np.empty(*store.specs("train")["s8"])
    store.read(record, {"s8": ours})
    array = zarr.open_array(store.path / "train" / "s8", mode="r")
    other = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store.path / "train/s8")}}
    ).result()
    assert array.shape == (12, 64, 8, 8)
    assert np.array_equal(array[record.row], ours)
    assert np.array_equal(other[record.row].read().result(), ours)
    attributes = zarr.open_group(store.path, mode="r").attrs["sward"]
    assert attributes["content_id"] == store.content_id
    assert attributes["identity"]["precision"] == "fp16"


def test_the_full_label_keeps_the_sources_resolution(made):
    store = Store(made[1].path)
    label = store.full_label(store.records["test"][0])
    assert label.shape == (72, 80)


def test_the_same_config_gives_the_same_bytes_for_any_number_of_workers(made, tmp_path):
    for workers in (0, 1, 2):
        config = made[0].model_copy(update={"store": str(tmp_path / f"{workers}.zarr"), "workers": workers})
        extract(config)
    first, second, third = (without_place(tree(tmp_path / f"{w}.zarr")) for w in (0, 1, 2))
    assert first == second == third


def without_place(files):
    """Store files, the plan without the two settings in which these stores differ, and without what it took."""
    plan = json.loads(files["plan/0000.json"])
    files = {name: content for name, content in files.items() if name != "timing.jsonl"}
    plan["config"] |= {"store": None, "workers": None}
    del plan["seal"]
    return files | {"plan/0000.json": plan}


def test_statistics_are_the_mean_and_deviation_of_the_training_features(made):
    store = Store(made[1].path)
    every = torch.stack([store.features(r, ["s16"])["s16"] for r in store.records["train"]])
    mean, std = store.statistics()["s16"]
    torch.testing.assert_close(mean, every.mean((0, 2, 3)), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(std, every.std((0, 2, 3), correction=0), atol=1e-3, rtol=1e-3)


def test_adding_ten_images_computes_only_theirs(tmp_path):
    config = tiny_cache(tmp_path)
    before = extract(config)
    old = {k: v for k, v in tree(before.path).items() if "/c/" in k}
    tiny_dataset(tmp_path / "tiny", train=16)
    after = extract(config)
    assert after.computed == 20
    assert after.content_id != before.content_id
    assert len(Store(after.path).records["train"]) == 32
    assert all(tree(after.path)[name] == content for name, content in old.items())


def test_raising_k_computes_only_the_new_views(tmp_path):
    config = tiny_cache(tmp_path)
    extract(config)
    more = tiny_cache(tmp_path, views={"count": 3, "seed": 0})
    assert extract(more).computed == 6
    assert extract(more).computed == 0
    store = Store(more.store)
    array = zarr.open_array(store.path / "train" / "s32", mode="r")
    for record in store.records["train"]:
        ours = np.empty(*store.specs("train")["s32"])
        store.read(record, {"s32": ours})
        assert np.array_equal(array[record.row], ours)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"views": {"count": 2, "seed": 5}}, "views.seed: expected 5, found 0"),
        ({"views": {"count": 1, "seed": 0}}, "views.count: view 1 of train/train-0"),
        ({"views": {"count": 2, "zoom": (1.0, 1.2)}}, "views.zoom"),
        ({"size": (96, 64)}, r"input.size: expected \[96, 64\], found \[64, 64\]"),
        ({"mean": (0.5, 0.5, 0.5)}, "input.mean"),
        ({"split": "other"}, "data.split: expected other, found random"),
        ({"codec": {"kind": "int8"}}, "precision: expected int8, found fp16"),
    ],
)
def test_a_store_of_something_else_is_never_overwritten(made, changes, field):
    before = tree(made[1].path)
    with pytest.raises(CacheMismatch, match=field):
        extract(type(made[0]).model_validate(made[0].model_dump() | changes))
    assert tree(made[1].path) == before


def test_another_teacher_is_refused_by_its_tensors_not_its_path(made, tmp_path):
    teacher = made[0].teacher.model_copy(update={"weights": str(tiny_weights(tmp_path / "t.safetensors", seed=1))})
    with pytest.raises(CacheMismatch, match=r"teacher\.digest: expected"):
        extract(made[0].model_copy(update={"teacher": teacher}))


def test_a_changed_image_is_refused_by_name(tmp_path):
    config = tiny_cache(tmp_path)
    extract(config)
    Image.new("RGB", (80, 72), (9, 9, 9)).save(tmp_path / "tiny/images/train-3.png")
    with pytest.raises(CacheMismatch, match="train/train-3 has changed since extraction"):
        extract(config)


def test_a_nan_stops_the_shard_and_names_the_sample(tmp_path, monkeypatch):
    config = tiny_cache(tmp_path)
    monkeypatch.setattr("pipeline.cache.extraction.teacher_writer.TeacherWriter.features", nan_features)
    with pytest.raises(ExtractionError, match="s4 of train/train-0 view 0 has NaN"):
        extract(config)
    with pytest.raises(StoreIncomplete, match="have no receipt"):
        Store(config.store)


def nan_features(self, images):
    return {level: torch.full((len(images), c, 2, 2), torch.nan) for level, c in self.channels.items()}


def test_two_writers_are_refused(tmp_path):
    config = tiny_cache(tmp_path)
    with locked(tmp_path / "store.zarr"), pytest.raises(Busy, match="another process is writing"):
        extract(config)


def test_a_shortened_file_is_noticed_on_opening(tmp_path):
    path = extract(tiny_cache(tmp_path)).path
    shard = path / "train/s8/c/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreDamaged, match=str(shard)):
        Store(path)


def test_a_flipped_byte_in_a_shards_index_is_noticed_on_reading(tmp_path):
    path = extract(tiny_cache(tmp_path)).path
    shard = path / "train/s8/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreDamaged, match="does not match its checksum"):
        read_index(shard, 4)


def test_inspect_tells_what_is_missing(tmp_path):
    path = extract(tiny_cache(tmp_path)).path
    (path / "receipts/train-00001.json").unlink()
    facts = inspect(path)
    assert not facts["complete"]
    assert facts["shards"] == {"done": 4, "planned": 5}
    assert facts["records"]["train"] == {"readable": 8, "planned": 12}


def test_killed_at_twenty_random_instants_it_resumes_to_the_same_bytes(made, tmp_path):
    """SIGKILL over and over: nothing incomplete is ever readable, and the end is bit-identical."""
    config = made[0].model_copy(update={"store": str(tmp_path / "killed.zarr"), "shard_records": 1, "batch_size": 1})
    whole = made[0].model_copy(update={"store": str(tmp_path / "whole.zarr"), "shard_records": 1, "batch_size": 1})
    torch.set_num_threads(1)
    extract(whole)
    rng, kills = np.random.default_rng(0), 0
    while kills < 20:
        child = CONTEXT.Process(target=extract_quietly, args=(config,))
        child.start()
        child.join(timeout=float(rng.uniform(0.02, 0.35)))
        if not child.is_alive():
            assert child.exitcode == 0
            remove_a_few(tmp_path / "killed.zarr", rng)
            continue
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        assert_nothing_incomplete_is_readable(tmp_path)
    extract(config)
    left, right = (without_place(tree(tmp_path / f"{name}.zarr")) for name in ("killed", "whole"))
    assert left.keys() == right.keys()
    assert left == right


def remove_a_few(store, rng):
    """A finished store is put back: receipts go, so that there is something to kill again."""
    receipts = sorted((store / "receipts").iterdir())
    for i in rng.permutation(len(receipts))[:12]:
        receipts[i].unlink()


def assert_nothing_incomplete_is_readable(folder):
    try:
        partial = Store(folder / "killed.zarr", partial=True)
    except FileNotFoundError:
        return
    whole = Store(folder / "whole.zarr")
    same = {r.name: r for r in whole.records["train"]}
    for record in partial.records["train"]:
        ours, theirs = (np.empty(*whole.specs("train")["s32"]) for _ in range(2))
        partial.read(record, {"s32": ours})
        whole.read(same[record.name], {"s32": theirs})
        assert np.array_equal(ours, theirs)
    if partial.missing:
        with pytest.raises(StoreIncomplete):
            Store(folder / "killed.zarr")


def test_ctrl_c_leaves_a_resumable_store_and_says_so(tmp_path):
    config = tiny_cache(tmp_path, shard_records=1, batch_size=1)
    (tmp_path / "cache.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "pipeline.cli", "extract", str(tmp_path / "cache.yaml")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not list((tmp_path / "store.zarr" / "receipts").glob("*.json")):
        time.sleep(0.01)
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode in (0, 130)  # 0 where the last shard was quicker than the signal
    if child.returncode == 130:
        assert "the same command continues" in said
    assert extract(config).computed < 17


def test_a_receipt_vouches_for_its_own_records_only(tmp_path):
    """A withdrawn extension leaves receipts; another extension reuses their names, but not their bytes."""
    config = tiny_cache(tmp_path)
    extract(config)
    extract(tiny_cache(tmp_path, views={"count": 3, "seed": 0}))
    (tmp_path / "store.zarr/plan/0001.json").unlink()
    tiny_dataset(tmp_path / "tiny", train=9)
    assert extract(config).computed == 6
    assert verify(tmp_path / "store.zarr", 50).problems == []


def test_a_folder_with_other_things_is_never_taken_for_a_store(tmp_path):
    config = tiny_cache(tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp/thesis.txt").write_text("mine")
    with pytest.raises(CacheMismatch, match="is not a store, but holds"):
        extract(config.model_copy(update={"store": str(tmp_path)}))
    assert (tmp_path / "tmp/thesis.txt").read_text() == "mine"


def test_what_a_store_cost_is_told_only_where_every_unit_was_timed(made, tmp_path):
    store = Store(made[1].path)
    cost = extraction_cost(store.path, store.receipts)
    assert cost["records"] == made[1].records
    assert cost["seconds"] > 0
    lines = [line for line in (store.path / "timing.jsonl").read_text().splitlines() if line]
    (tmp_path / "timing.jsonl").write_text("\n".join(lines[1:]) + '\n{"unit": "torn')
    assert extraction_cost(tmp_path, store.receipts) is None
    (tmp_path / "timing.jsonl").unlink()
    assert extraction_cost(tmp_path, store.receipts) is None


def test_a_lost_full_label_is_noticed_on_opening(tmp_path):
    path = extract(tiny_cache(tmp_path)).path
    next((path / "full_labels").iterdir()).unlink()
    with pytest.raises(StoreDamaged, match="full_labels"):
        Store(path)


def test_while_a_batch_is_encoded_the_next_is_in_the_teacher(tmp_path, monkeypatch):
    second_is_taught, batches = threading.Event(), count(1)
    usual = {name: getattr(TeacherWriter, name) for name in ("features", "encode")}

    def features(self, images):
        if next(batches) == 2:
            second_is_taught.set()
        return usual["features"](self, images)

    def encode(self, record, taught):
        assert second_is_taught.wait(60)
        return usual["encode"](self, record, taught)

    monkeypatch.setattr(TeacherWriter, "features", features)
    monkeypatch.setattr(TeacherWriter, "encode", encode)
    assert extract(tiny_cache(tmp_path, batch_size=2)).computed == 17
