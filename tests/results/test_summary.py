"""Means, intervals and counts against independent implementations and the files they come from."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from pipeline.files import read_json
from pipeline.results.differences import bootstrap_interval, difference, t_interval
from pipeline.results.rows import Row
from pipeline.results.runs import RunError, load_run, load_student
from pipeline.results.summary import over_seeds, summarise


@pytest.mark.parametrize("values", [[0.1, 0.3], [0.02, -0.01, 0.05], [0.5, 0.4, 0.45, 0.42, 0.39]])
def test_the_seed_interval_is_scipys_t_interval(values):
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_one_seed_has_no_interval_and_no_deviation():
    assert t_interval([0.3]) is None
    assert over_seeds([0.3]) == {"mean": 0.3, "sd": None, "n": 1}


def test_mean_and_deviation_are_the_textbook_ones():
    found = over_seeds([0.1, 0.4, 0.7])
    assert (found["mean"], found["sd"]) == pytest.approx((0.4, math.sqrt((0.09 + 0 + 0.09) / 2)))


def test_an_undefined_metric_stays_undefined():
    assert over_seeds([0.1, math.nan]) == {"mean": None, "sd": None, "n": 2}


def test_the_image_interval_is_close_to_scipys_bootstrap():
    x = np.random.default_rng(0).normal(0.03, 0.1, 60)
    expected = stats.bootstrap(
        (x,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # Two Monte-Carlo estimates of one percentile: 5000 resamples leave about 2 % of the interval's width each.
    width = expected.high - expected.low
    assert bootstrap_interval(x) == pytest.approx([expected.low, expected.high], abs=0.08 * width)


def test_the_image_interval_is_deterministic_and_shifts_with_the_data():
    x = np.random.default_rng(2).normal(size=20)
    low, high = bootstrap_interval(x)
    assert bootstrap_interval(x.copy()) == [low, high]
    assert bootstrap_interval(x + 1) == pytest.approx([low + 1, high + 1])


def test_the_difference_is_that_of_the_evaluation_files(compared):
    pairs = [[compared.run(label, i) for i in (0, 1)] for label in ("SWARD", "student alone")]
    own, base = ([read_json(f / "evaluation.json") for f in folders] for folders in pairs)
    per_seed = [a["metrics"]["dice"] - b["metrics"]["dice"] for a, b in zip(own, base, strict=True)]
    found = next(row for row in compared.json["rows"] if row["label"] == "SWARD")["difference"]
    assert found["per_seed"] == pytest.approx(per_seed)
    assert found["mean"] == pytest.approx(sum(per_seed) / 2)
    by_image = [
        sum(e["per_image"][i]["dice"] for e in own) / 2 - sum(e["per_image"][i]["dice"] for e in base) / 2
        for i in range(3)
    ]
    assert found["images"] == bootstrap_interval(np.array(by_image))


def test_parameters_are_those_that_learn(compared):
    student, _ = load_student(compared.run("SWARD"))
    count = 0
    for p in student.parameters():
        count += math.prod(p.shape)
    rows = {row["label"]: row for row in compared.json["rows"]}
    assert rows["SWARD"]["parameters"] == rows["student alone"]["parameters"] == count
    assert rows["student alone"]["adapter_parameters"] == 0 < rows["SWARD"]["adapter_parameters"]


def test_seconds_are_those_of_the_runs(compared):
    for row in compared.json["rows"]:
        seconds = [run["seconds"] for run in row["runs"]]
        assert row["seconds"] == pytest.approx(sum(seconds))


def test_rows_of_other_seeds_are_not_paired(compared):
    runs = [load_run(compared.run("SWARD", i)) for i in (0, 1)]
    with pytest.raises(RunError, match="different seeds"):
        difference(Row("a", "b", tuple(runs)), Row("b", None, tuple(reversed(runs))), "dice")


def test_runs_of_two_stores_are_never_summarised_together(compared, tmp_path):
    import shutil

    from pipeline.files import write_json

    shutil.copytree(compared.run("SWARD"), tmp_path / "run")
    write_json(tmp_path / "run" / "run.json", read_json(tmp_path / "run" / "run.json") | {"content_id": "0" * 64})
    rows = [Row(str(f), None, (load_run(f),)) for f in (compared.run("student alone"), tmp_path / "run")]
    with pytest.raises(RunError, match="content id"):
        summarise("mixed", rows)


def test_per_image_values_are_matched_by_name_not_by_place():
    from pipeline.results.rows import image_means

    def run(values):
        return SimpleNamespace(per_image=lambda metric: values)

    assert image_means([run({"b": 2.0, "a": 1.0}), run({"a": 3.0, "b": 4.0})], "dice").tolist() == [2.0, 3.0]


def test_runs_that_read_different_heads_do_not_make_one_table(compared):
    runs = [load_run(compared.run(label)) for label in ("student alone", "SWARD")]
    of_head = [replace(run, facts=run.facts | {"sources": {"head": str(i) * 64}}) for i, run in enumerate(runs)]
    rows = [Row(label, None, (run,)) for label, run in zip("ab", of_head, strict=True)]
    with pytest.raises(RunError, match=r"2 different teacher heads \(000000000000, 111111111111\)"):
        summarise("mixed", rows)
