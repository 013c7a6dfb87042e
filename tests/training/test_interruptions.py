"""A full disk, a batch of one image, a store that is gone, a kill in the last validation: said, or made whole."""

import errno
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import yaml
from tiny import tiny_train, tree

from pipeline.cache.errors import NotWritable
from pipeline.cli import main
from pipeline.files import os_errors_first
from pipeline.report.report import write_report
from pipeline.training.checkpoint import write
from pipeline.training.loop import train

STATE = {"student": {"weight": torch.zeros(300_000)}}


class Full(io.BytesIO):
    """A file on a disk with room for so many bytes."""

    def __init__(self, room, code):
        super().__init__()
        self.room, self.code = room, code

    def write(self, content):
        if self.tell() + len(content) > self.room:
            raise OSError(self.code, os.strerror(self.code))
        return super().write(content)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("room", [0, 100, 500_000, 1_200_000])
def test_torch_does_not_hide_why_a_checkpoint_was_not_written(code, room):
    with pytest.raises(OSError, match=re.escape(os.strerror(code))), os_errors_first(Full(room, code)) as file:
        torch.save(STATE, file)


def test_an_error_of_the_library_itself_stays():
    with pytest.raises(ZeroDivisionError), os_errors_first(io.BytesIO()):
        _ = 1 / 0


def test_a_checkpoint_that_was_not_written_leaves_the_one_before(tmp_path):
    write(tmp_path / "last.ckpt", STATE)
    before = tree(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            write(tmp_path / "last.ckpt", STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(tmp_path) == before


def test_a_full_disk_ends_a_run_with_cause_and_remedy_and_the_run_continues(cache, tmp_path, monkeypatch):
    config = tiny_train(tmp_path, cache, steps=2, checkpoint_every=1, signal_every=0)

    def fails(path, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.training.checkpoint.write", fails)
    with pytest.raises(NotWritable, match=r"the disk is full: .* GB are free there; make room.*same command continues"):
        train(config)
    monkeypatch.undo()
    assert train(config) == config.folder


@pytest.mark.parametrize("student", ["deeplabv3", "deeplabv3plus"])
def test_a_batch_of_one_image_is_refused_with_the_setting_to_change(cache, tmp_path, student):
    config = tiny_train(tmp_path, cache, student={"kind": student}, batch_size=1, steps=2)
    with pytest.raises(ValueError, match="set batch_size to 2 or more"):
        train(config)


def test_a_finished_run_without_its_store_is_finished_and_reported(cache, tmp_path, caplog):
    store = tmp_path / "gone.zarr"
    shutil.copytree(cache.store, store)
    config = tiny_train(tmp_path, cache.model_copy(update={"store": str(store)}), steps=2, signal_every=0)
    folder = train(config)
    shutil.rmtree(store)
    before = tree(folder)
    assert train(config) == folder
    assert "its store cannot be opened: no feature store at" in caplog.text
    assert tree(folder) == before
    assert (
        "The store could not be opened: no feature store at" in write_report([folder], tmp_path / "r.html").read_text()
    )


def test_an_unfinished_run_without_its_store_is_refused(cache, tmp_path):
    config = tiny_train(tmp_path, cache.model_copy(update={"store": str(tmp_path / "gone.zarr")}))
    with pytest.raises(FileNotFoundError, match="make it: sward extract"):
        train(config)


KILLED = """
import os, signal, sys
from pipeline.config import load_config
from pipeline.training import loop, validation
from pipeline.training.config import TrainConfig
from pipeline.training.run_folder import RunFolder

def kill(*args, **named):
    os.kill(os.getpid(), signal.SIGKILL)

place = sys.argv[2]
if place == "in the evaluation":
    usual = validation.evaluate
    validation.evaluate = lambda *a, **n: (a[2] == "val" and kill()) or usual(*a, **n)
elif place == "after its line":
    RunFolder.save_student = kill
elif place == "after the student":
    RunFolder.load_student = kill
elif place == "before the evaluation is saved":
    RunFolder.save_evaluation = kill
else:
    RunFolder.mark_finished = kill
config = load_config(TrainConfig, sys.argv[1])
loop.train(config)
"""
LATER = ["after the student", "before the evaluation is saved", "before the end"]


@pytest.mark.parametrize(
    "place",
    ["in the evaluation", "after its line", *(pytest.param(place, marks=pytest.mark.slow) for place in LATER)],
)
def test_a_run_killed_inside_its_last_validation_ends_with_the_files_of_an_uninterrupted_one(cache, tmp_path, place):
    config = tiny_train(tmp_path, cache, steps=2, checkpoint_every=1, signal_every=0)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "train.yaml"), place], env=environment)
    assert child.returncode == -signal.SIGKILL
    train(config)
    whole = train(config.model_copy(update={"runs": str(tmp_path / "whole")}))
    assert files(config.folder) == files(whole)


def files(folder):
    """Every file of a run folder but timings; run.json without its seconds, config.yaml without the folder of runs."""
    found = {name: data for name, data in tree(folder).items() if "tensorboard" not in name and name != ".lock"}
    found["run.json"] = re.sub(rb'"seconds": [\d.]+', b"", found["run.json"])
    found["config.yaml"] = re.sub(rb"runs: .*", b"", found["config.yaml"])
    return found


def test_what_a_kill_left_half_written_is_swept_by_the_next_run(cache, tmp_path):
    config = tiny_train(tmp_path, cache, steps=2, signal_every=0)
    left = [
        config.folder / ".last.ckpt.0123456789abcdef.partial",
        config.folder / "predictions/.a.png.0123456789abcdef.partial",
    ]
    kept = [config.folder / ".export.1.partial/.student.onnx.0123456789abcdef.partial", config.folder / "my.partial"]
    for file in left + kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    train(config)
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in kept)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_the_command_answers_without_a_verb(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(("sward 0.", "usage: sward"))


def test_a_reader_that_ends_early_is_no_error(cache):
    for unbuffered in ([], ["-u"]):
        command = [sys.executable, *unbuffered, "-m", "pipeline.cli", "inspect", cache.store]
        shown = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        shown.stdout.close()
        assert shown.communicate()[1] == ""
        assert shown.returncode == 141
