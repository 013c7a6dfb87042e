"""A grid becomes named rows, each compared with the row it differs from by the method alone; equal runs train once."""

import pytest

from pipeline.config import ConfigError, validate
from pipeline.experiments.compare import compare, planned_rows
from pipeline.experiments.compare_config import CompareConfig
from pipeline.files import read_json
from pipeline.results import step_costs

SWARD = {"kind": "sward", "mwad": {"gain": 2.0}}
GRID = {"optimizer.lr": [1e-3, 2e-3], "method.beta": [0.1, 0.5]}


def changed(config, **changes):
    return validate(CompareConfig, config.model_dump(exclude={"baseline", "baselines"}) | changes, "compare.yaml")


def test_two_values_of_two_settings_are_four_named_rows(compare_config):
    rows = planned_rows(changed(compare_config, methods={"SWARD": SWARD}, grid=GRID, teacher=None))
    found = {row.label: (row.configs[0].optimizer.lr, row.configs[0].method.beta) for row in rows}
    assert found == {
        "SWARD lr=0.001 beta=0.1": (1e-3, 0.1),
        "SWARD lr=0.001 beta=0.5": (1e-3, 0.5),
        "SWARD lr=0.002 beta=0.1": (2e-3, 0.1),
        "SWARD lr=0.002 beta=0.5": (2e-3, 0.5),
    }
    assert [row.baseline for row in rows] == [None, *["SWARD lr=0.001 beta=0.1"] * 3]


def test_a_method_is_compared_with_the_plain_row_of_the_same_settings(compare_config):
    rows = planned_rows(changed(compare_config, methods={"SWARD": SWARD, "alone": {"kind": "plain"}}, grid=GRID))
    baselines = {row.label: row.baseline for row in rows}
    assert baselines["SWARD lr=0.002 beta=0.5"] == "alone lr=0.002"
    assert baselines["alone lr=0.002"] == "alone lr=0.001"
    assert "alone lr=0.001 beta=0.1" not in baselines  # the plain row has no beta


def test_a_grid_is_written_out_once(compare_config):
    config = changed(compare_config, grid=GRID)
    assert CompareConfig.model_validate(config.model_dump()) == config


def test_the_baseline_is_the_plain_row_where_none_is_stated(compare_config):
    assert changed(compare_config, methods={"SWARD": SWARD, "from labels": {"kind": "plain"}}).baseline == "from labels"


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"method.betta": [1]}, "none of the methods .* has this setting"),
        ({"optimizer.lr": []}, "expected a list of values"),
    ],
)
def test_a_grid_without_effect_is_refused(compare_config, grid, said):
    with pytest.raises(ConfigError, match=said):
        changed(compare_config, grid=grid)


@pytest.mark.usefixtures("without_report")
def test_a_grid_trains_its_rows_equal_runs_once_and_reuse_is_said(compare_config, tmp_path, monkeypatch):
    monkeypatch.setattr(step_costs, "ROUNDS", 1)
    methods = {"student alone": {"kind": "plain"}, "SWARD": SWARD, "the same": SWARD}
    config = changed(compare_config, methods=methods, grid={"method.beta": [0.1, 0.5]}, teacher=None, out=str(tmp_path))
    config = config.model_copy(update={"train": config.train.model_copy(update={"runs": str(tmp_path / "runs")})})
    assert "reused" not in compare(config)
    found = {row["label"]: row["runs"] for row in read_json(config.folder / "comparison.json")["rows"]}
    assert list(found) == [
        "student alone",
        "SWARD beta=0.1",
        "SWARD beta=0.5",
        "the same beta=0.1",
        "the same beta=0.5",
    ]
    assert found["the same beta=0.1"] == found["SWARD beta=0.1"]
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 6  # three different rows with two seeds each
    assert "reused: student alone (2 of 2 runs), SWARD beta=0.1 (2 of 2 runs)" in compare(config)
