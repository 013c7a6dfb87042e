"""The saved comparison of all methods: complete, fair, and every method's own loss fell on real features."""

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

SAVED = Path(__file__).parents[2] / "results" / "methods-clinicdb-cpu"
ROWS = {row["label"]: row for row in read_json(SAVED / "comparison.json")["rows"]}
METHODS = [label for label, row in ROWS.items() if row["method"] != "plain"]


def own_loss(run, warm_up):
    """The method's weighted terms at every logged step past the warm-up."""
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    alpha = run.config.method.alpha
    return [x["loss"] - alpha * x["term/task"] for x in lines if "loss" in x and x["step"] > warm_up]


@pytest.mark.parametrize("label", METHODS)
def test_its_own_loss_fell_in_every_run(label):
    for line in ROWS[label]["runs"]:
        run = load_run(SAVED / line["folder"])
        assert run.config.steps >= 30
        losses = own_loss(run, run.config.method.warm_up(run.config.steps)[0])
        fifth = len(losses) // 5
        assert np.mean(losses[-fifth:]) < np.mean(losses[:fifth])


def test_every_kind_of_the_table_is_in_it():
    config = validate(CompareConfig, yaml.safe_load((SAVED / "config.yaml").read_text()), "saved")
    parts = [p for m in config.methods.values() if isinstance(m, CombinedConfig) for p in m.parts.values()]
    assert {m.kind for m in [*config.methods.values(), *parts]} == set(CONFIGS)


def test_all_runs_read_one_store_and_one_head_and_differ_by_method_and_seed_alone():
    runs = [load_run(SAVED / line["folder"]) for row in ROWS.values() for line in row["runs"]]
    students = [run for run in runs if run.config.student.kind != "teacher-head"]
    assert len({run.facts["content_id"] for run in runs}) == 1
    assert len({head for run in runs if (head := run.facts["sources"].get("head"))}) == 1
    free = {"name", "method", "seed", "head"}
    assert all(run.config.model_dump(exclude=free) == students[0].config.model_dump(exclude=free) for run in students)
    assert {tuple(row["seeds"]) for row in ROWS.values() if row["label"] != "teacher"} == {(0, 1)}
