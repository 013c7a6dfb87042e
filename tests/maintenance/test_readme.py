"""Tables of results in README and documentation are generated, never typed."""

import re
from pathlib import Path

import pytest

from pipeline.files import read_json
from pipeline.maintenance import figures, readme
from pipeline.report.report import write_report
from pipeline.results.runs import RunError

ROOT = Path(__file__).resolve().parents[2]


def test_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert {page.name for page in readme.pages()} >= {"README.md", "results.md", "quickstart.md"}
    for page in readme.pages():
        assert readme.regenerate(page.read_text(), ROOT / "results") == page.read_text()


def test_the_picture_shows_every_image_of_every_seed_once():
    saved = read_json(ROOT / figures.SAVED / "comparison.json")
    for label in (figures.ALONE, figures.DISTILLED):
        row = next(row for row in saved["rows"] if row["label"] == label)
        runs = [ROOT / figures.SAVED / run["folder"] / "evaluation.json" for run in row["runs"]]
        images = [image for run in runs for image in read_json(run)["per_image"]]
        by_sequence = figures.sequence_means(ROOT / figures.SAVED, label)
        assert len(images) == saved["images"] * len(row["seeds"])
        whole = sum(by_sequence[image["group"]] for image in images) / len(images)
        assert whole == pytest.approx(row["metrics"]["dice"]["mean"])


def test_a_short_table_has_the_columns_that_are_read_first(compared):
    text = "<!-- results:tiny short -->\n<!-- /results:tiny -->"
    made = readme.regenerate(text, compared.folder.parent)
    names = [cell.strip() for cell in made.splitlines()[1].split("|")]
    assert {"mDice %", "seeds", "Δ mDice"} <= set(names)
    assert not {"parameters", "peak MB", "reads"} & set(names)
    assert len(made.splitlines()) == 4 + len(compared.json["rows"])


def test_kept_results_have_no_weights_no_images_and_no_places_of_a_machine(compared, tmp_path, monkeypatch):
    root = Path(compared.config.out).parent
    monkeypatch.chdir(root)
    kept = readme.save_results(compared.folder, tmp_path / "results" / "tiny")
    files = [p for p in kept.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} == {".json", ".jsonl", ".csv", ".md", ".yaml"}
    assert [p for p in files if str(root) in p.read_text()] == []
    assert read_json(kept / "comparison.json")["rows"][0]["metrics"] == compared.json["rows"][0]["metrics"]


def test_kept_results_still_make_a_report(compared, tmp_path):
    kept = readme.save_results(compared.folder, tmp_path / "tiny")
    page = write_report([kept], tmp_path / "page.html").read_text()
    assert re.search(r"SWARD is (better than|worse than|not distinguishable from) student alone", page)


def test_a_marked_table_is_made_anew_and_the_rest_is_left(compared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = "# A\n<!-- results:tiny -->\nold | numbers\n<!-- /results:tiny -->\nafter\n"
    Path("README.md").write_text(before)
    readme.main([str(compared.folder)])
    text = Path("README.md").read_text()
    assert text.startswith("# A\n<!-- results:tiny -->\n| ")
    assert text.endswith("<!-- /results:tiny -->\nafter\n")
    assert (compared.folder / "comparison.md").read_text() in text
    assert "old | numbers" not in text
    assert readme.regenerate(text, tmp_path / "results") == text


def test_a_marker_without_results_or_without_end_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"nothing in .* for absent"):
        readme.regenerate("<!-- results:absent -->\n<!-- /results:absent -->", tmp_path)
    with pytest.raises(RunError, match=r"no closing .* for open"):
        readme.regenerate("<!-- results:open -->\ntext", tmp_path)


def test_only_comparisons_are_kept(tmp_path):
    with pytest.raises(RunError, match=r"has no comparison.json"):
        readme.save_results(tmp_path, tmp_path / "to")
