"""Stage 2: exact resume, refusal of another store, no teacher and no data set in sight."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import tiny_cache, tiny_dataset, tiny_train

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import CacheMismatch, StoreIncomplete
from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.results.runs import RunError, load_run
from pipeline.training import loop
from pipeline.training.batch_order import Order
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.config import TrainConfig
from pipeline.training.loop import Interrupted, train
from pipeline.training.optimizer import OptimizerConfig, learning_rate
from pipeline.training.stream import Stream
from sward.objective import NonFiniteError


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    return train(tiny_train(tmp_path_factory.mktemp("finished"), cache))


def weights(folder):
    state = torch.load(folder / "last.ckpt", weights_only=True)
    return {f"{part}.{k}": v for part in ("student", "method") for k, v in state[part].items()}


def assert_same_weights(left, right):
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def test_a_run_folder_holds_what_was_run_and_what_came_out(finished):
    facts = json.loads((finished / "run.json").read_text())
    assert facts["status"] == "finished"
    assert 0 <= facts["test"]["dice"] <= 1
    assert facts["device"].startswith("cpu (")  # a run that fell back to the CPU can be seen
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == set(range(1, 7))
    assert {"term/attn", "term/value", "term/context", "term/separation", "share/attn"} <= lines[0].keys()
    assert len(list((finished / "predictions").glob("*.png"))) == 3
    card = json.loads((finished / "student.json").read_text())
    assert card["classes"] == ["background", "polyp"]
    assert not [k for k in load_file(finished / "student.safetensors") if "mwad" in k]
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert TrainConfig.model_validate(saved).identity() == facts["identity"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_seed_gives_the_same_weights_for_any_number_of_readers(cache, finished, tmp_path, workers):
    assert_same_weights(train(tiny_train(tmp_path, cache, workers=workers)), finished)


def test_another_seed_gives_other_weights(cache, finished, tmp_path):
    other, same = weights(train(tiny_train(tmp_path, cache, seed=1))), weights(finished)
    assert not torch.equal(other["student.classifier.weight"], same["student.classifier.weight"])


@pytest.mark.parametrize(
    ("student", "layout"), [("unext", {}), ("deeplabv3", {}), ("unext", {"channels_last": True})], ids=str
)
def test_stopped_and_resumed_mid_epoch_equals_uninterrupted(cache, tmp_path, monkeypatch, student, layout):
    config = tiny_train(tmp_path, cache, student={"kind": student}, steps=4, checkpoint_every=100, **layout)
    whole = train(config.model_copy(update={"runs": str(tmp_path / "whole")}))
    asked = iter([False, True])  # asked once a step: stops after the second
    monkeypatch.setattr(loop, "stop_requests", lambda: Asking(asked))
    with pytest.raises(Interrupted, match="after step 2"):
        train(config)
    monkeypatch.undo()
    assert_same_weights(train(config), whole)
    assert (config.folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


class Asking:
    """Stands in for signals, so that the step is exact."""

    def __init__(self, answers):
        self.answers = answers

    def __enter__(self):
        return lambda: next(self.answers)

    def __exit__(self, *error):
        return None


def test_killed_mid_epoch_and_resumed_equals_uninterrupted(cache, finished, tmp_path):
    """SIGKILL of a real process, twice, at whatever step it is."""
    config = tiny_train(tmp_path, cache, checkpoint_every=1)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for step in (1, 3):
        child = start(tmp_path / "train.yaml")
        while child.poll() is None and logged(config.folder) < step:
            time.sleep(0.01)
        child.kill()
        child.wait()
    assert_same_weights(train(config), finished)


def start(path):
    command = [sys.executable, "-m", "pipeline.cli", "train", str(path)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on how they are divided
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | threads)


def logged(folder):
    file = folder / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_sigterm_writes_a_checkpoint_and_exits_with_130(cache, tmp_path):
    config = tiny_train(tmp_path, cache, steps=100000, checkpoint_every=100000, signal_every=0)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    child = start(tmp_path / "train.yaml")
    while logged(config.folder) < 2:
        time.sleep(0.01)
        assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 130
    assert torch.load(config.folder / "last.ckpt", weights_only=True)["step"] >= 2
    assert json.loads((config.folder / "run.json").read_text())["status"] == "stopped"


def test_a_stopped_run_says_so_and_runs_again(cache, finished, tmp_path, monkeypatch):
    config = tiny_train(tmp_path, cache)
    asked = iter([False, True])
    monkeypatch.setattr(loop, "stop_requests", lambda: Asking(asked))
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.undo()
    assert json.loads((config.folder / "run.json").read_text())["status"] == "stopped"
    with pytest.raises(RunError, match="is stopped, not finished; continue it"):
        load_run(config.folder)
    train(config)
    assert load_run(config.folder).facts["status"] == "finished"


def test_a_finished_run_is_not_run_again(cache, finished, monkeypatch):
    monkeypatch.setattr(loop, "fit", lambda *a: pytest.fail("trained again"))
    assert train(tiny_train(finished.parents[1], cache)) == finished


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"teacher": {"kind": "hiera", "architecture": "tiny", "weights": "x"}}, r"teacher\.architecture"),
        ({"teacher": {"kind": "hiera", "architecture": "pocket", "weights": "x", "digest": "00"}}, r"teacher\.digest"),
        ({"teacher": {"kind": "hiera", "architecture": "pocket", "weights": "x"}}, r"teacher\.weights: expected x"),
        ({"split": "other"}, r"data\.split: expected other, found random"),
        ({"views": {"count": 2, "seed": 1}}, r"views\.seed"),
        ({"views": {"count": 4, "seed": 0}}, r"views\.count: expected 4, found 2"),
        ({"size": (96, 96)}, r"input\.size"),
        ({"std": (0.5, 0.5, 0.5)}, r"input\.std"),
        ({"codec": {"kind": "int8"}}, "precision"),
    ],
)
def test_a_store_of_something_else_is_refused_before_the_first_batch(cache, tmp_path, monkeypatch, changes, field):
    monkeypatch.setattr(loop, "setup", lambda *a: pytest.fail("went on"))
    other = CacheConfig.model_validate(cache.model_dump() | changes)
    with pytest.raises(CacheMismatch, match=field):
        train(tiny_train(tmp_path, other))


def test_an_incomplete_store_is_refused(cache, tmp_path):
    shutil.copytree(cache.store, tmp_path / "part.zarr")
    (tmp_path / "part.zarr/receipts/val-00000.json").unlink()
    with pytest.raises(StoreIncomplete, match="1 of 5 shards have no receipt"):
        train(tiny_train(tmp_path, cache.model_copy(update={"store": str(tmp_path / "part.zarr")})))


def test_a_checkpoint_of_another_store_is_refused(cache, finished, tmp_path):
    shutil.copytree(finished.parent, tmp_path / "runs")
    folder = tmp_path / "runs" / finished.name
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    state = torch.load(folder / "last.ckpt", weights_only=True)
    state["facts"]["store"] = "another"
    torch.save(state, folder / "last.ckpt")
    with pytest.raises(CheckpointMismatch, match="store is another"):
        train(tiny_train(tmp_path, cache))


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sam2", "hydra", "prefect"):
            raise ModuleNotFoundError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from pipeline.cli import main
status = main(["train", sys.argv[1]])
assert not {"sam2", "hydra"} & set(sys.modules), "stage 2 imported the teacher"
sys.exit(status)
"""


def test_stage_two_needs_neither_sam2_nor_weights_nor_the_data_set(tmp_path):
    cache = tiny_cache(tmp_path)
    extract(cache)
    shutil.rmtree(tmp_path / "tiny")
    (tmp_path / "teacher.safetensors").unlink()
    config = tiny_train(tmp_path, cache, steps=2)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "train.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((config.folder / "run.json").read_text())["status"] == "finished"


def test_a_nan_stops_the_step_and_names_sample_and_term(cache, tmp_path, monkeypatch):
    config = tiny_train(tmp_path, cache)
    original = Stream.batches

    def poisoned(self, first, last):
        for step, batch in enumerate(original(self, first, last)):
            if step == 2:
                batch.features["s16"][1] = float("nan")
                poisoned.id = batch.ids[1]
            yield batch

    monkeypatch.setattr(Stream, "batches", poisoned)
    with pytest.raises(NonFiniteError, match="not finite: attn") as error:
        train(config)
    assert poisoned.id in str(error.value)
    assert "step 2" in str(error.value)


def test_the_teachers_own_head_trains_from_features_alone(cache, tmp_path):
    config = tiny_train(tmp_path, cache, student={"kind": "teacher-head", "width": 8}, method={"kind": "plain"})
    assert json.loads((train(config) / "run.json").read_text())["status"] == "finished"


def test_fewer_views_train_on_the_first_ones(cache, tmp_path):
    config = tiny_train(tmp_path, cache, views=1)
    run = loop.setup(config, Store(cache.store), loop.RunFolder(tmp_path))
    assert {r.view.number for r in run.stream.order.records} == {0}


def test_schedules_begin_at_the_rate_and_end_near_zero():
    for schedule in ("cosine", "poly"):
        rates = [learning_rate(OptimizerConfig(lr=1.0, schedule=schedule), s, 100) for s in range(100)]
        assert rates[0] == 1.0
        assert rates == sorted(rates, reverse=True)
        assert 0 < rates[-1] < 0.02
    assert learning_rate(OptimizerConfig(lr=1.0, schedule="poly", power=0.9), 50, 100) == pytest.approx(0.5**0.9)
    assert learning_rate(OptimizerConfig(lr=1.0, warmup_steps=10), 4, 100) == 0.5


@pytest.mark.parametrize("student", ["unext", "deeplabv3"])
def test_bfloat16_trains_and_measures_its_signal(cache, tmp_path, student):
    config = tiny_train(tmp_path, cache, precision="bf16-mixed", student={"kind": student}, steps=2)
    line = json.loads((train(config) / "metrics.jsonl").read_text().splitlines()[0])
    assert sum(v for k, v in line.items() if k.startswith("share/")) == pytest.approx(1)


def test_a_run_finished_before_the_store_grew_is_not_passed_off_as_new(tmp_path):
    cache = tiny_cache(tmp_path)
    extract(cache)
    config = tiny_train(tmp_path, cache, steps=2)
    train(config)
    tiny_dataset(tmp_path / "tiny", train=8)
    extract(cache)
    with pytest.raises(CheckpointMismatch, match="was finished with content id"):
        train(config)


def test_a_store_without_validation_images_is_refused_before_the_first_batch(tmp_path):
    cache = tiny_cache(tmp_path)
    card = tmp_path / "tiny/card.yaml"
    card.write_text(card.read_text().replace("val: val-*, ", "", 1))
    for kind in ("images", "masks"):
        for path in (tmp_path / "tiny" / kind).glob("val-*"):
            path.unlink()
    extract(cache)
    with pytest.raises(CacheMismatch, match=r"the store has no val records(?s:.)*Training needs both"):
        train(tiny_train(tmp_path, cache))


def test_an_infinite_gradient_stops_before_it_reaches_a_weight(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: torch.tensor(float("inf")))
    with pytest.raises(NonFiniteError, match="step 0: the gradient is not finite"):
        train(tiny_train(tmp_path, cache))


def test_no_record_is_left_alone_in_a_batch():
    records = tuple(range(31))
    sizes = [len(b) for b in Order(records, 2, 0).epoch(0)]
    assert min(sizes) == 2
    assert sum(sizes) == 31


def test_an_unknown_device_is_refused_with_those_there_are(cache, tmp_path):
    with pytest.raises(ValueError, match="expected auto or one of cpu"):
        train(tiny_train(tmp_path, cache, device="gpu"))
