"""The saved comparisons of all methods: complete, fair, and every method's own loss fell on real features."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from table import CONFIGS

from pipeline.config import validate
from pipeline.experiments.compare_config import CompareConfig
from pipeline.files import read_json
from pipeline.results.runs import load_run
from sward.methods.combined import CombinedConfig

RESULTS = Path(__file__).parents[2] / "results"
NOT_COMPARED: dict[str, str] = {}  # kind -> why no saved comparison has it yet, e.g. {"mine": "no ClinicDB here"}
SAVED = [RESULTS / "methods-all-clinicdb-cpu"]
ROWS = {folder: read_json(folder / "comparison.json")["rows"] for folder in SAVED}
METHODS = [
    pytest.param(folder, row, id=f"{folder.name}: {row['label']}")
    for folder, rows in ROWS.items()
    for row in rows
    if row["method"] not in ("plain", "")
]


def own_loss(run, warm_up):
    """The method's weighted terms at every logged step past the warm-up."""
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    alpha = run.config.method.alpha
    return [x["loss"] - alpha * x["term/task"] for x in lines if "loss" in x and x["step"] > warm_up]


@pytest.mark.parametrize(("folder", "row"), METHODS)
def test_its_own_loss_fell_in_every_run(folder, row):
    for line in row["runs"]:
        run = load_run(folder / line["folder"])
        assert run.config.steps >= 30
        losses = own_loss(run, run.config.method.warm_up(run.config.steps)[0])
        fifth = len(losses) // 5
        assert np.mean(losses[-fifth:]) < np.mean(losses[:fifth])


def test_every_kind_of_the_table_is_in_them_or_has_a_reason():
    configs = [validate(CompareConfig, yaml.safe_load((f / "config.yaml").read_text()), "saved") for f in SAVED]
    methods = [m for config in configs for m in config.methods.values()]
    parts = [p for m in methods if isinstance(m, CombinedConfig) for p in m.parts.values()]
    assert {m.kind for m in [*methods, *parts]} | set(NOT_COMPARED) == set(CONFIGS)
    assert all(NOT_COMPARED.values())


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: folder.name)
def test_all_runs_read_one_store_and_one_head_and_differ_by_method_and_seed_alone(folder):
    runs = [load_run(folder / line["folder"]) for row in ROWS[folder] for line in row["runs"]]
    students = [run for run in runs if run.config.student.kind != "teacher-head"]
    assert len({run.facts["content_id"] for run in runs}) == 1
    assert len({head for run in runs if (head := run.facts["sources"].get("head"))}) == 1
    free = {"name", "method", "seed", "head"}
    assert all(run.config.model_dump(exclude=free) == students[0].config.model_dump(exclude=free) for run in students)
    seeds = {tuple(row["seeds"]) for row in ROWS[folder] if row["runs"] and row["label"] != "teacher"}
    assert seeds == {(0, 1)}
