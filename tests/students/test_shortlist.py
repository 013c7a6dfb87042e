"""The shortlisted students are named configurations that a training config takes by their path."""

from pathlib import Path

from pydantic import TypeAdapter

from pipeline.config import load_config, read_yaml
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
