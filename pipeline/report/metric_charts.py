"""Charts of evaluation metrics: differences with confidence intervals, per-image values, confusion matrices."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline.report.charts import COLOURS, Chart, plain, slug, tag
from pipeline.results.results_table import is_paired
from pipeline.results.rows import Row, image_means
from pipeline.results.runs import SavedRun
from sward import seeds
from sward.metrics.names import NAMES

ROW_INCHES = 0.42
SPREAD = 0.25  # largest random offset of a dot, as a fraction of the distance between two rows


def difference_chart(comparison: dict[str, Any]) -> Chart | None:
    """Chart of differences to the baseline: mean, 95 % interval over images, one mark per seed; None without one."""
    rows = [(i, row) for i, row in enumerate(comparison["rows"]) if row["difference"]]
    if not rows:
        return None
    name = NAMES[comparison["headline"]]
    over = "sequences and trainings" if is_paired(comparison) else "images"
    title = f"Δ {name} to the baseline, points: mean, 95 % interval over {over}, one mark per seed"
    return Chart("difference", title, partial(paint_differences, rows=rows), size=rows_size(len(rows)))


def paint_differences(axes: Any, rows: list[tuple[int, dict[str, Any]]]) -> None:
    for y, (i, row) in enumerate(rows):
        d, colour = row["difference"], COLOURS[i % len(COLOURS)]
        if interval := d["paired"]["interval"] if "paired" in d else d["images"]:
            (line,) = axes.plot(np.multiply(100, interval), [y, y], color=colour, linewidth=3, alpha=0.6)
            tag(line, i, "interval")
        (mean,) = axes.plot([100 * d["mean"]], [y], "D", color=colour, markersize=6)
        (dots,) = axes.plot(np.multiply(100, d["per_seed"]), [y] * len(d["per_seed"]), "|", color=colour, markersize=12)
        tag(mean, i, "mean")
        tag(dots, i, "seeds")
    axes.axvline(0, linewidth=1, linestyle=":", color=COLOURS[-1])
    name_rows(axes, [row["label"] for _, row in rows])
    axes.set_xlabel("points")


def ranking_chart(comparison: dict[str, Any]) -> Chart | None:
    """Chart of mean ranks over sequences with Nemenyi's critical difference (Demsar, JMLR 2006); None without ranks."""
    found = comparison.get("ranking")
    if not found:
        return None
    title = (
        f"Mean rank over {found['blocks']} sequences (1 is best; Friedman p = {found['p']:.3f}); rows nearer than the "
        f"critical difference of {found['critical']:.2f} are not distinguishable"
    )
    return Chart("ranking", title, partial(paint_ranks, found=found), size=rows_size(len(found["labels"])))


def paint_ranks(axes: Any, found: dict[str, Any]) -> None:
    """Marks a rank per row with half the critical difference on both sides: overlapping rows are not told apart."""
    half = found["critical"] / 2
    for i, rank in enumerate(found["ranks"]):
        colour = COLOURS[i % len(COLOURS)]
        (line,) = axes.plot([rank - half, rank + half], [i, i], color=colour, linewidth=3, alpha=0.6)
        (mark,) = axes.plot([rank], [i], "D", color=colour, markersize=6)
        tag(line, i, "interval")
        tag(mark, i, "mean")
    name_rows(axes, found["labels"])
    axes.set_xlabel("mean rank")


def distribution_chart(rows: Mapping[str, Sequence[SavedRun]], metric: str) -> Chart:
    """Chart of per-image values averaged over seeds: one dot per image, and a box from quartile to quartile."""
    title = f"{NAMES[metric].removeprefix('m')} of every image, seeds averaged"
    values = {label: 100 * image_means(Row(label, None, tuple(runs)).by_seed, metric) for label, runs in rows.items()}
    return Chart("per-image", title, partial(paint_distributions, values=values), size=rows_size(len(rows), 0.6))


def paint_distributions(axes: Any, values: dict[str, np.ndarray]) -> None:
    for i, (label, x) in enumerate(values.items()):
        defined, colour = x[np.isfinite(x)], COLOURS[i % len(COLOURS)]
        y = i + SPREAD * (2 * seeds.uniforms(len(defined), "jitter", label) - 1)
        (dots,) = axes.plot(defined, y, "o", color=colour, markersize=3, alpha=0.55, markeredgewidth=0)
        tag(dots, i, "dots")
        if len(defined):
            box = axes.boxplot(defined, positions=[i], orientation="horizontal", widths=0.6, showfliers=False)
            parts = [line for lines in box.values() for line in lines]
            for n, line in enumerate(parts):
                line.set(color=colour, linewidth=1.4)
                tag(line, i, "box", n)
    name_rows(axes, list(values))
    axes.set_xlabel("%")
    axes.grid(axis="x", alpha=0.25)


def name_rows(axes: Any, labels: list[str]) -> None:
    """Labels the rows on the vertical axis, the first on top."""
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, pad=9)  # beyond the arrow of an interval that goes on


def rows_size(rows: int, inches: float = ROW_INCHES) -> tuple[float, float]:
    """Size in inches, (width, height), of a chart with this many rows."""
    return 5.6, 0.8 + inches * rows


def confusion_chart(label: str, row: int, confusion: np.ndarray, classes: Sequence[str]) -> Chart:
    """Chart of a confusion matrix (row = ground truth), in per cent of the pixels of each class."""
    side = 1.8 + 0.26 * len(classes)
    paint = partial(paint_confusion, confusion=confusion, classes=classes)
    return Chart(
        f"confusion-{slug(label)}", f"Confusion of {label}, % of a class's pixels", paint, (side + 0.9, side), row
    )


def paint_confusion(axes: Any, confusion: np.ndarray, classes: Sequence[str]) -> None:
    from matplotlib.colors import ListedColormap, to_rgba

    share = 100 * confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    shades = ListedColormap([to_rgba(COLOURS[0], alpha) for alpha in np.linspace(0, 1, 101)])
    axes.pcolormesh(share, cmap=shades, vmin=0, vmax=100, edgecolors=(0.5, 0.5, 0.5, 0.3), linewidth=0.5)
    size, digits = (10, 1) if len(classes) < 6 else (5, 0)
    for (i, j), value in np.ndenumerate(share):
        if value >= 0.5 or len(classes) < 6:
            text = axes.text(j + 0.5, i + 0.5, f"{value:.{digits}f}", ha="center", va="center", fontsize=size)
            if value > 80:  # the cell is dark in both themes
                text.set_color("white")
    places = np.arange(len(classes)) + 0.5
    axes.set_xticks(places, [plain(c) for c in classes], rotation=90 if len(classes) > 3 else 0)
    axes.set_yticks(places, [plain(c) for c in classes])
    axes.set(xlabel="predicted", ylabel="ground truth", aspect="equal")
    axes.invert_yaxis()
    axes.tick_params(length=0)
