"""Answer of a comparison, for a report's first screen: one sentence and one chart, from saved statistics alone.

Which row is better, by how much, how sure that is, and what it costs.
"""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from pipeline.report.charts import COLOURS, Chart, plain, tag
from pipeline.report.metric_charts import name_rows
from pipeline.results.results_table import interval, is_paired, points
from sward.metrics.names import NAMES

VERDICTS = ("better", "worse", "equivalent", "not distinguishable")
MARGIN = 1.25  # of the largest plotted value, to the edge of the axis
Rows = list[tuple[int, dict[str, Any]]]  # number and contents of the rows that have a baseline


def verdict(row: dict[str, Any]) -> str:
    """The saved verdict; without one, better or worse only if both saved intervals lie on that side of zero."""
    difference = row["difference"]
    if "verdict" in difference:
        return str(difference["verdict"])
    known = [difference["seeds"], difference["images"]]
    if all(bounds and bounds[0] > 0 for bounds in known):
        return "better"
    return "worse" if all(bounds and bounds[1] < 0 for bounds in known) else "not distinguishable"


def answer(comparison: dict[str, Any]) -> str:
    """One sentence about all rows that have a baseline; empty without one."""
    rows = [row for row in comparison["rows"] if row["difference"]]
    if len(rows) < 2:
        return sentence(rows[0]) if rows else ""
    counts = Counter(map(verdict, rows))
    said = [f"{counts[word]} {'is' if counts[word] == 1 else 'are'} {word}" for word in VERDICTS if counts[word]]
    bases = " or ".join(dict.fromkeys(row["baseline"] for row in rows))
    top = max(rows, key=lambda row: row["difference"]["mean"])
    return f"Of {len(rows)} rows compared with {bases}, {', '.join(said)} with these runs. Largest: {sentence(top)}"


def sentence(row: dict[str, Any]) -> str:
    """Difference, intervals, verdict and cost of one row."""
    difference, said = row["difference"], verdict(row)
    relation = {"equivalent": "equivalent to", "not distinguishable": "not distinguishable from"}
    runs = " with these runs" if said == "not distinguishable" else ""
    return (
        f"{row['label']} is {relation.get(said, f'{said} than')} {row['baseline']}{runs}: "
        f"{points(difference['mean'])} points of {NAMES[difference['metric']]} ({certainty(difference)}){cost(row)}."
    )


def certainty(difference: dict[str, Any]) -> str:
    """The 95 % intervals in words, and which there is none of."""
    if "paired" in difference:
        return f"95 % interval {interval(difference['paired']['interval'])}"
    missing = {"images": "too few images for an interval over them", "seeds": "one seed says nothing about others"}
    over = {"images": "images", "seeds": f"{len(difference['per_seed'])} seeds"}
    known = [f"over {over[name]} {interval(difference[name])}" for name in missing if difference[name]]
    said = [f"95 % interval {', '.join(known)}"] if known else []
    return "; ".join([*said, *(text for name, text in missing.items() if not difference[name])])


def cost(row: dict[str, Any]) -> str:
    """Cost in training and in use, as far as it was measured."""
    ratio = (row.get("cost") or {}).get("relative")
    return f", at {ratio:.2f} times the time of a training step and no extra cost in use" if ratio else ""


def answer_chart(comparison: dict[str, Any]) -> Chart | None:
    """Chart of the differences in points, the baseline as the zero line; None without a baseline."""
    rows = [(i, row) for i, row in enumerate(comparison["rows"]) if row["difference"]]
    if not rows:
        return None
    bases = " or ".join(dict.fromkeys(row["baseline"] for _, row in rows))
    thick = (
        "Bar: 95 % interval" if is_paired(comparison) else "Bars: 95 % intervals, thick over images, thin over seeds"
    )
    title = f"{NAMES[comparison['headline']]} against {bases} (the zero line)"
    note = (
        f"Diamond: mean; filled: distinguishable, hollow: not distinguishable with these runs. {thick}; "
        "an arrow: it goes on. Ticks: one per seed."
    )
    told = "; ".join(f"{row['label']} {points(row['difference']['mean'])}, {verdict(row)}" for _, row in rows)
    paint, height = partial(paint_answer, rows=rows), 0.75 + (0.42 if len(rows) < 9 else 0.24) * len(rows)
    return Chart(
        "difference", title, paint, size=(4.6, height), note=note, told=f"Difference to {bases} in points: {told}."
    )


def paint_answer(axes: Any, rows: Rows) -> None:
    """One line per row: intervals, mean and a tick per seed; what reaches beyond the axis ends in an arrow."""
    edge = MARGIN * limit(rows)
    for y, (i, row) in enumerate(rows):
        difference, colour = row["difference"], COLOURS[i % len(COLOURS)]
        paired = difference.get("paired", {}).get("interval")
        for name, bounds, width in (
            ("seeds", None if paired else difference["seeds"], 1.2),
            ("images", paired or difference["images"], 3.5),
        ):
            if bounds:
                paint_interval(axes, 100 * np.array(bounds), y, edge, {"color": colour, "linewidth": width}, (i, name))
        ticks = np.multiply(100, difference["per_seed"])
        (seeds,) = axes.plot(ticks, [y] * len(ticks), "|", color=colour, markersize=13)
        inside = "none" if verdict(row) == "not distinguishable" else colour
        (mean,) = axes.plot([100 * difference["mean"]], [y], "D", color=colour, markerfacecolor=inside, markersize=7)
        tag(seeds, i, "ticks")
        tag(mean, i, "mean")
    axes.axvline(0, linewidth=1, linestyle="--", color=COLOURS[-1])
    name_rows(axes, [f"{plain(row['label'])[:24]}  {points(row['difference']['mean'])}" for _, row in rows])
    axes.set_xlim(-edge, edge)
    axes.set_xlabel(f"points of {NAMES[rows[0][1]['difference']['metric']]}")


def paint_interval(
    axes: Any, bounds: np.ndarray, y: int, edge: float, look: dict[str, Any], part: tuple[int, str]
) -> None:
    """A line between two bounds, cut at the edges of the axis, with an arrow where it is cut."""
    shown = bounds.clip(-edge, edge)
    (line,) = axes.plot(shown, [y, y], alpha=0.65, **look)
    tag(line, *part)
    for end, full, arrow in zip(shown, bounds, "<>", strict=True):
        if end != full:
            (mark,) = axes.plot([end], [y], arrow, color=look["color"], markersize=5, clip_on=False)
            tag(mark, *part, "beyond")


def limit(rows: Rows) -> float:
    """Largest value to be seen whole, in points: means, seeds and intervals over images, not those over few seeds."""
    differences = [row["difference"] for _, row in rows]
    values = [value for d in differences for value in (d["mean"], *d["per_seed"], *(d["images"] or ()))]
    return max(0.1, 100 * float(np.abs(values).max()))
