"""Encoder weights from a file are an input of the run: a replaced file is noticed, finished or not."""

import pytest
from pydantic import TypeAdapter
from safetensors.torch import save_file
from tiny import tiny_train

from pipeline.files import read_json
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.loop import train
from sward.students import StudentConfig, build_student

STUDENT = {"kind": "smp", "architecture": "fpn", "encoder": "resnet18"}


def write_encoder(path, seed):
    student = TypeAdapter(StudentConfig).validate_python(STUDENT | {"encoder_weights": None})
    state = build_student(student, 2, seed).encoder.state_dict()
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)


@pytest.fixture
def config(cache, tmp_path):
    path = tmp_path / "encoder.safetensors"
    write_encoder(path, seed=1)
    student = STUDENT | {"encoder_weights": str(path)}
    return tiny_train(tmp_path, cache, student=student, method={"kind": "plain"}, steps=1, signal_every=0)


def test_the_files_digest_is_among_the_runs_sources_and_the_same_file_is_the_same_run(config):
    folder = train(config)
    assert len(read_json(folder / "run.json")["sources"]["encoder"]) == 64
    before = (folder / "student.safetensors").stat().st_mtime_ns
    train(config)
    assert (folder / "student.safetensors").stat().st_mtime_ns == before


def test_a_finished_run_of_a_replaced_file_is_refused(config, tmp_path):
    train(config)
    write_encoder(tmp_path / "encoder.safetensors", seed=2)
    with pytest.raises(CheckpointMismatch, match=r"began with encoder weights of digest \w{12}.*now has \w{12}"):
        train(config)


def test_a_finished_run_needs_no_file(config, tmp_path):
    folder = train(config)
    (tmp_path / "encoder.safetensors").unlink()
    assert train(config) == folder


def test_other_students_have_no_such_source(cache, tmp_path):
    folder = train(tiny_train(tmp_path, cache, method={"kind": "plain"}, steps=1, signal_every=0))
    assert "encoder" not in read_json(folder / "run.json")["sources"]


def test_weights_under_data_are_found_below_the_data_root_as_a_teachers_are(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("SWARD_DATA", str(tmp_path / "root"))
    (tmp_path / "root/weights").mkdir(parents=True)
    write_encoder(tmp_path / "root/weights/encoder.safetensors", seed=1)
    student = STUDENT | {"encoder_weights": "data/weights/encoder.safetensors"}
    folder = train(tiny_train(tmp_path, cache, student=student, method={"kind": "plain"}, steps=1, signal_every=0))
    assert "encoder" in read_json(folder / "run.json")["sources"]
