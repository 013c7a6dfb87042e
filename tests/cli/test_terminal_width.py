"""At 80 and 120 columns nothing breaks within a word, and tables show first what matters most."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_dataset

from pipeline import console
from pipeline.cli import main
from pipeline.experiments.quality_page import quality_markdown
from pipeline.results.results_table import cells, fitting, header, markdown

ROOT = Path(__file__).resolve().parents[2]
SAVED = sorted((ROOT / "results").glob("*/comparison.json"))
WIDTHS = [80, 120]


def words(text):
    return text.split()


@pytest.mark.parametrize("columns", WIDTHS)
def test_long_lines_go_on_below_between_words_and_under_their_title(columns):
    text = "records        " + "12 of train, " * 20 + "\n\n    indented " + "word " * 40 + "\n| a table | " + "x" * 150
    folded = console.folded(text, columns)
    lines = folded.splitlines()
    assert words(folded) == words(text)
    assert max(len(line) for line in lines if not line.startswith("|")) <= columns
    assert lines[1][:15].isspace()
    assert not lines[1][15].isspace()
    assert lines[-1].endswith("x" * 150)


def test_a_word_that_is_too_long_stays_whole():
    path = "/a" * 60
    assert path in console.folded(f"student: {path}; trained on cpu", 80).splitlines()[1]


def test_output_that_goes_to_a_file_is_not_folded(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console.columns() is None
    monkeypatch.setenv("COLUMNS", "80")
    assert console.columns() == 80


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.parent.name)
def test_a_comparison_shows_the_columns_that_fit_the_most_important_first(file, columns):
    comparison = json.loads(file.read_text())
    table, _, left_out = fitting(comparison, columns).partition("\n\n")
    assert max(map(len, table.splitlines())) <= columns
    labels = " ".join(line.split("|")[1].strip() for line in table.splitlines()[2:])
    assert words(labels) == words(" ".join(row["label"] for row in comparison["rows"]))
    shown = [name.strip() for name in table.splitlines()[0].strip("|").split("|")]
    assert f"Δ {'mDice' if comparison['headline'] == 'dice' else 'class mIoU'}" in shown
    assert any(name.startswith("95 % CI") for name in shown)
    named = left_out.partition(": ")[2]
    assert all(name in shown or name in named for name in header(comparison))


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.parent.name)
def test_without_a_terminal_a_comparison_has_all_columns(file):
    comparison = json.loads(file.read_text())
    assert fitting(comparison, None) == markdown(header(comparison), cells(comparison))


@pytest.mark.parametrize("columns", [40, *WIDTHS])
def test_a_quality_curve_folds_like_a_comparison(columns):
    found = json.loads((ROOT / "results/clinicdb-quality-cpu/quality.json").read_text())
    table, *rest = quality_markdown(found, columns).split("\n\n")
    assert max(map(len, table.splitlines())) <= columns
    assert len(table.splitlines()) == len(found["points"]) + 2
    assert all(name in table for name in ("codec", "views", "mDice %"))
    assert ("not shown at 40 columns: seeds, mIoU %, features, MB" in rest) == (columns == 40)


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_verbs_of_a_newcomer_print_no_line_that_is_too_long(columns, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my/pictures of a long day in the clinic"
    tiny_dataset(folder)
    (folder / "card.yaml").unlink()
    assert main(["init", str(folder.relative_to(tmp_path))]) == 0
    for words in (["list", "methods"], ["list", "configs"], ["config", "train"]):
        assert main(words) == 0
    printed = capsys.readouterr().out
    commands = [line for line in printed.splitlines() if line.startswith("  sward ")]
    files = [shlex.split(line)[2] for line in commands]
    assert files == [str(folder.relative_to(tmp_path) / name) for name in ("cache.yaml", "train.yaml")]
    long = [line for line in printed.splitlines() if len(line) > columns and line not in commands]
    assert all(len(line.split()) == 1 for line in long)


@pytest.mark.parametrize("columns", WIDTHS)
def test_an_error_is_folded_between_words(columns, tmp_path):
    command = [sys.executable, "-m", "pipeline.cli", "train", str(tmp_path / "nothing.yaml")]
    environment = os.environ | {"COLUMNS": str(columns)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    long = [line for line in done.stderr.splitlines() if len(line) > columns]
    assert done.returncode == 1
    assert all(len(line.split()) == 1 for line in long)


def test_a_metric_without_a_value_is_shown_as_such():
    lines = console.metric_table({"val": {"dice": 0.5, "hd95": None}, "test": {"dice": 0.25}})
    assert [line.split() for line in lines] == [
        ["val", "test"],
        ["mDice", "%", "50.00", "25.00"],
        ["HD95", "px", "undefined", "–"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_a_report_is_written_of_a_run_named_without_its_hash(compared, tmp_path, capsys):
    run = compared.run("SWARD")
    assert main(["report", str(run.with_name(run.name[:-11])), "--out", str(tmp_path / "report.html")]) == 0
    assert run.name in (tmp_path / "report.html").read_text()
