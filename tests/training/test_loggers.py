"""What a run logs is read back from the files of TensorBoard, wandb and MLflow; the run is the same without them."""

import logging
import struct
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_train

from pipeline.documents import read_log
from pipeline.training.logs import loggers
from pipeline.training.logs.logged_run import LoggedRun
from pipeline.training.logs.loggers import LoggerError, open_loggers
from pipeline.training.logs.pictures import shown_records
from pipeline.training.loop import train

SETTINGS = {"name": "tiny", "optimizer": {"lr": 0.001}, "labels": {}}
PICTURE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tiny-0123456789").mkdir()
    return LoggedRun(tmp_path / "tiny-0123456789", SETTINGS, first=0)


def write(run, name, error=None):
    """Two steps, a picture and a result through one logger, ended by ``error`` if given."""
    with open_loggers([name], run) as opened:
        for step in (run.first + 1, run.first + 2):
            opened.scalars(step, {"loss": 1.0 / step, "term/attn": float(step)})
        opened.picture(run.first + 2, "val/img-1", PICTURE)
        if error:
            raise error
        opened.result(run.first + 2, {"best/dice": 0.75})


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    return train(tiny_train(tmp_path_factory.mktemp("logged"), cache, eval_every=3))


def test_tensorboard_has_every_scalar_of_the_log_and_the_same_images_at_each_validation(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tensorboard"), size_guidance={"images": 0}).Reload()
    for line in read_log(trained / "metrics.jsonl"):
        for name in line.keys() - {"step"}:
            found = {event.step: event.value for event in events.Scalars(name)}
            assert found[line["step"]] == pytest.approx(line[name], nan_ok=True)
    assert sorted(events.Tags()["images"]) == ["val/val-0", "val/val-1"]
    assert [event.step for event in events.Images("val/val-1")] == [3, 6]
    assert events.Images("val/val-1")[0].height == 64
    assert events.Images("val/val-1")[0].width == 3 * 64 + 2 * 4
    assert "best/dice" in events.Tags()["scalars"]


def test_the_images_of_the_log_are_spread_over_the_validation_split(cache):
    from pipeline.cache.store import Store

    store = Store(cache.store)
    assert [record.id for record in shown_records(store, 1)] == ["val-0"]
    assert [record.id for record in shown_records(store, 9)] == ["val-0", "val-1"]
    assert shown_records(store, 0) == []


def test_loggers_and_pictures_are_no_part_of_a_runs_identity(cache, tmp_path):
    plain = tiny_train(tmp_path, cache)
    logged = tiny_train(tmp_path, cache, loggers=("wandb", "mlflow"), pictures=0)
    assert plain.identity() == logged.identity()


def wandb_records(file):
    """All records of an offline session, in order. The file is a LevelDB log: blocks of 32 KiB with parts of records.

    A part has a header of 7 bytes (checksum, length, kind: whole, first, middle, last). The file's own header has 7.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, record, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(record))
            record = b""
    return found


def values(items):
    return {item.key or "/".join(item.nested_key): item.value_json for item in items}


def test_wandb_offline_has_settings_scalars_pictures_and_result(run):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'sward[wandb]'")
    write(run, "wandb")
    (session,) = (run.folder / "wandb").glob("offline-run-*")
    records, ends = [], time.monotonic() + 100
    while not [r for r in records if r.WhichOneof("record_type") == "exit"] and time.monotonic() < ends:
        time.sleep(0.1)  # wandb's own process writes the last records after `finish`
        records = wandb_records(next(session.glob("*.wandb")))
    (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"][:1]
    assert (begun.run_id, begun.display_name, begun.project) == ("tiny-0123456789", "tiny", "sward")
    assert values(begun.config.update)["optimizer"] == '{"lr":0.001}'
    history = [values(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
    assert [(row["_step"], float(row["loss"])) for row in history] == [("1", 1.0), ("2", 0.5)]
    (picture,) = (session / "files/media").rglob("*.png")
    assert (np.array(Image.open(picture).convert("RGB")) == PICTURE).all()
    results = [values(r.summary.update) for r in records if r.WhichOneof("record_type") == "summary"]
    assert any(row.get("best/dice") == "0.75" for row in results)
    assert [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"] == [0]


@pytest.fixture
def client(run):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'sward[mlflow]'")
    return mlflow.MlflowClient(f"sqlite:///{run.folder.parent / 'mlflow.db'}")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's use of SQLAlchemy 2.1
def test_mlflow_has_settings_scalars_pictures_and_result_of_all_sessions(run, client):
    with pytest.raises(KeyboardInterrupt):
        write(run, "mlflow", KeyboardInterrupt())
    (experiment,) = client.search_experiments(filter_string="name = 'sward'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "KILLED"
    write(LoggedRun(run.folder, SETTINGS, first=2), "mlflow")
    (found,) = client.search_runs([experiment.experiment_id])  # the same run, continued
    assert (found.info.run_name, found.info.status) == ("tiny", "FINISHED")
    assert found.data.params == {"name": "tiny", "optimizer.lr": "0.001", "labels": "{}"}
    history = client.get_metric_history(found.info.run_id, "term/attn")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert found.data.metrics["best/dice"] == 0.75
    pictures = sorted((run.folder.parent / "mlflow-files").rglob("*.png"))
    assert len(pictures) == 2
    assert (np.array(Image.open(pictures[0]).convert("RGB")) == PICTURE).all()


class Failing:
    """A service that goes away after the first step."""

    def __init__(self, run):
        self.taken = []

    def scalars(self, step, values):
        if self.taken:
            raise ConnectionError("no route to host")
        self.taken.append(step)

    def close(self, status):
        raise AssertionError("it is left out by now")


def test_a_logger_that_fails_is_said_once_and_left_out(run, monkeypatch, caplog):
    monkeypatch.setattr(loggers, "OPTIONAL", {"elsewhere": ("failing", "Failing")})
    monkeypatch.setattr(loggers, "import_module", lambda name: sys.modules[__name__])
    with caplog.at_level(logging.WARNING), open_loggers(["elsewhere"], run) as opened:
        for step in (1, 2, 3):
            opened.scalars(step, {"loss": 1.0})
    assert [record.getMessage() for record in caplog.records] == [
        "elsewhere gets no more of this run: ConnectionError: no route to host"
    ]


class Refused:
    def __init__(self, run):
        raise PermissionError("no key")


def test_a_logger_that_does_not_start_is_an_error_with_what_to_do(run, monkeypatch):
    monkeypatch.setattr(loggers, "OPTIONAL", {"elsewhere": ("refused", "Refused")})
    monkeypatch.setattr(loggers, "import_module", lambda name: sys.modules[__name__])
    with pytest.raises(LoggerError, match=r"elsewhere cannot log this run: PermissionError: no key; .* leave it out"):
        open_loggers(["elsewhere"], run).__enter__()


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_ends_the_run_before_anything_is_trained(package, cache, tmp_path, monkeypatch):
    config = tiny_train(tmp_path, cache, loggers=(package,))
    monkeypatch.setitem(sys.modules, package, None)  # as Python notes a module that is not there
    with pytest.raises(ModuleNotFoundError, match=package):
        train(config)
    assert not config.folder.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_a_whole_run_is_in_every_logger(cache, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'sward[mlflow]'")
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'sward[wandb]'")
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    folder = train(tiny_train(tmp_path, cache, eval_every=3, loggers=("wandb", "mlflow")))
    dice = [(line["step"], line["val/dice"]) for line in read_log(folder / "metrics.jsonl") if "val/dice" in line]
    client = mlflow.MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("sward").experiment_id])
    history = client.get_metric_history(found.info.run_id, "val/dice")
    assert [(metric.step, metric.value) for metric in history] == dice
    assert found.data.params["optimizer.kind"] == "adamw"
    assert len(list((folder.parent / "mlflow-files").rglob("*.png"))) == 4  # two images at two validations
    assert len(list((folder / "wandb").glob("offline-run-*/files/media/**/*.png"))) == 4
