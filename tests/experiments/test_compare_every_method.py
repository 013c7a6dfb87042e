"""The shipped comparison of every method, in miniature: all its rows in one table, from one store and one head."""

import pytest
from tiny import HEAD, tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.config import read_yaml
from pipeline.experiments.compare import compare
from pipeline.experiments.compare_config import CompareConfig
from pipeline.files import read_json
from pipeline.results import step_costs

SHORT = {"steps": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def shipped(request):
    return read_yaml(request.config.rootpath / "configs/compare/methods-all-clinicdb-cpu.yaml")


def miniature(folder, shipped):
    """The shipped rows with two steps each, on a tiny store."""
    cache = tiny_cache(folder, views={"count": 1, "seed": 0})
    extract(cache)
    methods = {label: dict(method) for label, method in shipped["methods"].items()}
    for label in ("MasKD", "FreeKD"):
        methods[label]["prestage"] = SHORT
    methods["HeteroAKD"]["warmup_steps"] = 1
    train = tiny_train(folder, cache, steps=2, signal_every=0, checkpoint_every=2, head=HEAD, task={"dice": 1})
    values = shipped | {"methods": methods, "train": train, "out": str(folder / "comparisons"), "teacher": {}}
    return CompareConfig.model_validate(values)


@pytest.mark.slow
def test_all_rows_train_and_stand_in_one_table_with_their_costs(tmp_path, shipped, monkeypatch):
    monkeypatch.setattr(step_costs, "ROUNDS", 1)
    config = miniature(tmp_path, shipped)
    text = compare(config)
    rows = {row["label"]: row for row in read_json(config.folder / "comparison.json")["rows"]}
    assert list(rows) == ["teacher", *shipped["methods"], "nearest mask, copied"]
    for label in shipped["methods"]:
        assert [run["seed"] for run in rows[label]["runs"]] == [0, 1]
        assert rows[label]["cost"]["ms_per_step"] > 0
        assert f"| {label} " in text
    assert (config.folder / "report.html").stat().st_size > 0
