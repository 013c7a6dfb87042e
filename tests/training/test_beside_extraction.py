"""`sward train --extract`: the files of extract-then-train, whatever is stopped, killed or missing on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from faults import CONTEXT
from killed_commands import files
from tiny import HEAD, tiny_cache, tiny_dataset, tiny_train, tiny_weights

from pipeline.cache.errors import ExtractionEnded
from pipeline.cache.extraction.beside import extraction_beside
from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.growing_store import GrowingStore
from pipeline.cache.store import Store
from pipeline.cli import main
from pipeline.training.batch_order import Order
from pipeline.training.inputs.order_config import OrderConfig
from pipeline.training.loop import train

ORDER = {"kind": "shards", "window": 8, "statistics": "first"}
ROOT = Path(__file__).resolve().parents[2]


def cache_at(place, **changes):
    """Twelve training images in two views, in six shards; two shards of the evaluation subsets."""
    if not (place / "tiny").exists():
        tiny_dataset(place / "tiny", train=12)
        tiny_weights(place / "teacher.safetensors")
    return tiny_cache(place, **changes)


def run_at(place, **changes):
    """Two epochs with a validation in the second."""
    usual = {"steps": 12, "eval_every": 8, "checkpoint_every": 2, "signal_every": 0, "order": ORDER}
    return tiny_train(place, cache_at(place), **usual | changes)


def made(place):
    """Files of store and runs, without times."""
    found = {n: data for n, data in files(place).items() if n.startswith(("store.zarr/", "runs/"))}
    return {n: data for n, data in found.items() if "last.ckpt" not in n and "/tmp/" not in n}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where a run is made, always at the same path, which is in its files."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("beside") / "home"
    place.mkdir()
    cache_at(place)
    return place


@pytest.fixture(scope="module")
def right(home):
    """The files of extracting first and training then."""
    torch.set_num_threads(1)
    config = run_at(home)
    extract(config.cache)
    train(config)
    return made(home)


@pytest.fixture
def place(home, right):
    """The same folder as before any command."""
    torch.set_num_threads(1)
    for name in ("store.zarr", "runs"):
        shutil.rmtree(home / name, ignore_errors=True)
    return home


def receipts(place):
    return len(list((place / "store.zarr/receipts").glob("*.json")))


def wait_until(true, seconds=300):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_it_makes_the_files_of_extracting_first(place, right, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = run_at(place)
    with extraction_beside(config.cache) as extraction:
        train(config, extraction=extraction)
    assert made(place) == right


@pytest.mark.slow
def test_it_trains_before_the_last_shard_is_written(place, right, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config, steps, seen = run_at(place, log_every=1), [], []

    def pause(done, total):
        if receipts(place) >= 4 and not seen:  # shards for two steps and the window of the order
            os.kill(extraction._process.pid, signal.SIGSTOP)
            seen.append(done)

    def count(step, total, logged):
        steps.append(step)
        if step == 2:
            assert receipts(place) < 8
            os.kill(extraction._process.pid, signal.SIGCONT)

    with extraction_beside(config.cache, pause) as extraction:
        train(config, count, extraction=extraction)
    assert seen
    assert steps[:2] == [1, 2]
    assert made(place) == right


def test_an_extraction_that_dies_ends_the_training_with_its_reason_and_both_continue(place, right, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = run_at(place)

    def kill(done, total):
        if done >= 12:
            os.kill(extraction._process.pid, signal.SIGKILL)

    said = r"was ended by signal 9, and training needs shard train-.*the same command continues"
    with pytest.raises(ExtractionEnded, match=said), extraction_beside(config.cache, kill) as extraction:
        train(config, extraction=extraction)
    with extraction_beside(config.cache) as extraction:
        train(config, extraction=extraction)
    assert made(place) == right


def test_a_reason_for_which_nothing_is_extracted_is_told(place, monkeypatch):
    config = run_at(place)
    missing = config.cache.model_copy(update={"dataset": str(place / "none.yaml")})
    with (
        pytest.raises(ExtractionEnded, match=r"(?s)failed .* needs the store's plan;.*no card at .*none.yaml"),
        extraction_beside(missing) as extraction,
    ):
        GrowingStore(place / "store.zarr", extraction)


def start(place):
    """The command in a process of its own."""
    (place / "train.yaml").write_text(yaml.safe_dump(run_at(place).model_dump(mode="json")))
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "train", str(place / "train.yaml"), "--extract"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def complete(place):
    """Runs the command to its end."""
    process = start(place)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output


def extracting(process):
    """The child that extracts, once it is there."""
    found = []
    wait_until(lambda: found.extend(psutil.Process(process.pid).children()) or found)
    return found[0]


@pytest.mark.slow
def test_asked_to_stop_while_it_waits_it_writes_a_checkpoint_and_ends_the_extraction(place, right):
    process = start(place)
    child = extracting(process)
    wait_until(lambda: receipts(place) >= 4)
    child.suspend()
    wait_until(lambda: list(place.glob("runs/*/metrics.jsonl")))  # some step is done; the next ones wait
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "stopped after step" in output
    assert list(place.glob("runs/*/last.ckpt"))
    assert not child.is_running()
    complete(place)
    assert made(place) == right


def command(path):
    """Body of a child: the command, in a process that has its modules already."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main(["train", str(path), "--extract"]))


def dies(place, seconds, number):
    """Whether the command got the signal, so long after it began; otherwise it had finished."""
    child = CONTEXT.Process(target=command, args=(place / "train.yaml",))
    child.start()
    extracting, until = [], time.monotonic() + seconds
    while child.is_alive() and time.monotonic() < until:
        with suppress(psutil.NoSuchProcess):
            extracting = psutil.Process(child.pid).children() or extracting
        time.sleep(0.02)
    if child.is_alive():
        os.kill(child.pid, number)
    child.join()
    assert child.exitcode in (0, 130, -signal.SIGKILL, -signal.SIGTERM)
    wait_until(lambda: not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in extracting))
    return child.exitcode != 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_ten_times_on_the_way_it_makes_the_same_files(place, right):
    (place / "train.yaml").write_text(yaml.safe_dump(run_at(place).model_dump(mode="json")))
    rng, kills, began = np.random.default_rng(0), 0, time.monotonic()
    assert not dies(place, 1800, signal.SIGKILL)
    whole = time.monotonic() - began
    while kills < 10:
        for name in ("store.zarr", "runs"):
            shutil.rmtree(place / name, ignore_errors=True)
        for _ in range(min(5, 10 - kills)):
            number = signal.SIGKILL if rng.uniform() < 0.7 else signal.SIGTERM
            kills += dies(place, float(rng.uniform(0, whole)), number)
        assert not dies(place, 1800, signal.SIGKILL)
        assert made(place) == right


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": "shuffled"}, "add --set order=shards"),
        ({"devices": 2}, "trains in one process, found devices × nodes = 2"),
        ({"head": HEAD, "method": {"kind": "kd"}}, "reads the teacher's head, which is fitted on the whole store"),
    ],
    ids=["order", "devices", "head"],
)
def test_what_cannot_be_trained_beside_an_extraction_is_refused(place, capsys, change, said):
    (place / "train.yaml").write_text(yaml.safe_dump(run_at(place, **change).model_dump(mode="json")))
    assert main(["train", str(place / "train.yaml"), "--extract"]) == 1
    assert said in capsys.readouterr().err
    assert not (place / "store.zarr").exists()


def order(records, **changes):
    return Order(**{"records": records, "batch_size": 4, "seed": 3, "window": 8} | changes)


@pytest.mark.parametrize("per_epoch", ["all", "one"])
def test_the_first_epoch_follows_the_store_within_a_window_and_later_ones_are_as_ever(cache, per_epoch):
    records = tuple(Store(Path(cache.store)).records["train"])
    windowed, usual = (order(records, per_epoch=per_epoch, window=w) for w in (6, 0))
    first = [r for batch in windowed.epoch(0) for r in batch]
    assert sorted(r.name for r in first) == sorted(r.name for b in usual.epoch(0) for r in b)
    places = [records.index(r) for r in first]
    assert places != sorted(places)
    assert all(later > earlier - 6 for i, earlier in enumerate(places) for later in places[i:])
    assert windowed.epoch(1) == usual.epoch(1)
    assert order(records, seed=4, window=6).epoch(0) != order(records, window=6).epoch(0)


def test_statistics_of_the_first_shards_are_those_of_their_records(cache, tmp_path):
    store = Store(Path(cache.store))
    mean, std = store.statistics(5)["s16"]
    maps = torch.stack([store.features(r, ["s16"])["s16"] for r in store.records["train"][:8]])  # two shards of four
    torch.testing.assert_close(mean, maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(std, maps.std((0, 2, 3), correction=0), rtol=1e-3, atol=1e-3)
    assert not torch.equal(store.statistics()["s16"][0], mean)


def test_an_order_of_today_leaves_the_identity_of_a_run_and_shards_do_not(cache, tmp_path):
    usual, said, shards = (tiny_train(tmp_path, cache, **o) for o in ({}, {"order": "shuffled"}, {"order": "shards"}))
    assert usual.identity() == said.identity() != shards.identity()
    assert OrderConfig.model_validate(shards.model_dump()["order"]) == shards.order
