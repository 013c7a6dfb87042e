"""The page loads nothing, shows the comparison's own numbers, escapes what it shows, and survives a lost store."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.files import write_json
from pipeline.results.figures import draw, series, signal_curves
from pipeline.results.report import write_report
from pipeline.results.runs import RunError, load_run
from pipeline.results.table import cells, header

LOADING = ("src", "href", "xlink:href", "srcset", "poster", "data", "action")


class Page(HTMLParser):
    """Addresses, images, ids and the cells of tables with an id."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.images, self.ids, self.tags = [], [], set(), []
        self.tables, self._table, self._cell = {}, None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.addresses += [values[name] for name in LOADING if name in values]
        self.ids |= {values["id"]} if "id" in values else set()
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


def test_the_page_loads_nothing_from_anywhere(text):
    addresses = Page(text).addresses
    assert [a for a in addresses if not a.startswith(("data:", "#"))] == []
    urls = re.findall(r"url\(([^)]*)\)", text)
    assert [u for u in urls if not u.strip("'\"").startswith("#")] == []
    assert not {"script", "iframe", "object"} & set(Page(text).tags)
    assert "@import" not in text


def test_links_inside_the_page_have_targets(text):
    page = Page(text)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= page.ids


def test_every_image_is_embedded_and_described(text):
    images = Page(text).images
    assert len(images) == 5 * (2 + 3)  # five places; image, truth, teacher, student alone, SWARD
    assert all(i["src"].startswith("data:image/jpeg;base64,") and i["alt"] for i in images)


def test_the_tables_numbers_are_those_of_comparison_json(compared, text):
    head, *lines = Page(text).tables["results"]
    assert head[1:] == header(compared.json)[1:]
    assert lines == cells(compared.json)
    for row, line in zip(compared.json["rows"], lines, strict=True):
        assert float(line[1].split(" ± ")[0]) == pytest.approx(100 * row["metrics"]["dice"]["mean"], abs=0.0051)
        assert int(line[-3].replace(",", "")) == row["parameters"]


def test_the_page_is_accessible_in_structure(text):
    page = Page(text)
    assert page.tags.count("h1") == page.tags.count("main") == 1
    assert page.tags.count("caption") == page.tags.count("table") >= 2
    assert text.count("<svg") == text.count('<svg role="img" aria-label=') >= 2
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_page_is_small(text):
    assert len(text.encode()) < 2_000_000  # five tiny images a row; the bound for real ones is 15 MB


def test_what_is_shown_is_escaped(compared, tmp_path):
    folder = tmp_path / "deep" / "er" / "comparison"
    shutil.copytree(compared.folder, folder)
    comparison = compared.json
    comparison["name"] = comparison["rows"][2]["label"] = "<script>alert(1)</script>"
    for row in comparison["rows"]:
        for run in row["runs"]:
            run["folder"] = str((compared.folder / run["folder"]).resolve())
    write_json(folder / "comparison.json", comparison)
    text = write_report([folder], tmp_path / "page.html").read_text()
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;alert(1)" in text


def test_the_store_and_the_way_to_reproduce_are_told(compared, text):
    assert compared.json["content_id"] in text
    assert f"sward compare {compared.folder}/config.yaml" in text
    assert f"torch {compared.json['versions']['torch']}" in text


def test_single_runs_have_a_page_too(compared, tmp_path, capsys):
    runs = [str(compared.run("student alone")), str(compared.run("SWARD", 1))]
    assert main(["report", *runs, "--out", str(tmp_path / "page.html")]) == 0
    page = Page((tmp_path / "page.html").read_text())
    assert [line[0] for line in page.tables["results"][1:]] == [Path(run).name for run in runs]
    assert len(page.images) == 5 * 4


def test_without_the_store_the_page_says_so_and_shows_the_rest(compared, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(compared.run("SWARD"), run)
    store = compared.config.train.cache.store
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(store, str(tmp_path / "gone.zarr")))
    text = write_report([run], tmp_path / "page.html").read_text()
    assert "The store could not be opened: no feature store at" in text
    assert Page(text).images == []


def test_a_comparison_is_not_mixed_with_runs(compared, tmp_path):
    with pytest.raises(RunError, match="give one comparison, or run folders only"):
        write_report([compared.folder, compared.run("SWARD")], tmp_path / "page.html")


def test_curves_are_the_logged_values(compared):
    runs = [load_run(compared.run("SWARD", i)) for i in (0, 1)]
    for (steps, values), run in zip(series(runs, "val/dice"), runs, strict=True):
        assert steps == [2, 4]
        assert max(values) == run.facts["best_val"]


def test_only_methods_with_a_signal_have_signal_curves(compared):
    assert "entropy of the teacher's relations" in signal_curves([load_run(compared.run("SWARD"))])
    assert signal_curves([load_run(compared.run("student alone"))]) is None


def test_figures_are_a_function_of_their_data():
    panels = {"loss": {"$a$ 漢": [([1, 2, 3], [3.0, 2.0, 1.0])], "nothing": [([], [])]}}
    assert draw(panels) == draw(panels)
    assert "currentColor" in draw(panels)
