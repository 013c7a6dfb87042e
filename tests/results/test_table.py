"""The table says what the comparison holds: costs, the paper's figures beside ours, a dash for what is not known."""

import csv
import io
import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError, validate
from pipeline.experiments.compare import add_paper
from pipeline.experiments.compare_config import CompareConfig
from pipeline.results.captions import caption, steps_text
from pipeline.results.results_table import NONE, cells, comparison_csv, header


def table(comparison):
    """Label -> column -> cell."""
    head = header(comparison)
    return {line[0]: dict(zip(head, line, strict=True)) for line in cells(comparison)}


def with_paper(compared, **values):
    config = CompareConfig.model_validate(compared.config.model_dump() | values)
    comparison = compared.json
    add_paper(config, comparison)
    return comparison


def test_a_step_is_in_milliseconds_for_the_baseline_and_a_ratio_for_the_others(compared):
    comparison = compared.json
    comparison["rows"][1]["cost"] |= {"ms_per_step": 252.6, "peak_bytes": 1_234_567_890}
    comparison["rows"][2]["cost"] |= {"relative": 1.4192}
    found = table(comparison)
    assert found["student alone"]["step"] == "253 ms"
    assert found["SWARD"]["step"] == "1.42×"
    assert found["student alone"]["peak MB"] == "1,235"
    assert (found["student alone"]["reads"], found["SWARD"]["reads"]) == (NONE, "s4 s8 s16 s32")
    assert found["SWARD"]["extra"] == f"{comparison['rows'][2]['adapter_parameters']:,}"


def test_a_comparison_without_costs_or_paper_has_dashes_and_no_explanation(compared):
    old = compared.json
    for key in ("cost", "deviations"):
        del old[key]
    for row in old["rows"]:
        del row["cost"], row["paper"]
    assert all(line[column] == NONE for line in table(old).values() for column in ("step", "peak MB", "reads"))
    assert "Step:" not in caption(old)
    assert "paper" not in " ".join(header(old)) + caption(old)


def test_the_papers_figures_stand_beside_ours_in_per_cent(compared):
    paper = {"SWARD": {"dice": 93.23, "iou": 87.78}, "teacher": {"dice": 94.6}}
    found = table(with_paper(compared, paper=paper, deviations=["256 px for 512", "2 seeds"]))
    assert [line["paper mDice %"] for line in found.values()] == ["94.60", NONE, "93.23"]
    assert [line["paper mIoU %"] for line in found.values()] == [NONE, NONE, "87.78"]


def test_only_metrics_with_a_figure_have_a_column(compared):
    comparison = with_paper(compared, paper={"SWARD": {"dice": 93.23}})
    assert [h for h in header(comparison) if h.startswith("paper")] == ["paper mDice %"]


def test_deviations_end_the_caption(compared):
    comparison = with_paper(compared, deviations=["256 px for 512", "2 seeds"])
    assert caption(comparison).endswith("Unlike the paper: 256 px for 512; 2 seeds.")


def test_runs_of_an_installed_wheel_have_no_commit_and_it_is_said():
    saved = json.loads((Path(__file__).resolve().parents[2] / "results/quickstart/comparison.json").read_text())
    assert caption(saved | {"commits": ["None"]}).endswith("commit unknown.")
    assert caption(saved | {"commits": ["None", "a"]}).endswith("commit unknown, a.")


def test_figures_for_rows_that_are_not_there_are_refused(compared):
    values = compared.config.model_dump() | {"paper": {"CIRKD": {"dice": 78.12}, "SWARD": {"dice": 88.49}}}
    with pytest.raises(ConfigError, match=r"paper names \['CIRKD'\]; the rows are \['teacher', 'student alone', 'SW"):
        validate(CompareConfig, values, "compare.yaml")


def test_with_several_students_figures_belong_to_a_pair(compared):
    values = compared.config.model_dump() | {"students": {"UNeXt": {"kind": "unext"}}}
    validate(CompareConfig, values | {"paper": {"UNeXt: SWARD": {"dice": 93.23}}}, "compare.yaml")
    with pytest.raises(ConfigError, match=r"paper names \['SWARD'\]"):
        validate(CompareConfig, values | {"paper": {"SWARD": {"dice": 93.23}}}, "compare.yaml")


@pytest.mark.parametrize("figures", [{"dice": 101}, {"mDice": 93.2}])
def test_figures_are_per_cent_of_known_metrics(compared, figures):
    with pytest.raises(ConfigError, match=r"paper\.SWARD"):
        validate(CompareConfig, compared.config.model_dump() | {"paper": {"SWARD": figures}}, "compare.yaml")


def test_the_csv_has_the_costs_of_the_runs_row(compared):
    line = list(csv.DictReader(io.StringIO(comparison_csv(compared.json))))[-1]
    cost = compared.json["rows"][-1]["cost"]
    assert line["reads"] == "s4 s8 s16 s32"
    assert (float(line["relative"]), int(line["peak_bytes"])) == (cost["relative"], cost["peak_bytes"])


def test_steps_are_said_once_and_by_row_only_where_they_differ(compared):
    assert steps_text(compared.json) == "4 steps of 4 records; teacher: 6 steps of 4 records"
