"""The stream: an order that is a function of (seed, epoch), whole, resumable, the same for any reader count."""

import os
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny import tiny_cache

from pipeline.cache.extraction.extract import extract
from pipeline.cache.storage.disk_ranges import File
from pipeline.cache.store import Store
from pipeline.training.batch_order import Order
from pipeline.training.stream import Stream

LEVELS = ("s8", "s32")
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["fp16", "int8"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return Store(extract(tiny_cache(folder, codec={"kind": request.param})).path)


def order(store, **changes):
    return Order(**{"records": tuple(store.records["train"]), "batch_size": 5, "seed": 3} | changes)


def ids(batches):
    return [r.name for batch in batches for r in batch]


def test_records_as_stored_are_read_ahead_and_equal_those_read_one_batch_at_a_time(store, monkeypatch):
    records = store.records["train"]
    chosen = [records[i : i + 4] for i in range(0, 12, 4)]
    stream = Stream(store, order(store), LEVELS, CPU)
    expected = [stream.batch_of(part) for part in chosen]
    ahead, read = threading.Semaphore(0), stream._read
    monkeypatch.setattr(stream, "_read", lambda records, *rest: ahead.release() or read(records, *rest))
    for number, (batch, wanted) in enumerate(zip(stream.stored_batches(chosen), expected, strict=True)):
        assert number or (
            ahead.acquire(timeout=60) and ahead.acquire(timeout=60)
        )  # a second one, before it is asked for
        assert batch.ids == wanted.ids
        assert torch.equal(batch.images, wanted.images)
        assert all(torch.equal(batch.features[level], wanted.features[level]) for level in LEVELS)


def test_an_epoch_holds_every_record_once(store):
    for epoch in range(3):
        assert sorted(ids(order(store).epoch(epoch))) == sorted(r.name for r in store.records["train"])


def test_batches_are_equal_to_within_one_record(store):
    assert [len(b) for b in order(store).epoch(0)] == [4, 4, 4]


def test_epochs_and_seeds_shuffle_differently(store):
    one = order(store)
    assert ids(one.epoch(0)) != ids(one.epoch(1))
    assert ids(one.epoch(1)) != ids(order(store, seed=4).epoch(0))


def test_one_view_per_image_goes_round_the_views(store):
    rotating = order(store, per_epoch="one")
    epochs = [Counter(name.split("/")[0] for name in ids(rotating.epoch(e))) for e in range(2)]
    assert all(set(c.values()) == {1} and len(c) == 6 for c in epochs)
    assert sorted(ids(rotating.epoch(0)) + ids(rotating.epoch(1))) == sorted(r.name for r in store.records["train"])


@pytest.mark.parametrize("per_epoch", ["all", "one"])
@pytest.mark.parametrize("world", [2, 3])
def test_the_batches_of_all_ranks_are_in_order_those_of_one(store, world, per_epoch):
    whole = Stream(store, order(store, per_epoch=per_epoch), (), CPU)
    parts = [Stream(store, order(store, per_epoch=per_epoch, world=world, rank=r), (), CPU) for r in range(world)]
    for step, (batch, *shares) in enumerate(zip(*(s.batches(0, 7) for s in (whole, *parts)), strict=True)):
        assert [name for share in shares for name in share.ids] == batch.ids
        assert torch.equal(torch.cat([share.images for share in shares]), batch.images)
        assert whole.order.size(step) == parts[0].order.size(step) == len(batch.ids)


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_any_number_of_readers_gives_the_same_batches(store, workers):
    reference = list(Stream(store, order(store), LEVELS, CPU, workers=0).batches(0, 7))
    for ours, theirs in zip(Stream(store, order(store), LEVELS, CPU, workers).batches(0, 7), reference, strict=True):
        assert ours.ids == theirs.ids
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert all(torch.equal(ours.features[level], theirs.features[level]) for level in LEVELS)


def test_starting_at_any_step_continues_in_the_same_order(store):
    stream = Stream(store, order(store), LEVELS, CPU)
    whole = [b.ids for b in stream.batches(0, 8)]
    for first in (1, 3, 4, 7):
        assert [b.ids for b in stream.batches(first, 8)] == whole[first:]


def test_batches_hold_the_stored_features_and_normalised_images(store):
    batch = Stream(store, order(store), LEVELS, CPU).batch_of(store.records["train"][2:4])
    for i, record in enumerate(store.records["train"][2:4]):
        assert torch.equal(batch.features["s32"][i], store.features(record, ["s32"])["s32"])
    assert list(batch.features) == list(LEVELS)
    assert batch.images.abs().max() < 3
    assert batch.labels.dtype == torch.int64


def test_reading_no_level_reads_no_feature_file(store, monkeypatch):
    opened = []
    monkeypatch.setattr("pipeline.cache.storage.shard_reader.File", lambda path: opened.append(path) or File(path))
    fresh = Store(store.path)
    Stream(fresh, order(fresh), (), CPU).batch_of(fresh.records["train"][:1])
    assert {path.relative_to(store.path).parts[1] for path in opened} == {"image", "label"}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_disk_is_asked_for_every_later_record_of_an_epoch_once(store, monkeypatch, workers):
    asked = []
    monkeypatch.setattr(Store, "prefetch", lambda store, record, like: asked.append(record.name))
    stream = Stream(store, order(store), LEVELS, CPU, workers=workers)
    read = [i for b in stream.batches(0, stream.order.steps_per_epoch) for i in b.ids]
    assert sorted(asked) == sorted(read[stream.ahead :])


def open_files(store):
    return [f for f in Path("/proc/self/fd").iterdir() if str(store.path) in os.path.realpath(f)]


def test_files_read_stay_open_as_long_as_the_stream_runs(store):
    batches = Stream(store, order(store), LEVELS, CPU, workers=0).batches(0, 4)
    next(batches)
    assert len(open_files(store)) >= len(LEVELS) + 2
    with store.kept_open():
        pass
    next(batches)
    assert len(open_files(store)) >= len(LEVELS) + 2
    batches.close()
    assert open_files(store) == []


def test_student_colours_are_drawn_anew_each_epoch_whatever_the_readers(tmp_path):
    views = {"count": 1, "seed": 0, "photometric": "student"}
    store = Store(extract(tiny_cache(tmp_path, views=views)).path)
    streams = [Stream(store, order(store, batch_size=6), (), CPU, workers=w) for w in (0, 2)]
    first, second = (list(s.batches(0, 2)) for s in streams)
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
    by_id = [dict(zip(b.ids, b.images, strict=True)) for b in first]
    assert all(not torch.equal(by_id[0][i], by_id[1][i]) for i in by_id[0])


def test_a_stream_left_early_stops_its_threads(store):
    import threading

    before = threading.active_count()
    stream = Stream(store, order(store), LEVELS, CPU, workers=3).batches(0, 1000)
    next(stream)
    stream.close()
    assert threading.active_count() == before
