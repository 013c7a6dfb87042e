"""A unit that two workers have computed: the same bytes change nothing, other bytes are never published."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from faults import content
from tiny import tiny_cache, tiny_weights, tree

from pipeline.cache import commit
from pipeline.cache.errors import ExtractionError
from pipeline.cache.extraction.extract import extract
from pipeline.cache.extraction.on_dask.claims import CallFolder
from pipeline.cache.extraction.on_dask.scheduler import DaskExtraction
from pipeline.cache.extraction.on_dask.worker import SharedTeacher, WorkerUnitWriter, make_unit, teacher_of
from pipeline.cache.extraction.prefetch import pools
from pipeline.cache.manifest.records import plan_units, read_plans
from pipeline.cache.tools.verify import verify
from pipeline.datasets import load_dataset
from pipeline.weights import load_teacher


class Scene:
    """A store of which one unit is missing, and two workers that are given it."""

    def __init__(self, folder):
        torch.set_num_threads(1)
        config = tiny_cache(folder, runner={"kind": "dask"})
        self.store = extract(tiny_cache(folder)).path
        plans, dataset = read_plans(self.store), load_dataset(config.dataset, config.split)
        spread = DaskExtraction(self.store, config, plans, dataset, load_teacher(config.teacher).digest())
        self.job, self.whole = spread.job, content(self.store)
        self.unit = next(u for u in plan_units(plans[0]) if u.subset == "val")
        self.samples = [s for s in dataset.samples if s.subset == "val"]
        self.room = CallFolder(self.store, self.job.call)
        self.room.open()
        for left in [f"receipts/{self.unit.name}.json", *self.unit.receipt(self.store)["files"]]:
            (self.store / left).unlink()

    def computed(self, teacher=None):
        """The unit computed by a worker that then stands still; what it will call to commit it."""
        attempt = WorkerUnitWriter(self.job, self.unit, self.samples, teacher or teacher_of(self.job.config))
        with pools(1, 1) as (pool, teaching):
            return attempt.write_records(self.unit, attempt.encoded(attempt.batches(self.unit), pool, teaching))

    def other(self, folder):
        """A teacher that is not the plan's, as a machine that computes otherwise."""
        weights = str(tiny_weights(folder / "other.safetensors", seed=1))
        other = self.job.config.teacher.model_copy(update={"weights": weights, "digest": None})
        return SharedTeacher(load_teacher(other), torch.device("cpu"))

    def published(self):
        """Every file of the store that readers look at."""
        return {name: data for name, data in content(self.store).items() if not name.startswith("tmp/")}


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_a_unit_committed_by_two_workers_is_the_one_of_a_single_process(scene):
    first, second = scene.computed(), scene.computed()
    first()
    assert scene.published() == scene.whole
    second()
    assert scene.published() == scene.whole


def test_a_worker_that_is_given_a_finished_unit_computes_nothing(scene, monkeypatch):
    make_unit(scene.job, scene.unit, scene.samples)
    monkeypatch.setattr(WorkerUnitWriter, "write_records", None)
    make_unit(scene.job, scene.unit, scene.samples)
    assert scene.published() == scene.whole


def test_workers_that_commit_at_the_same_instant_do_not_disturb_each_other(scene):
    commits, start = [scene.computed() for _ in range(6)], threading.Barrier(6)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda commit: (start.wait(), commit()), commits))
    assert scene.published() == scene.whole


def test_other_bytes_than_the_receipts_are_refused(scene, tmp_path):
    first, second = scene.computed(), scene.computed(scene.other(tmp_path))
    first()
    with pytest.raises(ExtractionError, match="val-00000 was computed twice, with different bytes"):
        second()
    assert scene.published() == scene.whole


def test_other_bytes_are_refused_while_the_first_worker_is_still_publishing(scene, tmp_path, monkeypatch):
    first, same, other = scene.computed(), scene.computed(), scene.computed(scene.other(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(commit, "publish", lambda *names: (_ for _ in ()).throw(ConnectionError("the worker died")))
        with pytest.raises(ConnectionError):
            first()
    with pytest.raises(ExtractionError, match="different bytes"):
        other()
    assert not (scene.store / f"receipts/{scene.unit.name}.json").exists()
    same()
    assert scene.published() == scene.whole


def test_a_worker_that_finishes_after_the_extraction_is_over_publishes_nothing(scene, tmp_path):
    late, lost = scene.computed(), scene.computed(scene.other(tmp_path))
    extract(tiny_cache(tmp_path))
    before = tree(scene.store)
    late()
    with pytest.raises(ExtractionError, match="different bytes"):
        lost()
    assert tree(scene.store) == before
    assert verify(scene.store, sources=False).ok


def test_a_worker_that_finishes_after_the_extraction_was_stopped_publishes_nothing(scene):
    late = scene.computed()
    shutil.rmtree(scene.room.folder)
    before = tree(scene.store)
    with pytest.raises(FileNotFoundError):
        late()
    assert tree(scene.store) == before


def test_a_worker_that_does_not_see_the_extraction_says_where_it_looked(scene):
    for left in scene.room.claims.iterdir():
        left.unlink()
    scene.room.claims.rmdir()
    with pytest.raises(ExtractionError, match=r"does not see .*claims: the store's folder must be the same"):
        make_unit(scene.job, scene.unit, scene.samples)
    assert not list(scene.room.folder.iterdir())
