"""Extraction on Dask: whoever computes a shard, the store is the one that a single process makes."""

import os
import re
import shutil
import signal
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from distributed import LocalCluster
from faults import content
from pydantic import ValidationError
from tiny import tiny_cache, tiny_train, tiny_weights

from pipeline.cache.errors import ClusterLost, ExtractionError
from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.on_dask import cluster
from pipeline.cache.extraction.teacher_writer import TeacherWriter
from pipeline.cache.extraction.timing import extraction_cost
from pipeline.cache.tools.inspect import inspect
from pipeline.datasets import DatasetError
from pipeline.weights import WeightsError

UNITS = ("train-00000", "train-00001", "train-00002", "val-00000", "test-00000")


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """A folder with a data set, weights, and the store that one process makes of them."""
    with chdir(tmp_path_factory.mktemp("right")):
        torch.set_num_threads(1)
        extract(tiny_cache(Path()))
        return Path.cwd()


@pytest.fixture
def place(right, tmp_path):
    """A current folder with the same data set and weights, and nothing made of them yet."""
    shutil.copytree(right, tmp_path, ignore=lambda folder, names: ["store.zarr"], dirs_exist_ok=True)
    with chdir(tmp_path):
        torch.set_num_threads(1)
        yield tmp_path


@contextmanager
def scheduler(workers=1, **options):
    """A running cluster whose workers are threads of this process: the same protocol, no imports to wait for."""
    where = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(
        n_workers=workers, threads_per_worker=2, processes=False, memory_limit=None, silence_logs=50, **where, **options
    ) as made:
        yield made


def by(made, **changes):
    """The configuration with its workers as its runner."""
    runner = {"kind": "dask", "address": made.scheduler_address, "patience": 1}
    return tiny_cache(Path(), runner=runner, **changes)


def differing(place, right):
    """Files in which the two stores are not the same."""
    made, wanted = content(place / "store.zarr"), content(right / "store.zarr")
    return {name for name in made.keys() | wanted.keys() if made.get(name) != wanted.get(name)}


def after(records, do):
    """A progress callback that calls ``do`` once, when so many records are done."""
    waiting = [do]

    def show(done, total):
        if done >= records and waiting:
            waiting.pop()()

    return show


def listening():
    """Addresses at which this process and its children can be reached."""
    own = psutil.Process()
    found = [c for process in [own, *own.children(recursive=True)] for c in process.net_connections("inet")]
    return {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}


def test_a_cluster_of_processes_makes_the_store_of_one_process_is_closed_to_others_and_leaves_nothing(
    place, right, tmp_path_factory, monkeypatch
):
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    reached, seen = set(), []

    def show(done, total):
        seen.append((done, total))
        reached.update(listening())

    made = extract(tiny_cache(Path(), runner={"kind": "dask", "workers": 2}), show)
    assert made.computed == 17
    assert seen[0] == (0, 17)
    assert seen[-1] == (17, 17)
    assert reached == {"127.0.0.1"}
    assert differing(place, right) == set()
    assert list(scratch.iterdir()) == []
    assert extraction_cost(made.path, dict.fromkeys(UNITS))["records"] == 17


def test_a_running_scheduler_serves_as_well_and_what_is_finished_needs_none(place, right):
    with scheduler() as running:
        config = by(running)
        assert extract(config).computed == 17
    assert differing(place, right) == set()
    assert extract(config).computed == 0


def test_a_compressed_store_is_equal_too(place):
    extract(tiny_cache(Path(), compression="zstd"))
    wanted = content(place / "store.zarr")
    shutil.rmtree(place / "store.zarr")
    with scheduler() as running:
        extract(by(running, compression="zstd"))
    assert content(place / "store.zarr") == wanted


def test_a_store_that_one_process_began_is_continued_byte_for_byte(place, right):
    extract(tiny_cache(Path()))
    for name in UNITS[1:4]:
        (place / f"store.zarr/receipts/{name}.json").unlink()
    with scheduler() as running:
        assert extract(by(running)).computed == 10
    assert differing(place, right) == set()


def test_where_it_runs_is_in_no_identity(place):
    local, dask = tiny_cache(place), tiny_cache(place, runner={"kind": "dask", "workers": 3})
    assert local.recorded() == dask.recorded()
    assert tiny_train(place, local).identity() == tiny_train(place, dask).identity()


def test_a_worker_with_other_weights_refuses_and_writes_nothing(place):
    swap = after(0, lambda: tiny_weights(place / "teacher.safetensors", seed=1))
    with scheduler() as running, pytest.raises(WeightsError, match=r"the worker on .* cannot take part: .* expected"):
        extract(by(running), swap)
    assert not list(place.glob("store.zarr/receipts/*"))
    assert not list(place.glob("store.zarr/*/*/c"))


def test_a_worker_that_finds_another_image_than_planned_refuses(place):
    other = lambda: shutil.copy(place / "tiny/images/val-0.png", place / "tiny/images/val-1.png")  # noqa: E731
    with scheduler() as running, pytest.raises(ExtractionError, match="val/val-1 is not the planned one"):
        extract(by(running), after(0, other))
    assert not (place / "store.zarr/receipts/val-00000.json").exists()


def test_an_image_that_goes_missing_is_named_as_in_a_local_extraction(place):
    gone = (place / "tiny/images/test-2.png").unlink
    with scheduler() as running, pytest.raises(DatasetError, match=r"unreadable(.|\n)*test-2\.png") as dask:
        extract(by(running), after(0, gone))
    (place / "tiny/images/test-2.png").write_bytes((place / "tiny/images/test-1.png").read_bytes())
    assert "Traceback" not in str(dask.value)


def test_a_feature_that_is_no_number_is_named_as_in_a_local_extraction(place, monkeypatch):
    usual = TeacherWriter.features
    monkeypatch.setattr(TeacherWriter, "features", lambda *args: {k: f * np.nan for k, f in usual(*args).items()})
    said = []
    with scheduler() as running:
        for config in (tiny_cache(Path()), by(running)):
            with pytest.raises(ExtractionError, match="has NaN or infinite values") as error:
                extract(config)
            said.append(re.sub(r"s4 of \S+ view \d", "", str(error.value)))
    assert said[0] == said[1]


def test_an_address_at_which_no_scheduler_answers_is_said(place):
    runner = {"kind": "dask", "address": "tcp://127.0.0.1:9", "patience": 1}
    with pytest.raises(ClusterLost, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        extract(tiny_cache(Path(), runner=runner))


def test_a_scheduler_without_workers_is_waited_for_and_then_said(place):
    with scheduler(workers=0) as running, pytest.raises(ClusterLost, match="no Dask worker for 1 s; start some: dask"):
        extract(by(running))


def test_workers_without_a_gpu_are_none_for_a_teacher_on_a_gpu(place):
    with scheduler() as running, pytest.raises(ClusterLost, match=r"with a GPU for 1 s.*--resources GPU=1"):
        extract(by(running, device="cuda"))


def test_each_own_worker_has_a_gpu_of_its_own_and_announces_it(place, monkeypatch):
    monkeypatch.setattr(cluster, "visible_gpus", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    config = tiny_cache(Path(), runner={"kind": "dask", "workers": 2}, device="cuda")
    with cluster.opened(config) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
        assert sorted(seen.values()) == ["GPU-a", "GPU-b"]
        found = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
        assert [w["resources"] for w in found.values()] == [{"GPU": 1}] * 2
        assert cluster.WorkerSlots(client, config).capacity() == 4
    more = tiny_cache(Path(), runner={"kind": "dask", "workers": 4}, device="cuda")
    with pytest.raises(ValueError, match=r"runner\.workers: 4, but there are 3 GPUs"), cluster.opened(more):
        pass


@pytest.mark.gpu
def test_on_a_gpu_the_store_is_that_of_one_process(place):
    extract(tiny_cache(Path(), device="cuda", store="right.zarr"))
    extract(tiny_cache(Path(), device="cuda", runner={"kind": "dask", "workers": 1}))
    made, wanted = content(place / "store.zarr"), content(place / "right.zarr")
    assert {name for name in made.keys() | wanted.keys() if made.get(name) != wanted.get(name)} == {"plan/0000.json"}


def test_a_scheduler_that_goes_away_is_said_and_what_is_finished_stays(place, right):
    with scheduler() as running, pytest.raises(ClusterLost, match="is gone; what is finished is kept"):
        extract(by(running), after(4, running.close))
    done = inspect(place / "store.zarr")["shards"]["done"]
    assert done >= 1
    assert not list(place.glob("store.zarr/tmp/*/claims"))
    extract(tiny_cache(Path()))
    assert differing(place, right) == set()


def test_sigterm_stops_it_and_the_same_command_continues(place, right):
    with scheduler() as running:
        with pytest.raises(KeyboardInterrupt):
            extract(by(running), after(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        assert not list(place.glob("store.zarr/tmp/*/claims"))
        assert extract(by(running)).computed < 17
    assert differing(place, right) == set()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runner": {"kind": "dask", "address": "tcp://a:1", "workers": 2}}, "those at address are started there"),
        ({"runner": {"kind": "dask", "address": "tcp://a:1"}, "device": "auto"}, "say cuda or cpu"),
        ({"runner": {"kind": "dask"}, "device": "cuda:1"}, "use cuda"),
    ],
)
def test_a_runner_that_cannot_be_meant_is_refused(place, changes, said):
    with pytest.raises(ValidationError, match=said):
        tiny_cache(place, **changes)
