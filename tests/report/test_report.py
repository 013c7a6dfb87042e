"""The page loads nothing, shows the comparison's own numbers, escapes what it shows, and survives what is missing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.cli import main
from pipeline.files import locked, read_json, write_json
from pipeline.report.report import write_report
from pipeline.results.details_table import details_cells, details_header
from pipeline.results.results_table import cells, header
from pipeline.results.runs import RunError
from pipeline.training.loop import train

LOADING = ("src", "href", "xlink:href", "srcset", "poster", "data", "action")


class Page(HTMLParser):
    """Addresses, images, ids and the cells of tables with an id."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.images, self.ids, self.tags = [], [], [], []
        self.tables, self._table, self._cell = {}, None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.addresses += [values[name] for name in LOADING if name in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img":
            self.images.append(values)
        if tag == "table":
            self._table = self.tables.setdefault(values.get("id", f"table-{len(self.tables)}"), [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._table[-1].append(self._cell)
            self._cell = None


@pytest.fixture(scope="module")
def text(compared):
    return (compared.folder / "report.html").read_text()


@pytest.fixture
def no_space(monkeypatch):
    """t-SNE is most of the time that a page takes."""
    monkeypatch.setattr("pipeline.report.contents.space_charts", lambda *args: [])


def test_the_page_loads_nothing_from_anywhere(text):
    addresses = Page(text).addresses
    assert [a for a in addresses if not a.startswith(("data:", "#"))] == []
    urls = re.findall(r"url\(([^)]*)\)", text)
    assert [u for u in urls if not u.strip("'\"").startswith("#")] == []
    assert not {"iframe", "object"} & set(Page(text).tags)
    assert Page(text).tags.count("script") == 1
    assert "default-src 'none'; img-src data:" in text
    assert "@import" not in text


def test_links_inside_the_page_have_targets(text):
    page = Page(text)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)


def test_every_image_is_embedded_and_described(text):
    pictures = [i for i in Page(text).images if "layer" not in i.get("class", "")]
    layers = [i for i in Page(text).images if "layer" in i.get("class", "")]
    assert len(pictures) == 3 * (2 + 3) * 2  # three test images: image, truth and three rows, as examples and Grad-CAM
    assert all(i["src"].startswith("data:image/jpeg;base64,") and i["alt"] for i in pictures)
    assert len(layers) == 3 * (1 + 3 * 2) + 3  # the truth has one, a prediction two
    assert all(i["src"].startswith("data:image/png;base64,") and i["alt"] == "" for i in layers)


def test_the_tables_numbers_are_those_of_comparison_json(compared, text):
    head, *lines = Page(text).tables["results"]
    assert head[1:] == header(compared.json)[1:]
    assert lines == cells(compared.json)
    for row, line in zip(compared.json["rows"], lines, strict=True):
        assert float(line[1].split(" ± ")[0]) == pytest.approx(100 * row["metrics"]["dice"]["mean"], abs=0.0051)
        assert int(line[head.index("parameters")].replace(",", "")) == row["parameters"]


def test_the_second_table_is_what_the_mean_hides(compared, text):
    head, *lines = Page(text).tables["details"]
    assert head[1:] == details_header(compared.json)[1:]
    assert lines == details_cells(compared.json)


def test_the_page_is_accessible_in_structure(text):
    page = Page(text)
    assert page.tags.count("h1") == page.tags.count("main") == 1
    assert page.tags.count("caption") == page.tags.count("table") >= 2
    assert text.count("<svg") == text.count('<svg role="img" aria-label=') + text.count('<svg aria-hidden="true"') > 9
    assert len(page.ids) == len(set(page.ids))
    assert "color-scheme: light dark" in text
    assert "@media print" in text


def test_the_page_is_small(text):
    assert len(text.encode()) < 2_000_000  # five tiny images a row; the bound for real ones is 15 MB


def test_what_is_shown_is_escaped(compared, no_space, tmp_path):
    folder = tmp_path / "deep" / "er" / "comparison"
    shutil.copytree(compared.folder, folder)
    comparison = compared.json
    comparison["name"] = comparison["rows"][2]["label"] = "<script>alert(1)</script>"
    for row in comparison["rows"]:
        for run in row["runs"]:
            run["folder"] = str((compared.folder / run["folder"]).resolve())
    write_json(folder / "comparison.json", comparison)
    text = write_report([folder], tmp_path / "page.html").read_text()
    assert Page(text).tags.count("script") == 1
    assert "&lt;script&gt;alert(1)" in text


def test_the_store_and_the_way_to_reproduce_are_told(compared, text):
    assert compared.json["content_id"] in text
    assert f"sward compare {compared.folder}/config.yaml" in text
    assert f"torch {compared.json['versions']['torch']}" in text


def test_single_runs_have_a_page_too(compared, no_space, tmp_path, capsys):
    runs = [str(compared.run("student alone")), str(compared.run("SWARD", 1))]
    assert main(["report", *runs, "--out", str(tmp_path / "page.html")]) == 0
    page = Page((tmp_path / "page.html").read_text())
    assert [line[0] for line in page.tables["results"][1:]] == [Path(run).name for run in runs]
    assert len([i for i in page.images if "layer" not in i.get("class", "")]) == 3 * 4 * 2


def test_without_the_store_the_page_says_so_and_shows_the_rest(compared, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(compared.run("SWARD"), run)
    store = compared.config.train.cache.store
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(store, str(tmp_path / "gone.zarr")))
    text = write_report([run], tmp_path / "page.html").read_text()
    assert "The store could not be opened: no feature store at" in text
    assert Page(text).images == []


def test_with_more_than_two_classes_wrong_pixels_and_every_class_have_colours(tmp_path, no_space):
    cache = tiny_cache(tmp_path)
    card = tmp_path / "tiny/card.yaml"
    text = card.read_text().replace("[background, polyp]", "[road, car, sky]").replace("1: 1}", "1: 1, 2: 2}")
    card.write_text(text)
    for path in (tmp_path / "tiny/masks").iterdir():
        with Image.open(path) as mask:
            label = np.array(mask)
        label[:20] = 2
        Image.fromarray(label).save(path)
    extract(cache)
    text = write_report([train(tiny_train(tmp_path, cache, steps=2))], tmp_path / "page.html").read_text()
    assert "wrong class" in text
    assert all(f">{name}</span>" in text for name in ("car", "sky"))
    assert [line[0] for line in Page(text).tables["per-class"][1:]] == ["road", "car", "sky"]
    assert "Recomputed from the saved predictions of every run, class mIoU, mAcc agree." in text


def test_runs_that_are_not_one_experiment_are_said_above_the_result(compared, no_space, tmp_path):
    file = compared.folder / "comparison.json"
    saved = file.read_text()
    try:
        write_json(file, json.loads(saved) | {"mixed": ["2 commits (a, b)"]})
        text = write_report([compared.folder], tmp_path / "page.html").read_text()
    finally:
        file.write_text(saved)
    above = text.partition('<section id="result"')[0]
    assert "the runs come from 2 commits (a, b); run sward compare --fresh." in above


def test_a_comparison_is_not_mixed_with_runs(compared, tmp_path):
    with pytest.raises(RunError, match="give one comparison, or run folders only"):
        write_report([compared.folder, compared.run("SWARD")], tmp_path / "page.html")


def stopped(run, tmp_path, steps=2):
    """A copy of a run as a kill leaves it: a torn log, a student of its first validation, no result."""
    folder = tmp_path / "stopped"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "predictions")
    (folder / "evaluation.json").unlink()
    facts = read_json(folder / "run.json")
    write_json(folder / "run.json", {k: v for k, v in facts.items() if k != "test"} | {"status": "running"})
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= steps]
    (folder / "metrics.jsonl").write_text("\n".join(kept) + '\n{"step": 3, "lo')
    return folder


def test_an_interrupted_run_has_a_page_with_its_curves_and_how_it_goes_on(compared, tmp_path):
    folder = stopped(compared.run("SWARD"), tmp_path)
    text = write_report([folder], tmp_path / "page.html").read_text()
    assert "stopped at step 2 of 4, best validation mDice" in text
    named = folder.with_name(compared.run("SWARD").name)  # the folder that its configuration names
    assert f"continue it: mv {folder} {named}" in text
    assert f"sward train {named}/config.yaml" in text
    assert "No run is finished yet" in text
    assert text.count('<svg role="img"') >= 4
    assert compared.json["content_id"] in text
    with locked(folder):
        assert "running, step 2 of 4" in write_report([folder], tmp_path / "page.html").read_text()


def test_a_run_that_was_stopped_before_its_first_line_has_a_page(compared, tmp_path):
    folder = stopped(compared.run("SWARD"), tmp_path)
    for name in ("metrics.jsonl", "student.json", "student.safetensors"):
        (folder / name).unlink()
    text = write_report([folder], tmp_path / "page.html").read_text()
    assert "stopped at step 0 of 4, not validated yet" in text


def test_a_folder_of_runs_shows_finished_and_unfinished_ones_together(compared, no_space, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(compared.run("student alone"), runs / "done")
    stopped(compared.run("SWARD"), runs)
    text = write_report([runs], tmp_path / "page.html").read_text()
    assert [line[0] for line in Page(text).tables["results"][1:]] == ["done"]
    assert "stopped: stopped at step 2 of 4" in text
    assert 'id="show-1"' in text


def test_figures_and_tables_are_written_for_papers_and_the_page_is_the_same_again(compared, text, tmp_path):
    out = ["--out", str(tmp_path / "page.html"), "--figures", str(tmp_path / "figures")]
    assert main(["report", str(compared.folder), *out]) == 0
    assert (tmp_path / "page.html").read_text() == text
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    stems = {"examples", "activation", "curve-loss", "per-image", "difference", "confusion-sward", "space-teacher"}
    assert {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")} <= names
    assert {
        f"{stem}.{kind}" for stem in ("results", "cost-account", "per-class") for kind in ("md", "csv", "tex")
    } <= names
    with Image.open(tmp_path / "figures/curve-loss.png") as picture:
        assert picture.width > 1200
    latex = (tmp_path / "figures/results.tex").read_text()
    assert r"\toprule" in latex
    assert r"mDice \%" in latex
    assert latex.count(r" \\") == 4


def test_a_run_without_predictions_has_a_page_without_its_pictures(compared, no_space, tmp_path):
    shutil.copytree(compared.run("SWARD"), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "predictions")
    text = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "Recomputed" not in text
    assert Page(text).tables["results"]


def test_a_profiled_runs_parts_are_a_table_of_the_page(compared, no_space, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(compared.run("SWARD"), folder)
    parts = [{"part": "forward: student", "ms": 30.0, "share": 0.75}, {"part": "optimiser", "ms": 10.0, "share": 0.25}]
    write_json(folder / "profile.json", {"undisturbed_ms": 41.0, "parts": parts})
    page = Page(write_report([folder], tmp_path / "report.html").read_text())
    assert [row[1:] for row in page.tables["profile"]][1:] == [["30.0 ms, 75 %"], ["10.0 ms, 25 %"]]
