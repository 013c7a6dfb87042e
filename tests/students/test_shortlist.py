"""Every shortlisted student trains with SWARD and plain, and its ONNX file gives torch's logits at two sizes."""

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_train

from pipeline.config import load_config, read_yaml
from pipeline.export.check import check
from pipeline.export.graph import to_onnx, trace
from pipeline.export.onnx_student import OnnxStudent
from pipeline.files import read_json
from pipeline.maintenance.students_page import CARD, CLASSES, MEASURED, SIZE, parameters, shortlist
from pipeline.training.config import TrainConfig
from pipeline.training.loop import train
from sward import students
from sward.students import build_student

ROOT = Path(__file__).resolve().parents[2]
FAST = "linknet-mobilenetv3-small"
NAMES = sorted(path.stem for path in (ROOT / "configs" / "students").glob("*.yaml"))
each = pytest.mark.parametrize("name", [n if n == FAST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_there_are_eight():
    assert len(NAMES) == len(shortlist()) == 8


@each
@pytest.mark.parametrize("method", ["plain", "sward"])
def test_it_trains_thirty_steps_and_its_onnx_file_equals_torch(cache, tmp_path, name, method):
    """At the size of training and at another one; random images, to 1e-4 of the logits."""
    student = read_yaml(Path("configs/students", f"{name}.yaml"))
    config = tiny_train(tmp_path, cache, student=student, method={"kind": method}, steps=30, checkpoint_every=30)
    folder = train(config)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["term/task"] for line in lines if "term/task" in line]
    assert len(losses) == 30
    assert sum(losses[-5:]) < sum(losses[:5])
    network = students.load(folder).network
    for size in ((64, 64), (96, 128)):
        graph = trace(network, size)
        file = tmp_path / f"{size[0]}.onnx"
        file.write_bytes(to_onnx(graph, CARD))
        exported = OnnxStudent(file, gpu=False)
        image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert (network(image).logits - exported(image).logits).abs().max() <= 1e-4
        check(network, lambda x, e=exported: e(x).logits, graph, name, [])


def test_the_table_has_every_student_with_its_number_of_parameters():
    found = read_json(MEASURED)["students"]
    assert sorted(found) == NAMES
    for name, config in shortlist().items():
        assert found[name]["parameters"] == parameters(build_student(config, CLASSES, 0))
    assert tuple(read_json(MEASURED)["size"]) == SIZE


def test_a_training_config_takes_a_student_by_its_path(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(
        "name: small\ncache: configs/quickstart/cache.yaml\n"
        "student: configs/students/segformer-mit-b0.yaml\nsteps: 10\n"
    )
    assert load_config(TrainConfig, file).student == shortlist()["segformer-mit-b0"]
    chosen = load_config(TrainConfig, file, ["student=configs/students/linknet-starnet-s1.yaml"])
    assert chosen.student == shortlist()["linknet-starnet-s1"]
