"""The capacity model: its bytes are those of a real store, its hours follow from its parts, its page is generated."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_cache

from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.cost_estimates.capacity import Capacity, Workload
from pipeline.cost_estimates.encoding_speed import measure_encoding
from pipeline.cost_estimates.flops import COUNTED, channels_of, count_flops, view_flops
from pipeline.cost_estimates.throughput import StageTimes, break_even
from pipeline.files import read_json
from pipeline.maintenance.capacity_page import MANY, MEASURED, PAGE, SETS, capacities, page

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("codec", ["fp16", "int8", "int4"])
def test_the_bytes_predicted_are_those_in_a_stores_receipts(tmp_path, codec):
    config = tiny_cache(tmp_path, codec={"kind": codec}, eval_size=(96, 64))
    store = Store(extract(config).path)
    work = Workload("tiny", 6, 2, 3, (72, 80), (64, 64), (96, 64), 2, codec, "pocket", config.shard_records)
    files = {name: file["bytes"] for receipt in store.receipts.values() for name, file in receipt["files"].items()}
    assert work.bytes == sum(size for name, size in files.items() if not name.startswith("full_labels"))
    assert work.files == len(files) + len(store.receipts)
    assert work.records == sum(len(records) for records in store.records.values())
    assert work.channels == store.channels


@pytest.mark.parametrize("work", SETS, ids=lambda work: work.name)
def test_twice_the_views_are_twice_the_training_bytes(work):
    trained = replace(work, val=0, test=0)
    one, two = (replace(trained, images=16 * (work.images // 16), views=k).bytes for k in (1, 2))
    assert two == 2 * one


def test_more_nodes_or_faster_gpus_are_never_slower():
    for work in {c.work for c in capacities()}:
        slow, fast = (Capacity(work, replace(MANY, flops=flops)) for flops in (MANY.flops / 3, MANY.flops))
        assert fast.extraction <= slow.extraction
        assert fast.extraction == pytest.approx(Capacity(work, replace(MANY, nodes=1)).extraction / MANY.nodes)


def test_the_driver_is_the_largest_part_of_what_decides():
    for c in capacities():
        for _, pace in c.paces:
            parts = pace.parts
            in_the_pool = parts["encoding"] + parts["rendering"]
            assert pace.seconds == max(parts["teacher"], in_the_pool, parts["writing"])
            assert parts[pace.driver] == max(parts.values()) or in_the_pool == pace.seconds
        assert c.extraction >= 0.999 * max(c.shares.values())
        assert c.epoch >= c.work.images * c.work.views / c.student_records


@pytest.mark.parametrize(
    ("pace", "seconds", "driver"),
    [
        (StageTimes(4, 1, 2, 0, 3, workers=2), 4, "teacher"),
        (StageTimes(1, 6, 2, 0, 3, workers=2), 4, "encoding"),
        (StageTimes(4, 1, 16, 0, 3, workers=2), 8.5, "rendering"),
        (StageTimes(4, 1, 2, 0, 9, workers=2), 9, "writing"),
        (StageTimes(4, 1, 2, 9, 3, workers=2), 9, "writing"),  # one thread appends
        (StageTimes(4, 1, 2, 0.5, 3, workers=0), 7.5, "teacher"),
        (StageTimes(8, 8, 16, 8, 2, num_teachers=8, workers=8), 3, "rendering"),
        (StageTimes(4, 1, 2, 0, 3, workers=2, threads=2, cores=2), 7, "teacher"),  # one after the other
        (StageTimes(4, 1, 9, 0, 3, workers=2, threads=1, cores=2), 10, "rendering"),  # 6 of 10 find no free core
        (StageTimes(4, 1, 2, 1, 3, workers=2, threads=1, cores=4), 4, "teacher"),  # cores to spare
    ],
)
def test_what_overlaps_takes_as_long_as_its_longest_part(pace, seconds, driver):
    assert (pace.seconds, pace.driver) == (seconds, driver)


def test_a_store_pays_once_it_has_saved_what_it_cost():
    assert break_even(100, records=10, teacher=3, read=1) == 5
    assert break_even(100, records=10, teacher=1, read=1) == float("inf")


def test_a_trunk_is_counted_without_weights_and_the_counts_kept_are_right():
    assert channels_of("large") == {"s4": 144, "s8": 288, "s16": 576, "s32": 1152}
    size = (512, 512)
    assert count_flops("large", size) == COUNTED["large", size] == view_flops("large", size)
    assert count_flops("tiny", size) == pytest.approx(62e9, rel=0.03)  # published: 62 to 71 GFLOP


@pytest.mark.slow
@pytest.mark.parametrize("known", COUNTED)
def test_every_count_kept_is_right(known):
    assert count_flops(*known) == COUNTED[known]


def test_encoding_is_measured_and_leaves_nothing_behind(tmp_path):
    config = tiny_cache(tmp_path / "set")
    (tmp_path / "disk").mkdir()
    assert all(0 < seconds < 10 for seconds in measure_encoding(tmp_path / "disk", config, channels_of("pocket")))
    assert not list((tmp_path / "disk").iterdir())


def test_the_page_is_the_models():
    measured = ROOT / MEASURED
    assert (ROOT / PAGE).read_text() == page(read_json(measured) if measured.is_file() else None)
