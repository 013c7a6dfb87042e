"""The comparison is fair by construction, complete on disk, resumable, and refuses to mix stores."""

import csv
import json
import shutil

import pytest
import yaml

from pipeline.cli import main
from pipeline.config import ConfigError, load_config, validate
from pipeline.experiments.compare import compare, heads, planned_rows, running_order
from pipeline.experiments.compare_config import TEACHER, CompareConfig
from pipeline.files import read_json, write_json
from pipeline.results.runs import RunError
from pipeline.training.config import HeadFit


def changed(config, **changes):
    return CompareConfig.model_validate(config.model_dump() | changes)


def test_rows_differ_by_method_alone(compare_config):
    _, *rows = planned_rows(compare_config)
    free = {"name", "method"}
    for own, base in zip(rows[1].configs, rows[0].configs, strict=True):
        assert own.model_dump(exclude=free) == base.model_dump(exclude=free)
        assert own.method != base.method


def test_seeds_of_a_row_differ_by_seed_alone(compare_config):
    for row in planned_rows(compare_config):
        shared = [c.model_dump(exclude={"name", "seed"}) for c in row.configs]
        assert all(s == shared[0] for s in shared)
        assert len({c.folder for c in row.configs}) == len(row.configs)


def test_a_method_may_have_its_own_optimiser(compare_config):
    rows = planned_rows(changed(compare_config, optimizers={"SWARD": {"lr": 0.01}}))
    assert {row.label: row.configs[0].optimizer.lr for row in rows} == {
        TEACHER: 5e-4,
        "student alone": 5e-4,
        "SWARD": 0.01,
    }


def test_the_order_of_methods_in_the_file_changes_no_comparison(compare_config):
    backwards = dict(reversed(compare_config.methods.items()))
    assert planned_rows(changed(compare_config, methods=backwards)) == planned_rows(compare_config)


def test_every_student_has_its_own_baseline(compare_config):
    students = {"UNeXt": {"kind": "unext"}, "DeepLab": {"kind": "deeplabv3"}}
    rows = planned_rows(changed(compare_config, students=students, teacher=None))
    baselines = {row.label: row.baseline for row in rows}
    assert baselines == {
        "UNeXt: student alone": None,
        "UNeXt: SWARD": "UNeXt: student alone",
        "DeepLab: student alone": None,
        "DeepLab: SWARD": "DeepLab: student alone",
    }


def test_a_stopped_comparison_is_even_over_the_rows(compare_config):
    order = [c.seed for c in running_order(planned_rows(compare_config))]
    assert order == sorted(order)


def test_all_mistakes_are_reported_together(compare_config):
    wrong = compare_config.model_dump() | {
        "seeds": [0, 0],
        "optimizers": {"KD": {}},
        "methods": {"teacher": {"kind": "plain"}},
    }
    with pytest.raises(
        ConfigError, match=r"repeat one.*optimizers names \['KD'\].*baseline is 'student alone'.*rename it"
    ):
        validate(CompareConfig, wrong, "compare.yaml")


def with_head(config, **changes):
    train = config.train.model_dump() | {"head": {"steps": 5, "network": {"kind": "resunetpp-head", "width": 8}}}
    methods = {"student alone": {"kind": "plain"}, "KD": {"kind": "kd"}}
    return config.model_dump() | {"train": train, "methods": methods, "teacher": {}} | changes


@pytest.mark.usefixtures("without_report")
def test_the_teachers_row_is_the_very_head_that_methods_read_and_it_is_fitted_first(compare_config, tmp_path):
    config = CompareConfig.model_validate(with_head(compare_config, out=str(tmp_path)))
    teacher, *_ = planned_rows(config)
    assert heads(config) == list(teacher.configs)
    compare(config)
    found = {row["label"]: row for row in read_json(config.folder / "comparison.json")["rows"]}
    assert found[TEACHER]["steps"] == 5
    assert found["KD"]["cost"]["reads"] == ["s4", "s8", "s16", "s32"]
    assert found["KD"]["cost"]["made"] == ["logits"]
    assert "s4 s8 s16 s32 → logits" in (config.folder / "comparison.md").read_text()


def test_no_head_is_fitted_where_no_method_reads_one(compare_config):
    assert heads(compare_config) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": None}, r"KD need the teacher's head: set train\.head\.steps"),
        ({"teacher": {"steps": 3}}, r"train\.head says how the teacher's head is fitted; leave teacher\.steps"),
        ({"train": None, "methods": {"student alone": {"kind": "plain"}}}, r"the teacher's row needs teacher\.steps"),
    ],
)
def test_how_the_head_is_fitted_is_said_once(compare_config, changes, message):
    changes = {k: compare_config.train if k == "train" else v for k, v in changes.items()}
    with pytest.raises(ConfigError, match=message):
        validate(CompareConfig, with_head(compare_config, **changes), "compare.yaml")


def test_one_seed_is_not_a_comparison(compare_config):
    with pytest.raises(ConfigError, match="seeds: List should have at least 2 items"):
        validate(CompareConfig, compare_config.model_dump() | {"seeds": [0]}, "compare.yaml")


@pytest.mark.parametrize("label", ["a|b", "$x$", "_hidden", ""])
def test_labels_that_break_tables_or_figures_are_refused(compare_config, label):
    with pytest.raises(ConfigError, match="methods"):
        validate(CompareConfig, compare_config.model_dump() | {"methods": {label: {"kind": "plain"}}}, "compare.yaml")


def test_the_text_has_every_row_the_paths_and_the_difference(compared):
    assert all(f"| {label}" in compared.text for label in (TEACHER, "student alone", "SWARD"))
    assert str(compared.folder / "report.html") in compared.text
    assert compared.text.splitlines()[-1].startswith("SWARD − student alone: ")


def test_every_run_is_identified(compared):
    runs = [run for row in compared.json["rows"] for run in row["runs"]]
    assert len(runs) == 5
    for run in runs:
        facts = read_json(compared.folder / run["folder"] / "run.json")
        assert {k: facts[k] for k in ("identity", "commit", "content_id", "seed")} == {
            k: run[k] for k in ("identity", "commit", "content_id", "seed")
        }
        assert run["content_id"] == compared.json["content_id"]


def test_comparison_json_is_strict_json(compared):
    def refuse(name):
        raise AssertionError(name)

    json.loads((compared.folder / "comparison.json").read_text(), parse_constant=refuse)


def test_csv_has_every_metric_of_every_run_unrounded(compared):
    with (compared.folder / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    runs = [run for row in compared.json["rows"] for run in row["runs"]]
    assert [float(line["dice"]) for line in lines] == [run["metrics"]["dice"] for run in runs]
    assert [line["identity"] for line in lines] == [run["identity"] for run in runs]


def without_reuse(text):
    """A comparison's text without the line about reused rows."""
    return [line for line in text.splitlines() if not line.startswith("reused: ")]


@pytest.mark.usefixtures("without_report")
def test_finished_runs_are_reused_and_the_result_is_the_same(compared):
    student = compared.run("SWARD") / "student.safetensors"
    before = student.stat().st_mtime_ns, (compared.folder / "comparison.json").read_bytes()
    text = compare(compared.config)
    assert "reused: teacher (1 of 1 runs), student alone (2 of 2 runs), SWARD (2 of 2 runs)" in text
    assert without_reuse(text) == without_reuse(compared.text)
    assert (student.stat().st_mtime_ns, (compared.folder / "comparison.json").read_bytes()) == before


def test_the_resolved_configuration_reproduces_the_comparison(compared):
    again = load_config(CompareConfig, compared.folder / "config.yaml")
    assert planned_rows(again) == planned_rows(compared.config)


def test_runs_from_another_store_are_refused_before_training(compared, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(compared.config.train.runs, runs)
    folder = next(runs.glob("SWARD-seed1-*"))
    write_json(folder / "run.json", read_json(folder / "run.json") | {"content_id": "f" * 64})
    train = compared.config.train.model_copy(update={"runs": str(runs)})
    with pytest.raises(RunError, match=r"(?s)found others.*SWARD-seed1.*ffff.*remove these folders"):
        compare(compared.config.model_copy(update={"train": train, "out": str(tmp_path / "out")}))
    assert not (tmp_path / "out").exists()


def test_the_command_compares_and_quickstart_extracts_first(compared, tmp_path, capsys):
    values = compared.config.model_dump(mode="json")
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(values))
    assert main(["compare", str(path)]) == 0
    assert set(without_reuse(compared.text)) <= set(capsys.readouterr().out.splitlines())
    assert main(["quickstart", "--config", str(path)]) == 0
    out = capsys.readouterr().out
    assert ", 0 computed now" in out
    assert out.strip().endswith(compared.text.splitlines()[-1])


def test_the_embedded_quickstart_is_a_valid_comparison(monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    config = load_config(CompareConfig, "configs/quickstart/compare.yaml")
    assert [row.label for row in planned_rows(config)] == [TEACHER, "student alone", "SWARD"]
    assert len(config.seeds) >= 2


def test_rows_with_an_optimiser_of_their_own_read_the_same_head(compare_config):
    train = compare_config.train.model_copy(update={"head": HeadFit(steps=3)})
    methods = {"student alone": {"kind": "plain"}, "KD": {"kind": "kd"}, "CWD": {"kind": "cwd"}}
    config = changed(
        compare_config, train=train.model_dump(), methods=methods, teacher={}, optimizers={"KD": {"lr": 0.01}}
    )
    teacher, _, *readers = planned_rows(config)
    assert {c.head_run().folder for row in readers for c in row.configs} == {teacher.configs[0].folder}
    assert heads(config) == [teacher.configs[0]]
    assert readers[0].configs[0].optimizer.lr == 0.01


def test_a_table_is_saved_before_its_costs_are_measured(compared, monkeypatch, tmp_path):
    config = changed(compared.config, out=str(tmp_path))

    def fails(*arguments, **named):
        raise MemoryError

    monkeypatch.setattr("pipeline.experiments.compare.add_costs", fails)
    with pytest.raises(MemoryError):
        compare(config)
    rows = read_json(config.folder / "comparison.json")["rows"]
    assert [row["label"] for row in rows] == [TEACHER, "student alone", "SWARD"]
    assert (config.folder / rows[0]["runs"][0]["folder"] / "run.json").is_file()
