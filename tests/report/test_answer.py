"""The sentence and the chart of a report's first screen say what the saved statistics say, and no more."""

import json
from pathlib import Path

import pytest

from pipeline.drawing.masks import FALSE, HIT, MISSED
from pipeline.report.answer import answer, answer_chart, verdict
from pipeline.report.charts import COLOURS

RESULTS = Path(__file__).resolve().parents[2] / "results"
UP, DOWN, ACROSS = [0.01, 0.03], [-0.03, -0.01], [-0.01, 0.03]


def saved(name):
    return json.loads((RESULTS / name / "comparison.json").read_text())


@pytest.mark.parametrize(
    ("seeds", "images", "said"),
    [
        (UP, UP, "better"),
        (DOWN, DOWN, "worse"),
        (UP, ACROSS, "not distinguishable"),
        (ACROSS, UP, "not distinguishable"),
        (None, UP, "not distinguishable"),  # one seed
    ],
)
def test_a_row_is_better_only_if_both_intervals_say_so(seeds, images, said):
    assert verdict({"difference": {"seeds": seeds, "images": images}}) == said


def test_the_verdict_of_a_paired_comparison_is_the_saved_one():
    for row in saved("methods-all-clinicdb-cpu")["rows"]:
        if row["difference"]:
            assert verdict(row) == row["difference"]["verdict"]


def one_row():
    """The quickstart's comparison with a difference and a cost of the test's own."""
    comparison = saved("quickstart")
    row = next(row for row in comparison["rows"] if row["difference"])
    row["difference"] |= {"mean": 0.0307, "images": [0.004, 0.0582], "seeds": [-0.5972, 0.6586]}
    row["cost"] = {"relative": 1.37}
    return comparison


def test_one_row_is_answered_with_its_difference_its_intervals_and_its_cost():
    assert answer(one_row()) == (
        "SWARD is not distinguishable from student alone with these runs: +3.07 points of mDice "
        "(95 % interval over images +0.40 … +5.82, over 2 seeds -59.72 … +65.86), "
        "at 1.37 times the time of a training step and no extra cost in use."
    )


@pytest.mark.parametrize(
    ("images", "seeds", "said"),
    [
        (None, ACROSS, "(95 % interval over 2 seeds -1.00 … +3.00; too few images for an interval over them)"),
        (UP, None, "(95 % interval over images +1.00 … +3.00; one seed says nothing about others)"),
        (None, None, "(too few images for an interval over them; one seed says nothing about others)"),
    ],
)
def test_an_interval_that_there_is_not_is_said_and_not_drawn_as_a_dash(images, seeds, said):
    comparison = one_row()
    next(row for row in comparison["rows"] if row["difference"])["difference"] |= {"images": images, "seeds": seeds}
    assert said in answer(comparison)


def test_many_rows_are_counted_and_none_is_praised_for_being_the_largest():
    text = answer(saved("methods-all-clinicdb-cpu"))
    assert text.startswith("Of 26 rows compared with student alone, 26 are not distinguishable with these runs")


def test_no_baseline_gives_no_answer():
    comparison = saved("quickstart")
    comparison["rows"] = comparison["rows"][:2]
    assert answer(comparison) == ""
    assert answer_chart(comparison) is None


def test_the_chart_tells_its_values_to_those_who_cannot_see_it():
    chart = answer_chart(one_row())
    assert 'aria-label="Difference to student alone in points: SWARD +3.07, not distinguishable.' in chart.svg


def test_colours_of_errors_are_no_rows():
    for colour in (HIT, MISSED, FALSE):
        for row in COLOURS:
            distance = sum(abs(a - b) for a, b in zip(colour, bytes.fromhex(row[1:]), strict=True))
            assert distance > 100, f"{colour} and {row}"
