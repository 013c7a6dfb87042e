"""A comparison over folds: equal tuning, every image tested once a seed, copied masks, an external set."""

import json

import pytest
from pydantic import ValidationError
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.config import ConfigError
from pipeline.experiments.compare import compare
from pipeline.experiments.compare_config import CompareConfig
from pipeline.experiments.settings import with_settings
from pipeline.files import read_json
from pipeline.results.rows import Row
from pipeline.results.runs import load_run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    cache = tiny_cache(folder, split="folds", views={"count": 1, "seed": 0}, shard_records=3)
    other = tiny_cache(folder, store=str(folder / "other.zarr"), views={"count": 1, "seed": 0})
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
    tuning = read_json(config.folder / "tuning.json")
    assert tuning["fold"] == 0
    for label, found in tuning["rows"].items():
        assert len(found["trials"]) == 2
        best = max(found["trials"], key=lambda trial: trial["best_val"])
        assert found["chosen"] == best["settings"]
        run = next(row for row in comparison["rows"] if row["label"] == label)["runs"][0]
        settings = load_run(config.folder / run["folder"]).config
        if label == "KD":
            assert settings.method.weight == found["chosen"]["method.weight"]
        else:
            assert settings.optimizer.lr == found["chosen"]["optimizer.lr"]
        assert settings.steps == (3 if label == "longer" else 2)


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
            assert len(found["per_image"]) == 3
        assert row["external"]["other"]["dice"]["n"] == 2


def test_the_copied_masks_are_a_row_without_a_difference(comparison):
    row = comparison["rows"][-1]
    assert row["difference"] is None
    assert 0 <= row["metrics"]["dice"]["mean"] <= 1


def test_the_same_command_again_trains_nothing(config, comparison):
    before = {p: p.stat().st_mtime_ns for p in config.folder.parent.parent.glob("runs/*/run.json")}
    compare(config)
    assert {p: p.stat().st_mtime_ns for p in before} == before


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
