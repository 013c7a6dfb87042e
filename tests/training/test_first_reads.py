"""Arrays are compared with their receipt when a run reads them for the first time; so are the labels of evaluation."""

import json

import pytest
import torch
from tiny import HEAD, tiny_cache, tiny_train

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.extraction.extract import extract
from pipeline.cache.joined import JoinedStore
from pipeline.cache.manifest.sealed import write_sealed
from pipeline.cache.store import Store
from pipeline.cache.tools.repack import repack
from pipeline.cache.tools.verify import verify
from pipeline.prediction_files import find_prediction
from pipeline.training.batch_order import Order
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import train
from pipeline.training.stream import Stream
from pipeline.training.teacher.append import append
from sward.students import UNeXtConfig

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path):
    return extract(tiny_cache(tmp_path)).path


def read_all(store, workers=0, levels=None):
    order = Order(store.records["train"], batch_size=4, seed=3)
    names = tuple(store.channels) if levels is None else levels
    return list(Stream(store, order, names, CPU, workers).batches(0, 6))


def exchange(path, array, first=0, second=1):
    """Exchanges two shards of an array, which have the same size."""
    shards = [next(p for p in (path / f"{array}/c/{i}").rglob("*") if p.is_file()) for i in (first, second)]
    one, other = (shard.read_bytes() for shard in shards)
    assert len(one) == len(other)
    assert one != other
    shards[0].write_bytes(other)
    shards[1].write_bytes(one)


def without_sums(path, keys=("array_crc32c",)):
    """Makes the receipts those of earlier versions."""
    for file in (path / "receipts").glob("*.json"):
        receipt = json.loads(file.read_bytes())
        write_sealed(file, {key: value for key, value in receipt.items() if key not in keys})


@pytest.mark.parametrize("array", ["image", "label", "s4", "s32"])
@pytest.mark.parametrize("workers", [0, 2])
def test_two_shards_of_equal_size_that_were_exchanged_are_noticed(path, array, workers):
    exchange(path, f"train/{array}")
    found = rf"damaged record: the stored {array} of train/train-\d view \d in .* is not what was written.*sward verify"
    with pytest.raises(StoreDamaged, match=found):
        read_all(Store(path), workers)


@pytest.mark.parametrize("codec", ["int8", "int4", "bf16"])
def test_exchanged_shards_of_every_kind_of_array_are_noticed(tmp_path, codec):
    path = extract(tiny_cache(tmp_path, codec={"kind": codec})).path
    store = Store(path)
    assert len(read_all(store)) == 6
    for array in store.level_arrays("s8"):
        exchange(path, f"train/{array}")
        with pytest.raises(StoreDamaged, match=f"the stored {array} of"):
            read_all(Store(path), levels=("s8",))
        exchange(path, f"train/{array}")


def test_of_compressed_stores_the_arrays_are_compared_not_their_compressed_bytes(path, tmp_path):
    packed = repack(path, tmp_path / "packed.zarr", compression="zstd").path
    sums = [json.loads((p / "receipts/train-00000.json").read_bytes())["array_crc32c"] for p in (path, packed)]
    assert sums[0] == sums[1]
    assert len(read_all(Store(packed))) == 6


def test_each_array_of_a_record_is_compared_once(path):
    store = Store(path)
    record = store.records["train"][0]
    arrays = store.arrays(record)
    store.first_reads.check(record, {"image": arrays["image"]})
    for array in arrays.values():
        array.reshape(-1)[0] += 1
    store.first_reads.check(record, {"image": arrays["image"]})
    with pytest.raises(StoreDamaged, match=r"the stored label and s4 of train/train-0 view 0 in .* are not what"):
        store.first_reads.check(record, {name: arrays[name] for name in ("image", "label", "s4")})
    with pytest.raises(StoreDamaged):
        Store(path).first_reads.check(record, arrays)


def test_views_and_labels_of_validation_are_compared(path):
    student = UNeXtConfig().build(2)
    assert evaluate(student, Store(path), "test", CPU, 2)["per_image"]
    labels = sorted((path / "full_labels").glob("*.png"))
    kept = labels[0].read_bytes()
    labels[0].write_bytes(bytes(reversed(kept)))
    with pytest.raises(StoreDamaged, match=r"damaged file: .*full_labels/.*\.png, the label of (val|test)/"):
        [evaluate(student, Store(path), subset, CPU, 2) for subset in ("val", "test")]
    labels[0].write_bytes(kept)
    shard = next(p for p in (path / "test/image/c/0").rglob("*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[64 * 64 * 3 :].rjust(shard.stat().st_size, b"\0"))
    with pytest.raises(StoreDamaged):
        evaluate(student, Store(path), "test", CPU, 2)


def test_appended_tensors_are_compared(tmp_path):
    config = tiny_cache(tmp_path)
    path = extract(config).path
    append(path, ("logits",), train(tiny_train(tmp_path, config, head=HEAD).head_run()))
    assert len(read_all(Store(path), levels=("logits",))) == 6
    exchange(path, "train/logits")
    with pytest.raises(StoreDamaged, match="the stored logits of"):
        read_all(Store(path), levels=("logits",))
    without_sums(path)
    with pytest.raises(StoreDamaged, match="the stored logits of"):
        read_all(Store(path), levels=("logits",))


def test_each_part_of_a_joined_store_is_compared_with_its_own_receipts(path, tmp_path):
    other = repack(path, tmp_path / "other.zarr", codec="int8").path
    assert len(read_all(JoinedStore({"a": Store(path), "b": Store(other)}))) == 6
    exchange(other, "train/s16")
    with pytest.raises(StoreDamaged, match=r"the stored s16 of .*other\.zarr of train/"):
        read_all(JoinedStore({"a": Store(path), "b": Store(other)}))


def test_receipts_of_earlier_versions_have_digests_of_pixels_or_nothing(path):
    without_sums(path)
    exchange(path, "train/s4")
    assert len(read_all(Store(path))) == 6  # `sward verify` notices it
    assert any("train/s4" in line for line in verify(path, sources=False).problems)
    exchange(path, "train/label")
    with pytest.raises(StoreDamaged, match="the stored image or label of train/"):
        read_all(Store(path))
    without_sums(path, ("array_crc32c", "pixel_digests"))
    assert len(read_all(Store(path))) == 6


@pytest.mark.parametrize("change", [{"s4": [1, 2, 3, 4]}, {"image": []}])
def test_checksums_that_a_receipt_alone_has_wrong_are_found_by_verify_too(path, change):
    file = path / "receipts/train-00000.json"
    receipt = json.loads(file.read_bytes())
    write_sealed(file, receipt | {"array_crc32c": receipt["array_crc32c"] | change})
    with pytest.raises(StoreDamaged):
        read_all(Store(path))
    assert any(f"checksums of {next(iter(change))}" in line for line in verify(path, sources=False).problems)


@pytest.mark.parametrize("entry", [{"array_crc32c": 3}, {"array_crc32c": {"s4": "x"}}, {"pixel_digests": 5}])
def test_checksums_of_another_shape_are_a_damaged_receipt(path, entry):
    file = path / "receipts/train-00000.json"
    write_sealed(file, json.loads(file.read_bytes()) | entry)
    with pytest.raises(StoreDamaged, match=r"train-00000\.json.*delete it and run the command that made the store"):
        Store(path)


def test_masks_predicted_for_ids_that_a_disk_may_take_for_one_have_files_of_their_own(tmp_path):
    config = tiny_cache(tmp_path)
    for kind in ("images", "masks"):
        for old, new in (("test-1", "test-Q"), ("test-2", "test-q")):
            (tmp_path / "tiny" / kind / f"{old}.png").rename(tmp_path / "tiny" / kind / f"{new}.png")
    store = Store(extract(config).path)
    evaluate(UNeXtConfig().build(2), store, "test", CPU, 2, predictions=tmp_path / "predictions")
    files = {p.name for p in (tmp_path / "predictions").iterdir()}
    assert files == {"test-0.png", "test-%51.png", "test-q.png"}
    found = [find_prediction(tmp_path / "predictions", record.id) for record in store.records["test"]]
    assert {p.name for p in found} == files
