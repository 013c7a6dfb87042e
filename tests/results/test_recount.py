"""The metrics of the page, of evaluation.json, and of torchmetrics on the saved masks are the same; costs add up."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cache.store import Store
from pipeline.report.report import write_report
from pipeline.results.cost_account import HEADER, account, duration
from pipeline.results.recount import disagreements, per_class, recount
from pipeline.results.runs import load_run
from sward.compat import import_torchvision_safely

import_torchvision_safely()
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex, MulticlassConfusionMatrix  # noqa: E402


def saved_masks(run, store):
    """(prediction, label) of every image, read without any of the report's code."""
    for record in store.records[run.evaluation["subset"]]:
        with Image.open(run.path / "predictions" / f"{record.id.replace('/', '__')}.png") as picture:
            found = torch.from_numpy(np.array(picture).astype(np.int64))
        yield found, torch.from_numpy(store.full_label(record).astype(np.int64))


def test_page_json_and_an_independent_recomputation_agree(compared):
    store = Store(compared.config.train.cache.store)
    text = (compared.folder / "report.html").read_text()
    table = text[text.index('<table id="all-runs"') :]
    lines = [
        re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", line) for line in table[: table.index("</table>")].split("<tr>")
    ]
    shown = {(line[0], int(line[1])): line for line in lines if len(line) > 3 and line[1].isdigit()}
    for row in compared.json["rows"]:
        for line in row["runs"]:
            run = load_run(compared.folder / line["folder"])
            masks = list(saved_masks(run, store))
            dice, iou = (
                np.mean(
                    [float(metric()(found, label)) if found.any() or label.any() else 1.0 for found, label in masks]
                )
                for metric in (BinaryF1Score, BinaryJaccardIndex)
            )
            assert run.metrics["dice"] == pytest.approx(dice, abs=1e-6)
            assert run.metrics["iou"] == pytest.approx(iou, abs=1e-6)
            assert line["metrics"]["dice"] == run.metrics["dice"]
            cells = shown[row["label"], line["seed"]]
            assert [float(c) for c in cells[2:4]] == pytest.approx([100 * dice, 100 * iou], abs=0.0051)


def test_the_recount_is_torchmetrics_confusion_matrix(compared):
    store, run = Store(compared.config.train.cache.store), load_run(compared.run("SWARD"))
    matrix = MulticlassConfusionMatrix(2)
    for found, label in saved_masks(run, store):
        matrix.update(found, label)
    counted = recount(store, run)
    assert torch.equal(counted.confusion, matrix.compute())
    for name, value in counted.metrics.items():
        assert run.metrics[name] == pytest.approx(value, abs=1e-12)
    hits = counted.confusion.diagonal()
    union = counted.confusion.sum(0) + counted.confusion.sum(1) - hits
    expected = [f"{100 * h / u:.2f}" for h, u in zip(hits.tolist(), union.tolist(), strict=True)]
    assert [line[2] for line in per_class({"SWARD": [counted]}, store.classes)] == expected


def test_predictions_that_do_not_give_the_saved_metrics_are_told(compared, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.report.contents.space_charts", lambda *args: [])
    store = Store(compared.config.train.cache.store)
    shutil.copytree(compared.run("SWARD"), tmp_path / "run")
    for path in (tmp_path / "run/predictions").iterdir():
        with Image.open(path) as picture:
            Image.fromarray(1 - np.array(picture)).save(path)
    run = load_run(tmp_path / "run")
    lines = disagreements({"run": [run]}, {"run": [recount(store, run)]})
    assert any("dice is" in line and "by its predictions" in line for line in lines)
    text = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "by its predictions" in text
    assert "Recomputed" not in text


def test_cold_is_warm_and_the_extraction_shared_by_those_who_read_it(compared):
    rows = {label: [load_run(compared.run(label))] for label in ("teacher", "student alone", "SWARD")}
    for runs, seconds in zip(rows.values(), (10.0, 20.0, 30.0), strict=True):
        runs[0].facts["seconds"] = seconds
    lines = account(rows, {"seconds": 40.0})
    assert [line[2:5] for line in lines] == [
        ["10.0 s", "50.0 s", "30.0 s"],
        ["20.0 s", "20.0 s", "20.0 s"],
        ["30.0 s", "70.0 s", "50.0 s"],
    ]
    assert all(len(line) == len(HEADER) for line in lines)
    assert [line[3] for line in account(rows, None)] == ["–", "20.0 s", "–"]


def test_the_page_tells_what_the_extraction_took(compared):
    text = (compared.folder / "report.html").read_text()
    assert re.search(r"Extraction: [\d.]+ s for 17 records", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (99.94, "99.9 s"), (99.96, "1 min 40 s"), (3599, "59 min 59 s"), (12000, "3 h 20 min")],
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text
