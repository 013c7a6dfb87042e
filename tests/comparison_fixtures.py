"""One small comparison, made once: a teacher's row, the student alone and SWARD, two seeds, four steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.experiments.compare import compare
from pipeline.experiments.compare_config import CompareConfig
from pipeline.files import read_json


@dataclass
class Compared:
    config: CompareConfig
    text: str

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def json(self) -> dict[str, Any]:
        return read_json(self.folder / "comparison.json")

    def run(self, label: str, index: int = 0) -> Path:
        row = next(row for row in self.json["rows"] if row["label"] == label)
        return self.folder / row["runs"][index]["folder"]


@pytest.fixture(scope="session")
def compare_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    cache = tiny_cache(folder)
    extract(cache)
    return CompareConfig.model_validate(
        {
            "name": "tiny",
            "out": str(folder / "comparisons"),
            "train": tiny_train(folder, cache, steps=4, eval_every=2),
            "methods": {"student alone": {"kind": "plain"}, "SWARD": {"kind": "sward", "mwad": {"gain": 2.0}}},
            "seeds": [0, 1],
            "teacher": {"steps": 6, "head": {"kind": "teacher-head", "width": 8, "rates": [2]}},
        }
    )


@pytest.fixture(scope="session")
def compared(compare_config):
    return Compared(compare_config, compare(compare_config))


@pytest.fixture
def without_report(monkeypatch):
    """No report at the end of a comparison, where a test is not about it: it takes longer than these short runs."""
    monkeypatch.setattr("pipeline.experiments.compare.write_report", lambda folders, path: path)
