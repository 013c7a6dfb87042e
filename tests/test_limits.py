"""Sizes that no machine has are refused before memory, disk or time is taken; what killed commands left is swept."""

import errno
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from tiny import tiny_cache, tiny_train

from pipeline.cache.config import CacheConfig
from pipeline.cache.errors import NotWritable
from pipeline.cache.extraction.record_plan import MOST_RECORDS, wanted_records
from pipeline.cache.format.shards import read_index
from pipeline.config import ConfigError, load_config
from pipeline.cost_estimates.calibration import MOST_BYTES, measure_disk
from pipeline.cost_estimates.scratch import scratch_folder
from pipeline.datasets import load_dataset
from pipeline.files import unpublished
from pipeline.training.config import TrainConfig
from pipeline.training.distributed.processes import loopback_store
from pipeline.training.loop import train
from sward.students import SavedStudentError, load
from sward.students.allocation import TooLarge, at_most, shape_of

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "more than 100,000 values with its aliases"),
        (LAUGHS.replace("[x", "[{y: 1}"), "more than 100,000 values with its aliases"),
        ("a: &a [*a, *a]\n", "more than 100,000 values with its aliases"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ],
    ids=["billion laughs", "of mappings", "an alias of itself", "open brackets", "brackets"],
)
@pytest.mark.parametrize("model", [TrainConfig, CacheConfig])
def test_a_file_that_writes_out_to_more_than_memory_is_refused_at_once(tmp_path, text, said, model):
    (tmp_path / "c.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=said):
        load_config(model, tmp_path / "c.yaml")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"views": {"count": 10**9}}, "less than or equal to 100000"),
        ({"size": (10**9, 10**9)}, "at most 8192"),
        ({"size": (32 * 10**6, 32)}, "at most 8192"),
        ({"eval_size": (8224, 64)}, "at most 8192"),
    ],
    ids=str,
)
def test_a_store_of_any_size_is_not_planned(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        tiny_cache(tmp_path, **change)


def test_more_records_than_a_plan_lists_are_refused_with_the_number_that_fits(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.cache.extraction.record_plan.MOST_RECORDS", 100)
    config = tiny_cache(tmp_path, views={"count": 50})
    assert MOST_RECORDS > 10**6
    with pytest.raises(ValueError, match=r"6 training images with views.count 50 are 300 records.*to 16 or less"):
        wanted_records(config, load_dataset(config.dataset, config.split))


def test_reading_is_measured_on_a_file_of_bounded_size(tmp_path, monkeypatch):
    written, module = [], "pipeline.cost_estimates.calibration"
    monkeypatch.setattr(f"{module}.write_file", lambda path, size: written.append(size) or 1.0)
    monkeypatch.setattr(f"{module}.time_reads", lambda *_: (1.0, 0.5))
    disk = measure_disk(tmp_path, {"fp32": [4 << 30, 1 << 30], "int8": [1 << 30]}, workers=1)
    assert len(written) == 1
    assert written[0] <= MOST_BYTES + 2  # rounded up for each array
    assert disk.reads["fp32"] == (20.0, 10.0)  # a record is twenty parts of the file's size


def test_a_plan_asks_for_room_first(tmp_path):
    with (
        pytest.raises(NotWritable, match=r"too little room to measure the disk.*make room"),
        scratch_folder(tmp_path, 10**15),
    ):
        pytest.fail("made the folder")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_plan_left_is_swept_and_a_running_one_keeps_its_files(tmp_path):
    left = tmp_path / ".sward-plan-killed"
    left.mkdir()
    (left / "calibration").write_bytes(b"0" * 1000)
    with scratch_folder(tmp_path, 10) as running:
        assert not left.exists()
        with scratch_folder(tmp_path, 10):
            assert running.is_dir()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def student(cache, tmp_path_factory):
    config = tiny_train(tmp_path_factory.mktemp("s"), cache, student={"kind": "deeplabv3"}, steps=1, signal_every=0)
    return train(config)


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "deeplabv3", "decoder_channels": 1_000_000},
        {"kind": "deeplabv3plus", "decoder_channels": 100_000},
        {"kind": "smp", "architecture": "unet", "encoder": "resnet18", "options": {"decoder_channels": [10**6] * 5}},
    ],
    ids=str,
)
def test_a_card_that_asks_for_more_than_its_weights_is_refused_before_it_is_built(student, tmp_path, network):
    for name in ("student.json", "student.safetensors"):
        shutil.copy(student / name, tmp_path)
    card = json.loads((tmp_path / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps(card | {"student": network}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SavedStudentError, match=r"asks for [\d,]+ parameters or more, and student.safetensors has"):
        load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_a_card_and_its_weights_are_read_as_before(student):
    assert load(student).classes == ["background", "polyp"]


@pytest.mark.parametrize(
    ("args", "named", "shape"),
    [
        ((2, 3), {}, (2, 3)),
        (((2, 3),), {}, (2, 3)),
        (((2, 3), 1.0), {}, (2, 3)),
        ((), {"size": [4]}, (4,)),
        ((), {}, ()),
    ],
)
def test_shapes_of_allocations_are_read_in_every_form(args, named, shape):
    assert shape_of(args, named) == shape


def test_allocations_are_counted_together():
    with at_most(11):
        torch.empty(6)
        with pytest.raises(TooLarge, match="asks for 12 parameters"):
            torch.nn.Linear(3, 2, bias=False)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_machine_that_opens_no_more_files_is_not_a_damaged_store(tmp_path, monkeypatch, code):
    def refuses(self, mode):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("pathlib.Path.open", refuses)
    with pytest.raises(OSError, match="the store is not damaged") as caught:
        read_index(tmp_path / "c" / "0", 4)
    assert not isinstance(caught.value, ValueError)
    assert caught.value.errno == code


def test_processes_of_one_machine_meet_on_loopback_alone():
    before = listening()
    store = loopback_store()
    assert listening() - before == {("127.0.0.1", store.port)}
    store.set("key", "value")
    assert store.get("key") == b"value"


def listening():
    return {tuple(c.laddr) for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}


def test_a_port_of_the_rendezvous_answers_on_no_other_interface():
    store = loopback_store()
    other = socket.create_server(("127.0.0.2", store.port))  # free, which it is not if all interfaces are taken
    other.close()


KILLED = """
import os, pathlib, signal, sys
from pipeline.files import unpublished
with unpublished(pathlib.Path(sys.argv[1])) as partial:
    (partial / "student.onnx").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_export_does_not_block_the_next_and_a_running_one_keeps_its_files(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    (tmp_path / f".out.{os.getpid()}.partial").mkdir()  # of an earlier version, in a container where pids repeat
    assert len(list(tmp_path.iterdir())) == 2
    with unpublished(tmp_path / "out") as running:
        assert list(tmp_path.iterdir()) == [running]
        with unpublished(tmp_path / "out") as other:
            assert running.is_dir()
            assert other != running
    assert not list(tmp_path.iterdir())
