"""The shortlisted students are named configurations that a training config takes by their path."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from pipeline.config import load_config, read_yaml
from pipeline.files import read_json, write_json
from pipeline.maintenance import students_page
from pipeline.training.config import TrainConfig
from sward.students import StudentConfig

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs" / "students").glob("*.yaml"))


def test_there_are_eight_and_a_training_config_takes_each_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(FILES) == 8
    for path in FILES:
        file = tmp_path / "train.yaml"
        file.write_text(f"name: small\ncache: configs/quickstart/cache.yaml\nstudent: {path}\nsteps: 10\n")
        expected = TypeAdapter(StudentConfig).validate_python(read_yaml(path))
        assert load_config(TrainConfig, file).student == expected


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_parameters_and_multiply_accumulates_of_the_page_are_counted_again(name):
    assert students_page.counted(students_page.shortlist()[name]) == read_json(students_page.COUNTED)["students"][name]


def test_the_page_shows_saved_latencies_with_their_machine_and_says_where_there_are_none(tmp_path, monkeypatch):
    file = tmp_path / "latency.json"
    monkeypatch.setattr(students_page, "MEASURED", file)
    without = students_page.page()
    assert without.count("| not measured | not measured |") == len(FILES)
    measured = {"linknet-starnet-s1": {"torch": 41.23, "onnxruntime": 9.87}}
    write_json(file, {"machine": "A, 2 cores", "load": 0.2, "versions": {"torch": "2"}, "students": measured})
    found = students_page.page()
    assert found.count("not measured") == 2 * (len(FILES) - 1)
    assert "tu-starnet_s1 | 2.75 | 0.60 | 41.2 | 9.9 |" in found
    assert "A, 2 cores; torch 2; load of the machine when it began 0.2" in found


def test_the_saved_latencies_are_of_every_student_at_the_pages_size():
    found = read_json(students_page.MEASURED)
    assert found["size"] == list(students_page.SIZE)
    assert found["students"].keys() == students_page.shortlist().keys()
