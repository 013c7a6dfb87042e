"""Saved results are one experiment each: runs of one commit without uncommitted changes, and one set of versions."""

from pathlib import Path

import pytest

from pipeline.files import read_json
from pipeline.maintenance.saved_comparisons import has_cards, recomputed

RESULTS = Path(__file__).parents[2] / "results"
SAVED = sorted([*RESULTS.glob("*/comparison.json"), *RESULTS.glob("*/quality.json")])
WITH_CARDS = [file for file in SAVED if file.stem == "comparison" and has_cards(file)]


def runs(file):
    """run.json of every run of a saved comparison or quality curve."""
    found = read_json(file)
    rows = found.get("rows") or found["points"]
    return [read_json(file.parent / run["folder"] / "run.json") for row in rows for run in row["runs"]]


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.parent.name)
def test_all_runs_come_from_one_clean_commit_with_one_set_of_versions(file):
    facts = runs(file)
    assert len({run["commit"] for run in facts}) == 1
    assert not str(facts[0]["commit"]).endswith("-dirty")
    assert len({str(sorted(run["versions"].items())) for run in facts}) == 1
    assert len({run["threads"] for run in facts if "threads" in run}) <= 1


@pytest.mark.parametrize("file", WITH_CARDS, ids=lambda file: file.parent.name)
def test_a_saved_comparison_is_what_its_runs_give(file):
    assert recomputed(file) == read_json(file)


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.parent.name)
def test_every_run_is_finished(file):
    assert {run["status"] for run in runs(file)} == {"finished"}


@pytest.mark.parametrize("file", sorted(RESULTS.rglob("run.json")), ids=lambda file: file.parent.name)
def test_no_kept_run_names_a_folder_of_the_machine_that_made_it(file):
    places = [read_json(file).get("store", "")]
    assert not [place for place in places if str(place).startswith("/")]
