"""Charts show what was logged, are a function of their data, and are readable on both pages."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.report.charts import COLOURS, DASHES, look, slug
from pipeline.report.curves import learning_curves, line_chart, paint_lines, series, term_curves
from pipeline.report.figure_files import write_files
from pipeline.report.metric_charts import confusion_chart, distribution_chart
from pipeline.report.table_formats import Table
from pipeline.report.tsne import plane, sample_pixels
from pipeline.results.runs import load_run


def test_curves_are_the_logged_values(compared):
    runs = [load_run(compared.run("SWARD", i)) for i in (0, 1)]
    for (steps, values), run in zip(series(runs, "val/dice"), runs, strict=True):
        assert steps == [2, 4]
        assert max(values) == run.facts["best_val"]


def test_validation_is_charted_in_per_cent_as_in_the_tables(compared):
    run = load_run(compared.run("SWARD"))
    (chart,) = (c for c in learning_curves({"SWARD": [run]}, "dice") if c.title == "validation mDice %")
    (shown,) = (values for _, values in chart.paint.keywords["lines"]["SWARD"])
    assert max(shown) == 100 * run.facts["best_val"]


def test_only_methods_with_terms_of_their_own_have_signal_charts(compared):
    titles = {chart.title for chart in term_curves("SWARD", 2, [load_run(compared.run("SWARD"))])}
    assert {"entropy of the teacher's relations", "share of the gradient", "unweighted terms"} <= titles
    assert term_curves("student alone", 1, [load_run(compared.run("student alone"))]) == []


def test_what_belongs_to_a_row_can_be_switched_off(compared):
    rows = {label: [load_run(compared.run(label))] for label in ("teacher", "student alone", "SWARD")}
    for chart in (*learning_curves(rows, "dice"), distribution_chart(rows, "dice")):
        assert all(f'class="row{i}"' in chart.svg for i in range(3))


def test_charts_of_labels_that_a_file_name_cannot_tell_apart_are_files_of_their_own(tmp_path):
    labels = ["C", "C++", "教师", "学生", "row", "row 2"]
    charts = [line_chart(f"x-{slug(label)}", f"chart {i}", {}) for i, label in enumerate(labels)]
    write_files(tmp_path, charts, [], {})
    names = {f.stem for f in tmp_path.glob("x-*.svg")}
    assert names == {"x-c", "x-c-2", "x-row", "x-row-2", "x-row-3", "x-row-2-2"}
    assert (tmp_path / "x-c.svg").read_bytes() != (tmp_path / "x-c-2.svg").read_bytes()


def test_charts_are_a_function_of_their_data():
    lines = {"$a$ 漢": [([1, 2, 3], [3.0, 2.0, 1.0])], "nothing": [([], [])], "_<b>": [([1], [2.0])]}
    chart = line_chart("x", "a <title>", lines, (("$a$ 漢", 0), ("_<b>", 2)))
    assert chart.svg == chart.svg
    assert "currentColor" in chart.svg
    assert 'aria-label="a &lt;title&gt;"' in chart.svg
    assert "<b>" not in chart.svg


def test_the_axis_of_a_short_run_has_whole_steps():
    axes = Figure().subplots()
    paint_lines(axes, {"student alone": [([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0])]}, own=True)
    ticks = axes.get_xticks()
    assert len(ticks) > 3
    assert all(float(tick).is_integer() for tick in ticks)


def test_many_rows_look_different_and_stand_out_from_both_pages():
    assert len({tuple(look(i).values()) for i in range(len(COLOURS) * len(DASHES))}) == 28
    for colour in COLOURS:
        for page in ("#ffffff", "#0f1318"):
            bright, dark = sorted((luminance(colour), luminance(page)), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 3  # WCAG 1.4.11, graphical objects


def luminance(colour):
    """WCAG's relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


@pytest.mark.parametrize("classes", [2, 19])
def test_a_confusion_chart_says_the_shares_of_each_class(classes):
    confusion = np.eye(classes, dtype=int) * 75 + 25 * np.eye(classes, k=1, dtype=int)
    svg = confusion_chart("row", 0, confusion, [f"class {i}" for i in range(classes)]).svg
    assert svg.count(">75") == classes - 1
    assert svg.count(">25") == classes - 1


def test_pixels_are_sampled_equally_from_every_class_and_never_where_ignored():
    label = np.zeros((40, 60), np.uint8)
    label[:20, :30], label[20:, 30:] = 1, 255
    pixels, classes = sample_pixels([label, label])
    assert np.bincount(classes).tolist() == [200, 200]
    i, y, x = (pixels * (1, 40, 60)).round().astype(int).T
    assert (label[y, x] == classes).all()
    assert set(i) == {0, 1}


@pytest.mark.parametrize("count", [2, 5, 40])
def test_few_or_equal_points_still_have_a_plane(count):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, 8)).astype(np.float32)
    assert plane(points).shape == (count, 2)
    assert np.isfinite(plane(np.ones((count, 8), np.float32))).all()
    assert (plane(points) == plane(points.copy())).all()


def test_separate_classes_stay_separate_in_the_plane():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(m, 0.1, (60, 8)) for m in (0, 3)]).astype(np.float32)
    found = plane(points)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1) + np.eye(120) * 1e9
    assert (distances.argmin(1) // 60 == np.arange(120) // 60).all()


def test_latex_escapes_what_latex_would_read():
    table = Table("t", "", "50 % & more", ["", "Δ_x"], [["a\\b", "1 ± 2"]])
    assert r"a\textbackslash{}b & 1 $\pm$ 2 \\" in table.latex
    assert r"\caption{50 \% \& more}" in table.latex
    assert r" & $\Delta$\_x \\" in table.latex
    assert table.csv == ",Δ_x\na\\b,1 ± 2\n"


def test_what_is_not_logged_yet_has_no_chart():
    runs = [SimpleNamespace(log=[{"step": 1, "loss": 2.0, "val/dice": None}])]
    assert [chart.title for chart in learning_curves({"a": runs}, "dice")] == ["total loss"]
