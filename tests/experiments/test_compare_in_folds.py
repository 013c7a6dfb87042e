"""A comparison over folds: equal tuning, every image tested once a seed, copied masks, an external set."""

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError
from statsmodels.stats.multitest import multipletests
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.cli import main
from pipeline.config import ConfigError
from pipeline.experiments.compare import compare
from pipeline.experiments.compare_config import CompareConfig
from pipeline.experiments.settings import with_settings
from pipeline.experiments.tune import tuning_folds
from pipeline.files import read_json, write_json
from pipeline.maintenance.kept_runs import keep, restore
from pipeline.results.captions import caption
from pipeline.results.details_table import details_cells, details_header
from pipeline.results.rows import Row
from pipeline.results.runs import load_run
from pipeline.results.summary import summarise
from pipeline.training.setup import open_store


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    cache = tiny_cache(folder, split="folds", views={"count": 1, "seed": 0}, shard_records=3)
    other = tiny_cache(folder, split="folds", store=str(folder / "other.zarr"), views={"count": 1, "seed": 0})
    extract(cache)
    extract(other)
    train = tiny_train(folder, cache, steps=2, signal_every=0, task={"dice": 1}, head={"epochs": 1})
    values = {
        "name": "study",
        "out": str(folder / "comparisons"),
        "train": train,
        "methods": {"student alone": {"kind": "plain"}, "longer": {"kind": "plain"}, "KD": {"kind": "kd"}},
        "changes": {"longer": {"steps": 3}},
        "tune": {
            "grid": {"optimizer.lr": [1e-3, 2e-3]},
            "rows": {"KD": {"method.weight": [1.0, 2.0]}},
        },
        "seeds": [0, 1],
        "folds": [0, 1, 2],
        "external": {"other": str(folder / "other.zarr")},
        "nearest": True,
    }
    return CompareConfig.model_validate(values)


@pytest.fixture(scope="module")
def comparison(config):
    text = compare(config)
    return read_json(config.folder / "comparison.json") | {"text": text}


def test_every_row_has_a_run_for_each_seed_and_fold(comparison):
    rows = {row["label"]: row for row in comparison["rows"]}
    assert list(rows) == ["student alone", "longer", "KD", "nearest mask, copied"]
    for label in ("student alone", "longer", "KD"):
        assert [(run["seed"], run["fold"]) for run in rows[label]["runs"]] == [(s, k) for s in (0, 1) for k in range(3)]
    assert comparison["images"] == 11


def test_every_image_is_tested_once_a_seed(config, comparison):
    row = comparison["rows"][0]
    runs = tuple(load_run(config.folder / run["folder"]) for run in row["runs"])
    for merged in Row("x", None, runs).by_seed:
        ids = [line["id"] for line in merged.evaluation["per_image"]]
        assert len(ids) == len(set(ids)) == 11
        mean = sum(line["dice"] for line in merged.evaluation["per_image"]) / 11
        assert merged.metrics["dice"] == pytest.approx(mean)


def test_every_row_was_tuned_with_as_many_trials_and_runs_what_validation_chose(config, comparison):
    for tuned in read_json(config.folder / "tuning.json")["tuned"]:
        for label, found in tuned["rows"].items():
            assert len(found["trials"]) == 2
            best = max(found["trials"], key=lambda trial: trial["best_val"])
            assert found["chosen"] == best["settings"]
            row = next(row for row in comparison["rows"] if row["label"] == label)
            runs = [
                load_run(config.folder / run["folder"]).config for run in row["runs"] if run["fold"] in tuned["for"]
            ]
            assert len(runs) == 2 * len(tuned["for"])
            for run in runs:
                value = run.method.weight if label == "KD" else run.optimizer.lr
                assert value == found["chosen"]["method.weight" if label == "KD" else "optimizer.lr"]
                assert run.steps == (3 if label == "longer" else 2)


def test_no_setting_is_chosen_on_images_that_it_is_tested_on(config, comparison):
    tuning = read_json(config.folder / "tuning.json")["tuned"]
    assert sorted(fold for tuned in tuning for fold in tuned["for"]) == config.folds
    store = open_store(config.train.model_copy(update={"fold": 0}))
    for tuned in tuning:
        chose = {record.id for record in store.of_fold(tuned["fold"]).records["val"]}
        for fold in tuned["for"]:
            assert chose.isdisjoint(record.id for record in store.of_fold(fold).records["test"])


def test_one_fold_chooses_for_all_but_the_fold_that_tests_its_validation_images():
    assert tuning_folds(None, [0, 1, 2, 3, 4], 5) == {0: [0, 2, 3, 4], 1: [1]}
    assert tuning_folds(4, [0, 1, 2, 3, 4], 5) == {4: [1, 2, 3, 4], 0: [0]}
    assert tuning_folds(None, [2], 5) == {2: [2]}
    assert tuning_folds(None, [], 0) == {None: [None]}


def test_a_difference_has_one_interval_a_corrected_p_and_a_verdict(comparison):
    for row in comparison["rows"][1:3]:
        found = row["difference"]
        low, high = found["paired"]["interval"]
        assert low <= found["mean"] <= high
        assert found["holm"] >= found["paired"]["p"]
        assert found["verdict"] in ("better", "worse", "equivalent", "not distinguishable")
    assert set(comparison["ranking"]["labels"]) == {"student alone", "longer", "KD"}
    assert "after Holm's correction" in comparison["text"]


def test_every_run_was_tested_on_the_external_set(config, comparison):
    for row in comparison["rows"][:3]:
        for run in row["runs"]:
            found = json.loads((config.folder / run["folder"] / "external-other.json").read_text())
            assert len(found["per_image"]) == 11
        assert row["external"]["other"]["dice"]["n"] == 2


def test_differences_on_the_external_set_are_corrected_beside_those_on_the_own_images(config, comparison):
    compared, p = comparison["rows"][1:3], []
    for row in compared:
        found = row["external_difference"]["other"]
        mean, base = (one["external"]["other"]["dice"]["mean"] for one in (row, comparison["rows"][0]))
        assert found["mean"] == pytest.approx(mean - base)
        p.append(found["paired"]["p"])
    own = [row["difference"]["paired"]["p"] for row in compared]
    expected = multipletests([*own, *p], method="holm")[1][2:]
    assert [row["external_difference"]["other"]["holm"] for row in compared] == pytest.approx(list(expected))
    assert "; on other " in comparison["text"]


def test_the_copied_masks_are_a_row_without_a_difference(comparison):
    row = comparison["rows"][-1]
    assert row["difference"] is None
    assert 0 <= row["metrics"]["dice"]["mean"] <= 1


@pytest.mark.usefixtures("without_report")
def test_the_same_command_again_trains_nothing(config, comparison):
    before = {p: p.stat().st_mtime_ns for p in config.folder.parent.parent.glob("runs/*/run.json")}
    compare(config)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_the_power_of_the_saved_runs_is_told_and_more_seeds_find_less(config, capsys):
    file = config.folder / "config.yaml"
    assert main(["compare", str(file), "--plan", "20"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| KD")]
    now, found, later, planned = (float(cell) for cell in lines[0].split("|")[2:6])
    assert later <= now
    assert planned <= found
    assert found > now


def test_a_second_table_tells_missed_lesions_sizes_boundaries_calibration_and_the_external_set(config, comparison):
    assert details_header(comparison)[-4:] == ["other mDice %", "other Δ", "other 95 % CI", "other p (Holm)"]
    lines = {line[0]: line for line in details_cells(comparison)}
    assert set(lines) == {"student alone", "longer", "KD", "nearest mask, copied"}
    row = comparison["rows"][0]
    runs = [load_run(config.folder / run["folder"]) for run in row["runs"]]
    images = [line for run in runs for line in run.evaluation["per_image"] if line["size"] > 0]
    missed = sum(line["dice"] == 0 for line in images) / len(images)
    assert lines["student alone"][1] == f"{100 * missed:.1f}"
    calibration = [sum(r.metrics["ece"] * len(r.evaluation["per_image"]) for r in runs[k : k + 3]) / 11 for k in (0, 3)]
    assert lines["student alone"][7].startswith(f"{100 * sum(calibration) / 2:.2f}")
    assert " ECE % |" in (config.folder / "comparison.md").read_text()


def test_kept_results_continue_on_another_machine_without_weights_and_give_the_same_numbers(
    config, comparison, tmp_path
):
    runs = config.folder.parent.parent / "runs"
    kept, elsewhere = tmp_path / "kept", tmp_path / "runs"
    assert keep(runs, kept) == len(list(runs.glob("*/run.json")))
    assert keep(runs, kept) == 0
    assert {file.parent.name.split("-")[0] for file in kept.glob("*/student.safetensors")} == {"teacher"}
    restore(kept, elsewhere)
    before = {p: p.stat().st_mtime_ns for p in elsewhere.glob("*/*")}
    train = config.train.model_copy(update={"runs": str(elsewhere)})
    text = compare(config.model_copy(update={"train": train, "out": str(tmp_path / "out")}))
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "no report: 18 of 18 runs have results but no student.safetensors" in text
    again = read_json(tmp_path / "out/study/comparison.json")
    for row, same in zip(comparison["rows"], again["rows"], strict=True):
        for name in ("metrics", "difference", "parameters", "strata", "external"):
            assert row.get(name) == same.get(name)


@pytest.mark.usefixtures("without_report")
def test_fresh_sets_aside_what_another_commit_made_and_trains_it_again(config, comparison):
    run = config.folder / comparison["rows"][0]["runs"][0]["folder"]
    facts = read_json(run / "run.json")
    write_json(run / "run.json", facts | {"commit": "abc"})
    before = sorted(p.name for p in run.parent.iterdir())
    compare(config, fresh=True)
    assert read_json(run / "run.json")["commit"] == facts["commit"]
    assert sorted({p.name for p in run.parent.iterdir()} - set(before)) == [f"{run.name}.before-abc"]
    assert read_json(run.with_name(f"{run.name}.before-abc") / "run.json")["commit"] == "abc"


def test_a_table_of_several_commits_says_so_first(config, comparison):
    rows = tuple(
        Row(r["label"], None, tuple(load_run(config.folder / x["folder"]) for x in r["runs"]))
        for r in comparison["rows"][:2]
    )
    other = replace(rows[1].runs[0], facts=rows[1].runs[0].facts | {"commit": "abc-dirty", "threads": 99})
    mixed = summarise("mixed", [rows[0], Row("other", None, (other, *rows[1].runs[1:]))])
    text = caption(mixed)
    assert text.startswith("Not one experiment: the runs come from 2 commits (")
    assert "uncommitted changes (abc-dirty)" in text
    assert "2 numbers of threads" in text
    assert "sward compare --fresh" in text


def test_unequal_tuning_is_refused(config):
    values = config.model_dump(mode="json")
    values["tune"]["rows"] = {"KD": {"method.weight": [1.0, 2.0, 3.0]}}
    with pytest.raises(ValidationError, match=r"different numbers of trials.*'KD': 3"):
        CompareConfig.model_validate(values)


def test_a_setting_that_does_not_exist_is_refused(config):
    with pytest.raises(ConfigError, match=r"(?s)row x with .*weigth: unknown key"):
        with_settings(config.train, {"method.weigth": 1}, "x")
    with pytest.raises(ConfigError, match=r"steps\.more is no setting, for steps is no group"):
        with_settings(config.train, {"steps.more": 1}, "x")


def test_a_changed_student_keeps_the_head_of_the_others(config):
    changed = with_settings(config.train, {"optimizer.lr": 0.5, "batch_size": 2}, "x")
    assert changed.head_run().folder == config.train.head_run().folder
